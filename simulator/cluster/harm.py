"""What other jobs cost a batch job: the same trace with and without them, paired job by job.

Backfill is chaotic: a few seconds at one submission move thousands of starts. So the harm stands beside a null, the
same trace without the other jobs but with submissions jittered by seconds; only what goes beyond it is harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from simulator.cluster.jobs import JobRecord, JobState
from simulator.cluster.model import Arrival

SHORTEST_RUN_S = 10.0
"""Shorter runs count as this long, as is usual (Feitelson & Rudolph 1998): a second's wait is no harm to a job of a
second."""

SIZE_CLASSES = (1, 4, 16, 64)
"""Upper bounds of the classes, in GPUs; the last class has what is larger."""


def bounded_slowdown(wait_s: float, run_s: float) -> float:
    """max(1, (wait + run) / max(run, 10 s))."""
    return max(1.0, (wait_s + run_s) / max(run_s, SHORTEST_RUN_S))


def jittered(arrivals: Iterable[Arrival], jitter_s: float, rng: np.random.Generator) -> list[Arrival]:
    """The null's trace: each submission up to ``jitter_s`` seconds later, in order again."""
    moved = [replace(arrival, at=arrival.at + float(rng.uniform(0.0, jitter_s))) for arrival in arrivals]
    return sorted(moved, key=lambda arrival: arrival.at)


@dataclass(frozen=True, slots=True)
class Harm:
    """Of ``jobs`` batch jobs of one size class that ran in both runs.

    Delays are wait minus wait without the others, in seconds; a negative one started earlier; None for no jobs.
    Slowdowns are bounded, and means over the jobs. ``lost`` are jobs that ran only without the others: they never
    started, or were ended by a preemption or a failed node.
    """

    size: str
    jobs: int
    lost: int
    delay_mean_s: float | None = None
    delay_p50_s: float | None = None
    delay_p95_s: float | None = None
    delay_p99_s: float | None = None
    delayed_share: float | None = None
    slowdown_before: float | None = None
    slowdown_after: float | None = None


def harm(without: Iterable[JobRecord], with_others: Iterable[JobRecord]) -> list[Harm]:
    """By size class and over all, from the batch jobs' records of two runs; jobs are paired by their names."""
    before, after = _by_name(without), _by_name(with_others)
    found = []
    for label, names in (*_by_size(before), ("all", list(before))):
        pairs = [(before[name], after[name]) for name in names if _ran(before[name]) and _ran(after.get(name))]
        lost = sum(_ran(before[name]) and not _ran(after.get(name)) for name in names)
        if pairs or lost:
            found.append(_harm(label, pairs, lost))
    return found


def _by_name(records: Iterable[JobRecord]) -> dict[str, JobRecord]:
    found: dict[str, JobRecord] = {}
    for record in records:
        if record.request.name in found:
            raise ValueError(f"two batch jobs are named {record.request.name}; they cannot be paired")
        found[record.request.name] = record
    return found


def _by_size(records: Mapping[str, JobRecord]) -> Iterator[tuple[str, list[str]]]:
    bounds = (0, *SIZE_CLASSES, math.inf)
    for low, high in pairwise(bounds):
        label = f"over {low}" if high == math.inf else f"{low + 1}" if high == low + 1 else f"{low + 1} to {high}"
        yield label, [name for name, record in records.items() if low < _gpus(record) <= high]


def _gpus(record: JobRecord) -> int:
    return record.request.nodes * record.request.gpus


def _ran(record: JobRecord | None) -> bool:
    """It started, and was not ended for another's sake."""
    return (
        record is not None
        and record.started_at is not None
        and record.state not in (JobState.PREEMPTED, JobState.NODE_FAIL)
    )


def _harm(label: str, pairs: Sequence[tuple[JobRecord, JobRecord]], lost: int) -> Harm:
    if not pairs:
        return Harm(label, 0, lost)
    delays = np.array([_wait_s(after) - _wait_s(before) for before, after in pairs])
    p50, p95, p99 = (float(value) for value in np.quantile(delays, (0.5, 0.95, 0.99)))
    slowdowns = [np.mean([_slowdown(pair[run]) for pair in pairs]) for run in (0, 1)]
    return Harm(
        size=label,
        jobs=len(pairs),
        lost=lost,
        delay_mean_s=float(delays.mean()),
        delay_p50_s=p50,
        delay_p95_s=p95,
        delay_p99_s=p99,
        delayed_share=float((delays > 0).mean()),
        slowdown_before=float(slowdowns[0]),
        slowdown_after=float(slowdowns[1]),
    )


def _wait_s(record: JobRecord) -> float:
    """From its own submission, which the null's jitter moved."""
    assert record.started_at is not None
    return record.started_at - record.submitted_at


def _slowdown(record: JobRecord) -> float:
    assert record.started_at is not None
    return bounded_slowdown(_wait_s(record), record.ended_at - record.started_at)
