"""What one run of a sweep leaves: sums by day, so that any two runs of the same demand can be paired. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from broker.model.spec import ServiceObjective
from simulator.report.compare import target_changes
from simulator.report.gpu_hours import PhaseInterval, daily_gpu_hours
from simulator.report.slo import (
    HOUR_S,
    FirstTokenLimit,
    RequestTable,
    ServiceLevel,
    WorstWindow,
    attainment,
    daily,
    kept_in_time,
)
from simulator.report.summary import OUTCOMES, Latency, Outcome, Outcomes, ReplicaPoint, RunSummary

DAY_S = 24 * HOUR_S


@dataclass(frozen=True, slots=True)
class Worst:
    """The window with the least share in time: ``kept`` of ``arrivals`` from second ``begin_s`` on."""

    begin_s: float
    kept: int
    arrivals: int

    @property
    def share(self) -> float:
        return self.kept / self.arrivals


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run. ``kept``, ``arrived``, ``gpu_hours`` and ``days`` have one entry for each day of the demand. ``days``
    are the days' lengths, the last one with the tail: the same for all runs of a demand, so that a policy that is late
    does not spread its cost over the longer run."""

    kept: tuple[float, ...]
    arrived: tuple[float, ...]
    gpu_hours: tuple[float, ...]
    days: tuple[float, ...]
    worst_hour: Worst
    worst_five_minutes: Worst
    first_token: Latency
    inter_token: Latency
    end_to_end: Latency
    finished: int
    output_tokens: int
    peak_ready: int
    target_changes: int


def run_figures(
    summary: RunSummary, outcomes: Outcomes, objective: ServiceObjective, *, gpus: int, tail_s: float
) -> RunFigures:
    """The figures of a run to which at least one request came. ``gpus``: of one replica."""
    level = service_level(objective)
    table = request_table(outcomes)
    reached = attainment(table, [level])
    last_s = float(outcomes.arrival_s[-1])
    count = int(last_s // DAY_S) + 1
    kept, arrived = daily(outcomes.arrival_s, kept_in_time(table, [level]), count)
    hours = daily_gpu_hours(_intervals(summary.replicas, summary.duration_s, gpus), days=count)
    return RunFigures(
        kept=tuple(kept.tolist()),
        arrived=tuple(arrived.tolist()),
        gpu_hours=tuple(day.total for day in hours),
        days=(*(1.0 for _ in range(count - 1)), (last_s + tail_s) / DAY_S - (count - 1)),
        worst_hour=_worst(reached.worst_hour),
        worst_five_minutes=_worst(reached.worst_five_minutes),
        first_token=summary.time_to_first_token,
        inter_token=summary.inter_token,
        end_to_end=summary.end_to_end,
        finished=summary.requests.finished,
        output_tokens=summary.output_tokens,
        peak_ready=summary.peak_ready,
        target_changes=target_changes(summary),
    )


def service_level(objective: ServiceObjective) -> ServiceLevel:
    """The objective as limits by prompt length."""
    limits, limit_s = [], objective.first_token_s
    for longer in objective.longer_prompts:
        limits.append(FirstTokenLimit(longer.over_tokens, limit_s))
        limit_s = longer.first_token_s
    return ServiceLevel("all", (*limits, FirstTokenLimit(np.inf, limit_s)), objective.per_token_s)


def request_table(outcomes: Outcomes) -> RequestTable:
    """All requests in one class and of one tenant."""
    nobody = np.zeros(len(outcomes), np.int64)
    return RequestTable(
        arrival_s=outcomes.arrival_s,
        first_token_s=outcomes.first_token_s,
        end_s=outcomes.end_s,
        prompt_tokens=np.asarray(outcomes.prompt_tokens, np.int64),
        output_tokens=np.asarray(outcomes.output_tokens, np.int64),
        finished=outcomes.status == OUTCOMES.index(Outcome.FINISHED),
        level=nobody,
        tenant=nobody,
    )


def _intervals(points: Sequence[ReplicaPoint], duration_s: float, gpus: int) -> list[PhaseInterval]:
    """All replicas of a phase as one, between the points at which their number changes."""
    ends = [point.t_s for point in points[1:]] + [duration_s]
    return [
        PhaseInterval("", phase, point.t_s, end_s, gpus * count)
        for point, end_s in zip(points, ends, strict=True)
        for phase, count in point.phases.items()
        if end_s > point.t_s
    ]


def _worst(window: WorstWindow | None) -> Worst:
    assert window is not None, "a run with requests has a worst window"
    return Worst(window.begin_s, window.share.kept, window.share.arrivals)
