"""Decisions as rows: changes stand for themselves, what says the same between them is told once."""

from __future__ import annotations

from broker.model.plan import Decision, DecisionStep
from broker.model.spec import Mode
from simulator.report.document import DecisionCounts
from simulator.report.told import MOST_ROWS, decision_rows, shown


def decision(now: float, before: int, target: int, code: str, model_id: str = "chat") -> Decision:
    trail = (DecisionStep("policy", target, code, f"at {now}"),)
    return Decision(model_id, now, Mode.ACT, before, target, 1, code, f"{code} at {now}", "threshold", trail)


def test_between_two_changes_each_reason_is_one_row_with_the_words_of_the_first() -> None:
    made = [
        decision(1, 1, 1, "calm"), decision(2, 1, 1, "rearming"), decision(3, 1, 1, "calm"),
        decision(4, 1, 2, "queue"), decision(5, 2, 2, "calm"), decision(6, 2, 3, "queue"), decision(7, 3, 4, "queue"),
    ]  # fmt: skip
    rows = decision_rows(made, 0.0)
    assert [(row.t_s, row.until_s, row.count, row.code, row.before, row.target) for row in rows] == [
        (1, 3, 2, "calm", 1, 1), (2, 2, 1, "rearming", 1, 1), (4, 4, 1, "queue", 1, 2), (5, 5, 1, "calm", 2, 2),
        (6, 6, 1, "queue", 2, 3), (7, 7, 1, "queue", 3, 4),
    ]  # fmt: skip
    assert rows[0].words == "calm at 1"
    assert [row.trail for row in rows[1:3]] == [(), ("policy: 2, at 4",)]


def test_models_are_told_apart() -> None:
    rows = decision_rows([decision(1, 1, 1, "calm"), decision(2, 1, 1, "calm", "code")], 0.0)
    assert [(row.model_id, row.count) for row in rows] == [("chat", 1), ("code", 1)]


def test_a_page_has_the_changes_first_and_says_what_it_leaves_out() -> None:
    quiet = [decision(at, 1, 1, f"reason {at}") for at in range(MOST_ROWS)]
    moved = [decision(MOST_ROWS + at, at + 1, at + 2, "queue") for at in range(10)]
    rows = decision_rows([*quiet, *moved], 0.0)
    kept, counts = shown(rows, len(quiet) + len(moved))
    assert counts == DecisionCounts(MOST_ROWS + 10, 10, MOST_ROWS + 10, MOST_ROWS)
    assert [row.t_s for row in kept] == sorted(row.t_s for row in kept)
    assert sum(row.before != row.target for row in kept) == 10
