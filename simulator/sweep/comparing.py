"""Policies side by side: each figure with its interval, and what is known of the differences. Pure.

Only what was asked the same and judged alike is compared; ``reasons_against`` says what stands against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from simulator.report.document import Interval, number
from simulator.statistics import (
    CostAt,
    Days,
    Estimate,
    Resampled,
    Resampling,
    SweepPoint,
    cost_at,
    cost_difference_at,
    difference,
    estimate,
    holm,
)
from simulator.sweep.ranking import EQUAL_ATTAINMENTS, stand_ins


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a subject. ``better``: higher, lower, or empty."""

    metric: Resampled
    unit: str
    better: str


@dataclass(frozen=True, slots=True)
class Subject:
    """One side of a comparison. ``asked``: what must be the same on all sides, in words by what it is. ``recorded``: a
    recorded trace was replayed. ``worst_hour``: the least share in time of any run's worst hour. ``curve``: the
    settings of its knob, if it was swept. ``not_asked``: models that ran and that nobody asked; no measure counts their
    GPUs. ``outcomes``: by seed all that came of its runs; equal where two seeds gave the same run."""

    name: str
    asked: Mapping[str, str]
    measures: Mapping[str, Measure]
    recorded: bool
    worst_hour: float | None = None
    curve: tuple[SweepPoint, ...] = ()
    not_asked: tuple[str, ...] = ()
    outcomes: Mapping[int, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Value:
    """A figure; ``value`` None where it does not exist."""

    value: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class Change:
    """How much more a subject has than the first; ``p`` is of "no more and no less", ``p_holm`` the same adjusted for
    all subjects that are compared in this figure."""

    value: float
    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure of all subjects, in their order; ``changes`` against the first, for all but it."""

    figure: str
    unit: str
    better: str
    values: tuple[Value, ...]
    changes: tuple[Change | None, ...]


@dataclass(frozen=True, slots=True)
class EqualRow:
    """GPU-hours a day at equal ``attainment``; None where a sweep does not reach it. ``at_most``: see ``CostAt``."""

    attainment: float
    values: tuple[Value | None, ...]
    at_most: tuple[bool, ...]
    changes: tuple[Change | None, ...]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """``seeds`` are those that all have, without those in ``same_run``, which on every side gave the same run as one of
    them. ``days``: what was resampled. ``not_asked``: each side's idle models."""

    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    days: Days
    level: float
    resamples: int
    resampling_seed: int
    figures: tuple[FigureRow, ...]
    worst_hours: tuple[float | None, ...]
    equal: tuple[EqualRow, ...]
    not_asked: tuple[tuple[str, ...], ...]
    same_run: tuple[int, ...] = ()


def reasons_against(subjects: Sequence[Subject]) -> list[str]:
    """Why these cannot be compared, in words; none if they can."""
    first, reasons = subjects[0], []
    for other in subjects[1:]:
        for what in dict.fromkeys([*first.asked, *other.asked]):
            one, two = (subject.asked.get(what, "none") for subject in (first, other))
            if one != two:
                reasons.append(f"{what} differs: {one} in {first.name}, {two} in {other.name}")
        if _days(first) != _days(other):
            reasons.append(f"the days differ: {_days(first)} in {first.name}, {_days(other)} in {other.name}")
        if not _seeds(first) & _seeds(other):
            reasons.append(f"no seed was run in both {first.name} and {other.name}")
    if not reasons and not set.intersection(*map(_seeds, subjects)):
        reasons.append("no seed was run in all of them")
    if not set.intersection(*(set(subject.measures) for subject in subjects)):
        reasons.append("they have no figure in common")
    return reasons


def blocks_for(*, recorded: bool, days: int, seeds: int) -> Days:
    """What to resample where nobody said: recorded days over all seeds, but whole seeds where there is one day only;
    each seed's own days where demand is generated. ``seeds`` are those that gave runs of their own."""
    if not recorded:
        return Days.OWN
    return Days.SEEDS if days == 1 and seeds > 1 else Days.SHARED


def side_by_side(subjects: Sequence[Subject], resampling: Resampling, days: Days | None = None) -> SideBySide:
    """All figures that all have. ``days`` None: as ``blocks_for``. Raises ``ValueError`` for what ``reasons_against``
    names."""
    common = sorted(set.intersection(*map(_seeds, subjects)))
    seeds = tuple(dict.fromkeys(stand_ins(common, lambda one, other: _same_run(subjects, one, other)).values()))
    names = [name for name in subjects[0].measures if all(name in subject.measures for subject in subjects)]
    count = subjects[0].measures[names[0]].metric.days
    recorded = any(subject.recorded for subject in subjects)
    resampling = replace(
        resampling, days=days if days is not None else blocks_for(recorded=recorded, days=count, seeds=len(seeds))
    )
    return SideBySide(
        subjects=tuple(subject.name for subject in subjects),
        seeds=seeds,
        days=resampling.days,
        level=resampling.level,
        resamples=resampling.resamples,
        resampling_seed=resampling.seed,
        figures=tuple(_figure(name, subjects, seeds, resampling) for name in names),
        worst_hours=tuple(subject.worst_hour for subject in subjects),
        equal=_equal(subjects, seeds, resampling) if all(subject.curve for subject in subjects) else (),
        not_asked=tuple(subject.not_asked for subject in subjects),
        same_run=tuple(seed for seed in common if seed not in seeds),
    )


def _same_run(subjects: Sequence[Subject], one: int, other: int) -> bool:
    """Whether on no side anything was drawn that tells these seeds apart: as blocks they would agree for certain."""
    known = [subject.outcomes for subject in subjects]
    return all(one in of and other in of and of[one] == of[other] for of in known)


def _figure(name: str, subjects: Sequence[Subject], seeds: Sequence[int], resampling: Resampling) -> FigureRow:
    measure = subjects[0].measures[name]
    metrics = [subject.measures[name].metric.of_seeds(seeds) for subject in subjects]
    changes = [difference(metrics[0], metric, resampling) for metric in metrics[1:]]
    return FigureRow(
        name,
        measure.unit,
        measure.better,
        tuple(_value(estimate(metric, resampling)) for metric in metrics),
        _changes(changes),
    )


def _equal(subjects: Sequence[Subject], seeds: Sequence[int], resampling: Resampling) -> tuple[EqualRow, ...]:
    curves = [
        [replace(p, attainment=p.attainment.of_seeds(seeds), cost=p.cost.of_seeds(seeds)) for p in subject.curve]
        for subject in subjects
    ]
    costs = [cost_at(curve, EQUAL_ATTAINMENTS, resampling) for curve in curves]
    more = [cost_difference_at(curves[0], curve, EQUAL_ATTAINMENTS, resampling) for curve in curves[1:]]
    return tuple(
        EqualRow(
            attainment,
            tuple(_cost(cost[row]) for cost in costs),
            tuple(cost[row].at_most for cost in costs),
            _changes([differences[row] for differences in more]),
        )
        for row, attainment in enumerate(EQUAL_ATTAINMENTS)
    )


def _cost(at: CostAt) -> Value | None:
    return None if at.cost is None else _value(at.cost)


def _changes(found: Sequence[Estimate | None]) -> tuple[Change | None, ...]:
    """With p-values adjusted over those that exist."""
    tested = [one for one in found if one is not None and one.p is not None and np.isfinite(one.value)]
    adjusted = iter(holm([one.p for one in tested if one.p is not None]))
    return tuple(
        Change(one.value, interval_of(one), one.p, next(adjusted))
        if one is not None and one.p is not None and np.isfinite(one.value)
        else None
        for one in found
    )


def _value(found: Estimate) -> Value:
    return Value(number(found.value), interval_of(found))


def interval_of(found: Estimate) -> Interval:
    """Without ends where nothing is known of the spread."""
    kind = found.resampling
    return Interval(number(found.low), number(found.high), kind.level, found.n, found.blocks, kind.seed)


def _days(subject: Subject) -> int:
    return max((measure.metric.days for measure in subject.measures.values()), default=0)


def _seeds(subject: Subject) -> set[int]:
    every = [set(measure.metric.seeds) for measure in subject.measures.values()]
    every += [set(metric.seeds) for point in subject.curve for metric in (point.attainment, point.cost)]
    return set.intersection(*every) if every else set()
