"""What one run of a sweep leaves: sums by day, so that any two runs of the same demand can be paired. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from simulator.report.compare import target_changes
from simulator.report.costs import daily_asked_hours
from simulator.report.facts import Facts
from simulator.report.gpu_hours import GpuHours
from simulator.report.recorder import DAY_S
from simulator.report.slo import FIVE_MINUTES_S, HOUR_S, WorstWindow
from simulator.report.summary import Latency, RunSummary


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
    does not spread its cost over the longer run. ``gpu_hours`` are those of the models that were asked, from second 0
    on; ``not_asked`` names the others. ``worst_hour`` and ``worst_five_minutes``: None of a run that is shorter.
    ``notes``: what else is to be known of it, as ``RunSummary`` has them."""

    kept: tuple[float, ...]
    arrived: tuple[float, ...]
    gpu_hours: tuple[GpuHours, ...]
    days: tuple[float, ...]
    worst_hour: Worst | None
    worst_five_minutes: Worst | None
    first_token: Latency
    inter_token: Latency
    end_to_end: Latency
    finished: int
    output_tokens: int
    peak_ready: int
    target_changes: int
    not_asked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_figures(facts: Facts, summary: RunSummary, *, tail_s: float) -> RunFigures:
    """The figures of a run to which at least one request came, over all its models."""
    kept, day = facts.kept, facts.day_of_arrival
    in_time, arrived = (np.bincount(day[rows], minlength=facts.days) for rows in (kept, slice(None)))
    return RunFigures(
        kept=tuple(in_time.astype(float).tolist()),
        arrived=tuple(arrived.astype(float).tolist()),
        gpu_hours=daily_asked_hours(facts),
        days=(*(1.0 for _ in range(facts.days - 1)), (facts.last_arrival_s + tail_s) / DAY_S - (facts.days - 1)),
        worst_hour=_worst(facts.worst_window(HOUR_S)),
        worst_five_minutes=_worst(facts.worst_window(FIVE_MINUTES_S)),
        first_token=summary.time_to_first_token,
        inter_token=summary.inter_token,
        end_to_end=summary.end_to_end,
        finished=summary.requests.finished,
        output_tokens=summary.output_tokens,
        peak_ready=summary.peak_ready,
        target_changes=target_changes(summary),
        not_asked=facts.not_asked,
        notes=summary.notes,
    )


def _worst(window: WorstWindow | None) -> Worst | None:
    return None if window is None else Worst(window.begin_s, window.share.kept, window.share.arrivals)


def worst_hour_of(runs: Iterable[RunFigures]) -> float | None:
    """The least share in time of any run's worst hour; None where none lasts an hour."""
    return min((run.worst_hour.share for run in runs if run.worst_hour is not None), default=None)
