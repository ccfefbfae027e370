"""Decisions for a reader: like ones in a row are one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from broker.model.plan import Decision
from simulator.report.document import DecisionCounts, DecisionRow

MOST_ROWS = 2000


def decision_rows(decisions: Iterable[Decision], started_at: float) -> list[DecisionRow]:
    """Each change of a target by itself; between two changes, what was decided for the same reason code together, with
    the words of the first. In order of their beginnings."""
    rows: list[DecisionRow] = []
    since_change: dict[str, dict[str, int]] = {}
    for decision in decisions:
        t_s = decision.now - started_at
        changes = decision.target != decision.before
        known = since_change.setdefault(decision.model_id, {})
        place = known.get(decision.code)
        if place is not None and not changes:
            rows[place] = replace(rows[place], until_s=t_s, count=rows[place].count + 1)
            continue
        if changes:
            known.clear()
        else:
            known[decision.code] = len(rows)
        trail = tuple(f"{step.stage}: {step.value}, {step.words}" for step in decision.trail) if changes else ()
        rows.append(
            DecisionRow(
                t_s, t_s, 1, decision.model_id, decision.before, decision.target, decision.code, decision.words,
                decision.policy, trail,
            )
        )  # fmt: skip
    return rows


def shown(rows: Sequence[DecisionRow], decisions: int) -> tuple[tuple[DecisionRow, ...], DecisionCounts]:
    """As many as a page bears, changes of targets before the rest, in order; and what that leaves out."""
    changes = [index for index, row in enumerate(rows) if row.before != row.target]
    others = [index for index, row in enumerate(rows) if row.before == row.target]
    kept = sorted([*changes[:MOST_ROWS], *others[: max(0, MOST_ROWS - len(changes))]])
    return tuple(rows[index] for index in kept), DecisionCounts(decisions, len(changes), len(rows), len(kept))
