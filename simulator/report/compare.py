"""Where two runs differ: the live one and the simulated one, or two policies. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.model.replica import ReplicaPhase
from simulator.report.summary import RunSummary


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both runs. ``relative`` is (second - first) / first, None where that has no meaning."""

    figure: str
    unit: str
    first: float | None
    second: float | None
    relative: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    first: str
    second: str
    differences: tuple[Difference, ...]


_FIGURES: tuple[tuple[str, str, Callable[[RunSummary], float | None]], ...] = (
    ("duration", "s", lambda run: run.duration_s),
    ("requests sent", "", lambda run: run.requests.sent),
    ("requests finished", "", lambda run: run.requests.finished),
    ("requests not finished", "", lambda run: run.requests.sent - run.requests.finished),
    ("output tokens", "", lambda run: run.output_tokens),
    ("TTFT P50", "s", lambda run: run.time_to_first_token.p50_s),
    ("TTFT P95", "s", lambda run: run.time_to_first_token.p95_s),
    ("TTFT P99", "s", lambda run: run.time_to_first_token.p99_s),
    ("inter-token P50", "s", lambda run: run.inter_token.p50_s),
    ("inter-token P95", "s", lambda run: run.inter_token.p95_s),
    ("inter-token P99", "s", lambda run: run.inter_token.p99_s),
    ("end to end P50", "s", lambda run: run.end_to_end.p50_s),
    ("end to end P95", "s", lambda run: run.end_to_end.p95_s),
    ("end to end P99", "s", lambda run: run.end_to_end.p99_s),
    ("ready replicas, peak", "", lambda run: run.peak_ready),
    ("replica-seconds ready", "replica-s", lambda run: run.replica_seconds.get(ReplicaPhase.READY, 0.0)),
    ("replica-seconds, all phases", "replica-s", lambda run: sum(run.replica_seconds.values())),
    ("changes of target", "", lambda run: target_changes(run)),
    ("first scale-out", "s", lambda run: first_change_s(run, upward=True)),
    ("first scale-in", "s", lambda run: first_change_s(run, upward=False)),
)


def compare(first: RunSummary, second: RunSummary) -> Comparison:
    """Every headline figure of both runs, side by side."""
    return Comparison(
        first.source,
        second.source,
        tuple(_difference(figure, unit, of(first), of(second)) for figure, unit, of in _FIGURES),
    )


def _difference(figure: str, unit: str, first: float | None, second: float | None) -> Difference:
    relative = None if first is None or second is None or first == 0 else (second - first) / first
    return Difference(figure, unit, first, second, relative)


def target_changes(run: RunSummary) -> int:
    """Decisions that moved a target."""
    return sum(decision.target != decision.before for decision in run.decisions)


def first_change_s(run: RunSummary, *, upward: bool) -> float | None:
    """When a target first rose (or fell), in seconds from the run's start."""
    for decision in run.decisions:
        if decision.target != decision.before and (decision.target > decision.before) == upward:
            return decision.now - run.started_at
    return None
