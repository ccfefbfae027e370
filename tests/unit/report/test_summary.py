"""A summary says what happened, exactly, in the same words for a live run and a simulated one."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import wire
from broker.model.plan import Decision
from broker.model.replica import ReplicaPhase
from broker.model.spec import Mode
from simulator.report.compare import compare
from simulator.report.summary import (
    LOAD_BINS,
    Latency,
    Outcome,
    Outcomes,
    ReplicaPoint,
    RequestOutcome,
    RunSummary,
    TraceCounts,
    compact,
    load_series,
    replica_seconds,
    summarise,
)

STARTED_AT = 1_700_000_000.0
READY, LOADING, DRAINING = ReplicaPhase.READY, ReplicaPhase.LOADING, ReplicaPhase.DRAINING

REQUESTS = [
    RequestOutcome(0.0, 100, 3, Outcome.FINISHED, 0.5, 2.0, array("d", [0.5, 1.0])),
    RequestOutcome(1.0, 200, 1, Outcome.CUT, 1.25, 3.0),
    RequestOutcome(2.0, 300, 0, Outcome.FAILED, None, 2.5),
    RequestOutcome(3.0, 400, 0, Outcome.REJECTED, None, 3.0),
    RequestOutcome(4.0, 500, 0, Outcome.UNFINISHED),
]
POINTS = [
    ReplicaPoint.of(0.0, [READY]),
    ReplicaPoint.of(2.0, [READY, LOADING]),
    ReplicaPoint.of(3.0, [READY, READY]),
    ReplicaPoint.of(8.0, [READY, DRAINING]),
    ReplicaPoint.of(9.0, [READY, ReplicaPhase.GONE]),
]


def decision(at_s: float, before: int, target: int, code: str = "queue_age", words: str = "too long") -> Decision:
    return Decision("chat", STARTED_AT + at_s, Mode.ACT, before, target, 0, code, words, "threshold", ())


DECISIONS = [decision(2.0, 1, 2), decision(3.0, 2, 2, "hold"), decision(8.0, 2, 1, "idle")]


def summary_of(**changes: object) -> RunSummary:
    whole = summarise(
        source="demo",
        started_at=STARTED_AT,
        duration_s=10.0,
        outcomes=Outcomes.of(REQUESTS),
        replicas=POINTS,
        decisions=DECISIONS,
        trace=TraceCounts(rows=7, failed=2, bad=1, window="..10m"),
        problems=["one request was cut"],
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_requests_are_counted_by_how_they_ended() -> None:
    counts = summary_of().requests
    assert (counts.sent, counts.finished, counts.failed, counts.cut) == (5, 1, 1, 1)
    assert (counts.rejected, counts.unfinished) == (1, 1)


def test_latencies_are_over_those_who_got_that_far() -> None:
    summary = summary_of()
    assert (summary.time_to_first_token.count, summary.time_to_first_token.max_s) == (2, 0.5)
    assert (summary.inter_token.count, summary.inter_token.mean_s) == (2, 0.75)
    assert (summary.end_to_end.count, summary.end_to_end.p50_s) == (1, 2.0)
    assert (summary.prompt_tokens, summary.output_tokens) == (1500, 4)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_are_exact(values: list[float]) -> None:
    latency = Latency.of(np.array(values))
    assert (latency.p50_s, latency.p95_s, latency.p99_s) == tuple(np.quantile(values, [0.5, 0.95, 0.99]))
    assert latency.max_s == max(values)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 5)), min_size=1))
def test_figures_of_counted_values_are_those_of_the_values_repeated(pairs: list[tuple[float, int]]) -> None:
    values, counts = np.array([value for value, _ in pairs]), np.array([count for _, count in pairs])
    counted, repeated = Latency.of_counted(values, counts), Latency.of(np.repeat(values, counts))
    assert (counted.count, counted.max_s) == (repeated.count, repeated.max_s)
    for name in ("mean_s", "p50_s", "p95_s", "p99_s"):
        assert getattr(counted, name) == pytest.approx(getattr(repeated, name), rel=1e-12)


def test_replicas_are_counted_by_phase_over_time() -> None:
    summary = summary_of()
    assert summary.replica_seconds == {LOADING: 1.0, READY: 2 + 1 + 2 * 5 + 1 + 1, DRAINING: 1.0}
    assert summary.peak_ready == 2
    assert summary.replicas[-1] == ReplicaPoint(9.0, {READY: 1})


def test_points_that_say_nothing_new_are_dropped_and_the_last_word_at_one_time_counts() -> None:
    points = [
        ReplicaPoint.of(0.0, [READY]),
        ReplicaPoint.of(1.0, [READY]),
        ReplicaPoint.of(2.0, [READY, LOADING]),
        ReplicaPoint.of(2.0, [READY]),
        ReplicaPoint.of(3.0, [LOADING]),
    ]
    assert compact(points) == (ReplicaPoint(0.0, {READY: 1}), ReplicaPoint(3.0, {LOADING: 1}))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=20))
def test_compacting_points_changes_no_replica_second(steps: list[tuple[float, int]]) -> None:
    points = [ReplicaPoint.of(at, [READY] * count) for at, count in sorted(steps)]
    assert replica_seconds(compact(points), 100.0).get(READY, 0.0) == pytest.approx(
        replica_seconds(points, 100.0).get(READY, 0.0)
    )


spans = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), max_size=30)


@given(spans)
def test_the_load_series_conserves_requests_and_their_time(times: list[tuple[float, float]]) -> None:
    outcomes = [RequestOutcome(at, 1, 1, Outcome.FINISHED, at, at + lasting) for at, lasting in times]
    series = load_series(Outcomes.of(outcomes), 100.0)
    assert sum(series.arrived) == len(outcomes)
    assert len(series.arrived) == len(series.in_flight) == LOAD_BINS
    under_way_s = sum(series.in_flight) * series.bin_s
    assert under_way_s == pytest.approx(sum(lasting for _, lasting in times), abs=0.1)


def test_an_empty_run_has_a_summary() -> None:
    summary = summarise(
        source="simulate",
        started_at=0.0,
        duration_s=0.0,
        outcomes=Outcomes.of([]),
        replicas=[],
        decisions=[],
        trace=None,
    )
    assert summary.requests.sent == 0
    assert summary.time_to_first_token == Latency(0)
    assert summary.replica_seconds == {}


def test_a_summary_travels_as_json_and_back() -> None:
    summary = summary_of()
    data = json.loads(json.dumps(wire.encode(summary), allow_nan=False))
    assert wire.decode(RunSummary, data) == summary
    assert data["requests"]["cut"] == 1
    assert data["decisions"][0]["words"] == "too long"
    assert data["replicas"][1] == {"t_s": 2.0, "phases": {"loading": 1, "ready": 1}}


def test_comparing_says_where_two_runs_differ() -> None:
    simulated = summary_of(source="simulate", output_tokens=5, decisions=tuple(DECISIONS[:1]))
    by_figure = {row.figure: row for row in compare(summary_of(), simulated).differences}
    assert by_figure["output tokens"].relative == 0.25
    assert (by_figure["changes of target"].first, by_figure["changes of target"].second) == (2, 1)
    assert (by_figure["first scale-out"].first, by_figure["first scale-out"].relative) == (2.0, 0.0)
    assert (by_figure["first scale-in"].first, by_figure["first scale-in"].second) == (8.0, None)
    assert by_figure["first scale-in"].relative is None
    assert by_figure["requests not finished"].second == 4
