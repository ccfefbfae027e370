"""GPU-hours and what they went to, as ``docs/evaluation.md`` defines them. Pure.

A GPU counts from the time its pool allocates it (a job's start, a pod's scheduling) until that ends, whatever it does
in between: failed starts, the overlap of renewals, unused GPUs of nodes taken exclusively, and capacity withheld from
others by reservations, loans and dedicated nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite

import numpy as np

from broker.model.errors import InvariantViolated
from broker.model.replica import ReplicaPhase
from broker.model.spec import PoolSpec

_HOUR_S = 3600.0
_CONSERVATION = 9
_STARTING = frozenset({ReplicaPhase.STARTING, ReplicaPhase.LOADING})
_DRAINING = frozenset({ReplicaPhase.DRAINING, ReplicaPhase.STOPPING})
_UNALLOCATED = frozenset({ReplicaPhase.REQUESTED, ReplicaPhase.PENDING, ReplicaPhase.GONE, ReplicaPhase.FAILED})
"""A phase that is none of these serves: READY, and UNKNOWN, which is allocated until its pool says otherwise."""


def weight_of(pool: PoolSpec) -> float:
    """What an hour of one of its GPUs counts, beside those of other pools."""
    weight = pool.options.get("gpu_weight", 1.0)
    assert isinstance(weight, int | float)
    return float(weight)


@dataclass(frozen=True, slots=True)
class PhaseInterval:
    """One replica in one phase, from ``begin_s`` to ``end_s``. ``busy_s``: for how much of it something was computed
    (of a serving phase only). ``unused_gpus``: of its node, which nobody else can have. ``gpu_weight`` normalises where
    GPU types differ."""

    pool_id: str
    phase: ReplicaPhase
    begin_s: float
    end_s: float
    gpus: int
    busy_s: float = 0.0
    unused_gpus: int = 0
    gpu_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Holding:
    """GPUs of a pool kept from others between two times, by a reservation, a loan or as dedicated nodes. What the
    pool's replicas do not use of all its holdings is withheld."""

    pool_id: str
    begin_s: float
    end_s: float
    gpus: float
    gpu_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class GpuHours:
    """Weighted GPU-hours; the parts add up to ``total``."""

    busy: float = 0.0
    idle: float = 0.0
    starting: float = 0.0
    draining: float = 0.0
    withheld: float = 0.0

    @property
    def total(self) -> float:
        return self.busy + self.idle + self.starting + self.draining + self.withheld

    def __add__(self, other: GpuHours) -> GpuHours:
        return GpuHours(
            self.busy + other.busy,
            self.idle + other.idle,
            self.starting + other.starting,
            self.draining + other.draining,
            self.withheld + other.withheld,
        )


def gpu_hours(
    intervals: Sequence[PhaseInterval], holdings: Sequence[Holding] = (), *, begin_s: float = -inf, end_s: float = inf
) -> GpuHours:
    """All that was allocated between ``begin_s`` and ``end_s``. Busy time of an interval cut there is cut in
    proportion; intervals that end at the cut keep it exact.

    Raises ``InvariantViolated`` for an interval that runs backwards, does not end, or was busy for longer than it was.
    """
    parts = {"busy": 0.0, "idle": 0.0, "starting": 0.0, "draining": 0.0, "withheld": 0.0}
    for interval in intervals:
        _check(interval)
        hours = _overlap_s(interval, begin_s, end_s) / _HOUR_S * interval.gpu_weight
        if interval.phase in _UNALLOCATED or hours == 0.0:
            continue
        parts["withheld"] += hours * interval.unused_gpus
        if interval.phase in _STARTING:
            parts["starting"] += hours * interval.gpus
        elif interval.phase in _DRAINING:
            parts["draining"] += hours * interval.gpus
        else:
            busy = interval.busy_s / (interval.end_s - interval.begin_s)
            parts["busy"] += hours * interval.gpus * busy
            parts["idle"] += hours * interval.gpus * (1 - busy)
    parts["withheld"] += held_beyond_use(intervals, holdings, begin_s=begin_s, end_s=end_s)
    return GpuHours(**parts)


def held_beyond_use(
    intervals: Sequence[PhaseInterval], holdings: Sequence[Holding], *, begin_s: float = -inf, end_s: float = inf
) -> float:
    """GPU-hours that the ``holdings`` kept from others and that no replica of ``intervals`` used."""
    return sum(
        _withheld(
            [holding for holding in holdings if holding.pool_id == pool_id],
            [one for one in intervals if one.pool_id == pool_id and one.phase not in _UNALLOCATED],
            begin_s,
            end_s,
        )
        for pool_id in sorted({holding.pool_id for holding in holdings})
    )


def daily_gpu_hours(
    intervals: Sequence[PhaseInterval], holdings: Sequence[Holding] = (), *, days: int
) -> tuple[GpuHours, ...]:
    """By day of the run, from its second 0 on: a rate that had the warm-up in its numerator and not in its days would
    exceed what the GPUs can give. What was allocated after the last day belongs to it."""
    return tuple(gpu_hours(intervals, holdings, begin_s=begin, end_s=end) for begin, end in pairwise(day_edges(days)))


def day_edges(days: int) -> list[float]:
    """Second 0, the ends of all days but the last, and infinity."""
    return [0.0, *(day * 24 * _HOUR_S for day in range(1, days)), inf]


def _check(interval: PhaseInterval) -> None:
    length_s = interval.end_s - interval.begin_s
    if not (isfinite(length_s) and length_s >= 0):
        raise InvariantViolated(
            _CONSERVATION,
            f"a replica of {interval.pool_id} is {interval.phase} for {length_s} s; a run closes all phases",
        )
    if not 0 <= interval.busy_s <= length_s * (1 + 1e-9) + 1e-9:
        raise InvariantViolated(
            _CONSERVATION, f"a replica of {interval.pool_id} was busy for {interval.busy_s} s of {length_s} s"
        )


def _overlap_s(span: PhaseInterval | Holding, begin_s: float, end_s: float) -> float:
    return max(0.0, min(span.end_s, end_s) - max(span.begin_s, begin_s))


def _withheld(holdings: Sequence[Holding], replicas: Sequence[PhaseInterval], begin_s: float, end_s: float) -> float:
    """The integral of what is held beyond what is used, where there is such a surplus. One pool has one GPU type."""
    held = _steps([(one.begin_s, one.end_s, one.gpus) for one in holdings], begin_s, end_s)
    used = _steps([(one.begin_s, one.end_s, one.gpus + one.unused_gpus) for one in replicas], begin_s, end_s)
    changes = np.array([*held, *((at, -change) for at, change in used)])
    if not len(changes):
        return 0.0
    changes = changes[np.argsort(changes[:, 0], kind="stable")]
    surplus = np.maximum(0.0, np.round(np.cumsum(changes[:, 1]), 9))
    return float((surplus[:-1] * np.diff(changes[:, 0])).sum()) / _HOUR_S * holdings[0].gpu_weight


def _steps(spans: Iterable[tuple[float, float, float]], begin_s: float, end_s: float) -> list[tuple[float, float]]:
    """(time, change) of the number that the spans add up to within the limits."""
    cut = [(max(begin, begin_s), min(end, end_s), count) for begin, end, count in spans]
    return [step for begin, end, count in cut if end > begin for step in ((begin, count), (end, -count))]
