"""The printed summary holds every figure, in colour only on a terminal and in ASCII where there is nothing else."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from broker.model.replica import ReplicaPhase
from simulator.report.compare import compare
from simulator.report.document import Interval
from simulator.report.render import partial_words, render, render_comparison, sparkline
from simulator.report.spread import Spread
from simulator.report.summary import Outcomes, Partial, RunSummary, summarise
from tests.unit.report.test_summary import decision, summary_of


def printed(
    summary: RunSummary, *, terminal: bool = False, encoding: str = "utf-8", width: int = 100,
    spread: Spread | None = None,
) -> str:  # fmt: skip
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    render(summary, Console(file=file, width=width, force_terminal=terminal, no_color=False), spread)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_everything_of_note_is_printed() -> None:
    text = " ".join(printed(summary_of()).split())
    for expected in (
        "5 requests sent, 1 finished, 1 failed, 1 cut, 1 rejected, 1 unfinished",
        "trace window ..10m: 7 rows, 2 failed where recorded (not replayed), rate x 1 -> 5 sent",
        "; 1 bad row skipped in the whole file",
        "time to first token",
        "P99",
        "replicas ready",
        "replica-seconds: loading 1.00 s, ready 15.00 s, draining 1.00 s",
        "3 decisions, 2 of them changes",
        "1 -> 2",
        "queue_age: too long",
        "PROBLEM: one request was cut",
    ):
        assert expected in text


def test_intervals_stand_below_the_quantiles_that_have_one() -> None:
    known, unknown = Interval(0.5, 2.25, 0.95, 1, 4, 1), Interval(None, None, 0.95, 1, 4, 1)
    spread = Spread("n = 1 seed (7), 4 day blocks", {"end_to_end": {"p50_s": known, "p95_s": unknown}})
    lines = printed(summary_of(), spread=spread).splitlines()
    assert "all figures: n = 1 seed (7), 4 day blocks" in lines
    [below] = [number for number, line in enumerate(lines) if "500.0 ms to 2.25 s" in line]
    assert "end to end" in lines[below - 1]
    assert lines[below].count(" to ") == 1


def test_colours_are_for_terminals() -> None:
    assert "\x1b[" in printed(summary_of(), terminal=True)
    assert "\x1b[" not in printed(summary_of())


def test_a_terminal_of_ascii_alone_is_served_too() -> None:
    assert "replicas ready" in printed(summary_of(), encoding="ascii")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_every_chart_is_whole_and_as_wide_as_the_others(width: int) -> None:
    """At 80 columns some were cut at their newest end and others folded, so that the same second stood apart."""
    lines = printed(summary_of(), width=width).splitlines()
    charts = [line for line in lines if "peak " in line]
    assert len(charts) == 5
    assert len({line.index("peak ") for line in charts}) == 1
    assert not any("…" in line for line in charts)
    assert all(line.strip()[0].isalpha() for line in lines[lines.index(charts[0]) : lines.index(charts[-1]) + 1])


def test_words_are_printed_as_they_are_not_as_markup() -> None:
    assert "[bold]x[/bold]" in printed(summary_of(decisions=(decision(1.0, 1, 2, words="[bold]x[/bold]"),)))


def test_decisions_that_say_the_same_share_a_line() -> None:
    text = printed(summary_of(decisions=tuple(decision(float(n), 2, 2, "hold") for n in range(5))))
    assert text.count("hold") == 1
    assert "and 4 times more" in text


def test_what_changes_no_target_shares_a_line_so_that_changes_are_seen() -> None:
    waiting = (decision(float(n), 2, 2, code) for n, code in enumerate(["rearming", "supply_on_its_way"] * 40))
    text = printed(summary_of(decisions=(*waiting, decision(90.0, 2, 3, "rule_scale_out"))))
    assert "79 times more, also supply_on_its_way" in " ".join(text.split())
    assert "2 -> 3" in text


def test_what_another_model_decides_in_between_does_not_part_what_says_the_same() -> None:
    between = [
        replace(decision(float(n), 1, 1, "hold"), model_id=model) for n in range(5) for model in ("chat", "embed")
    ]
    assert printed(summary_of(decisions=tuple(between))).count("and 4 times more") == 2


def test_decisions_before_the_trace_are_told_as_such() -> None:
    text = printed(summary_of(decisions=(decision(-120.0, 1, 1, "hold"), decision(3.0, 1, 2))))
    assert "warm-up: in the 2m before the trace" in text
    assert "-120" not in text
    assert "warm-up" not in printed(summary_of())


def test_replica_seconds_are_no_latency_and_have_one_unit() -> None:
    text = printed(summary_of(replica_seconds={ReplicaPhase.REQUESTED: 0.7413, ReplicaPhase.READY: 12345.6}))
    assert "replica-seconds: requested 0.74 s, ready 12,345.60 s" in text


def test_a_long_list_of_decisions_is_cut_with_a_word() -> None:
    many = tuple(decision(float(n), n % 3, n % 3 + 1) for n in range(100))
    assert "and 40 more" in printed(summary_of(decisions=many))


@pytest.mark.parametrize("duration_s", [0.0, 10.0])
def test_an_empty_run_can_be_printed(duration_s: float) -> None:
    empty = summarise(
        source="demo",
        started_at=0.0,
        duration_s=duration_s,
        outcomes=Outcomes.of([]),
        replicas=[],
        decisions=[],
        trace=None,
    )
    assert "0 requests sent" in printed(empty)


def test_a_comparison_shows_both_runs() -> None:
    comparison = compare(summary_of(), replace(summary_of(), source="simulate", output_tokens=5))
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        render_comparison(comparison, console)
    assert "demo against simulate" in capture.get()
    assert "+25.0%" in capture.get()


def test_a_comparison_keeps_its_table_beside_a_file_of_a_long_name() -> None:
    named = replace(compare(summary_of(), summary_of()), first=f"{'a' * 60}.json", second="this run")
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        render_comparison(named, console)
    assert f"{'a' * 15}... " in capture.get()
    assert "requests not finished" in capture.get()
    assert len(capture.get().splitlines()) < 30


@given(st.lists(st.floats(0, 1e9), max_size=200), st.integers(1, 80))
def test_a_sparkline_fits_its_width_and_hides_no_peak(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert (line.strip() != "") == any(value > 0 for value in values)
    if any(value > 0 for value in values):
        assert "█" in line


def test_models_that_nobody_asked_are_named_and_a_run_that_went_on_says_why() -> None:
    text = printed(replace(summary_of(), not_asked={"embed": 1, "code": 2}, drained_s=960.0))
    assert "embed: 1 replica, not asked: not counted here" in text
    assert "code: 2 replicas, not asked: not counted here" in text
    assert "ran on for 16m: requests were still open" in text
    assert "ran on" not in printed(summary_of())


@pytest.mark.parametrize(
    ("partial", "words"),
    [
        (Partial("simulating", -1.0, 600.0), "ended while warming up; nothing was replayed"),
        (Partial("simulating", 150.0, 600.0), "ended at 2m30s of 10m (25.0%)"),
        (Partial("simulating", 150.0, 0.0), "ended at 2m30s"),
        (
            Partial("simulating", 660.0, 600.0),
            "ended at 11m, when all of 10m had been replayed and requests were still open",
        ),
    ],
    ids=["in the warm-up", "in the middle", "of an endless load", "after its last arrival"],
)  # fmt: skip
def test_how_far_a_run_came_is_told(partial: Partial, words: str) -> None:
    assert partial_words(partial) == words
