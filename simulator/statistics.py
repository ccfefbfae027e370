"""What runs over several seeds say, and how surely: intervals, paired differences, cost at equal SLO. Pure.

Every figure is a ratio of sums over blocks (requests in time over requests; GPU-hours over days), or a quantile of what
blocks have counted (``simulator.quantiles``), so that it can be resampled without the runs. Runs of different policies
use common random numbers: the same seed means the same arrivals, the same queue and the same failures, and a difference
is taken within seed and day. Blocks are whole days, because hours of a day are alike; what a block is hangs on what the
seed changes (``Days``).

Intervals are bootstrap percentiles, widened for few blocks as in T. Hesterberg, "What Teachers Should Know About the
Bootstrap", The American Statistician 69 (2015), section 3.2 and following ("expanded percentiles"): the plain ones of
seven days would be a fifth too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CHUNK = 500
"""Resamples at once, so that 20 seeds of two months take megabytes."""


class Days(StrEnum):
    """What a block is. SHARED: all seeds replay one recorded trace, so a day is one block over all seeds. OWN: each
    seed draws its own demand, so each day of each seed is a block. SEEDS: each seed is a block (runs within a day)."""

    SHARED = "shared"
    OWN = "own"
    SEEDS = "seeds"


class Resampled(Protocol):
    """A figure of one policy that is known by seed and day."""

    @property
    def seeds(self) -> tuple[int, ...]: ...

    @property
    def days(self) -> int: ...

    @property
    def value(self) -> float:
        """Over all seeds and days."""
        ...

    def of_seeds(self: ResampledT, seeds: Sequence[int]) -> ResampledT:
        """The same of these seeds, in their order."""
        ...

    def resampled(self, times: Floats, blocks: Days) -> Floats:
        """The values where each block counts as often as a row of ``times`` says: (resamples,) of (resamples,
        blocks)."""
        ...


ResampledT = TypeVar("ResampledT", bound=Resampled)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of one policy: the sum of ``numerator`` over the sum of ``denominator``, both (seeds, days)."""

    seeds: tuple[int, ...]
    numerator: Floats
    denominator: Floats

    def __post_init__(self) -> None:
        shape = (len(self.seeds), self.numerator.shape[-1])
        if self.numerator.shape != shape or self.denominator.shape != shape:
            raise ValueError(f"a metric of {len(self.seeds)} seeds has one row for each, in both parts")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed stands twice in one metric")

    @property
    def days(self) -> int:
        return int(self.numerator.shape[1])

    @property
    def value(self) -> float:
        return float(_ratio(self.numerator.sum(), self.denominator.sum()))

    def of_seeds(self, seeds: Sequence[int]) -> Metric:
        rows = [self.seeds.index(seed) for seed in seeds]
        return Metric(tuple(seeds), self.numerator[rows], self.denominator[rows])

    def resampled(self, times: Floats, blocks: Days) -> Floats:
        return _ratio(times @ by_block(self.numerator, blocks), times @ by_block(self.denominator, blocks))


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made; it travels with each of them."""

    days: Days = Days.SHARED
    level: float = 0.95
    resamples: int = 4000
    seed: int = 1


DEFAULT_RESAMPLING = Resampling()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval. ``n`` counts seeds, ``blocks`` what was resampled; with a single block nothing is
    known of the spread, and the interval is infinite. ``p`` is of "this is 0", for differences only."""

    value: float
    low: float
    high: float
    n: int
    blocks: int
    resampling: Resampling
    p: float | None = None


def estimate(figure: Resampled, resampling: Resampling = DEFAULT_RESAMPLING) -> Estimate:
    """The figure over all seeds with its interval."""
    return _estimate(figure.value, _drawn(figure, resampling), figure, resampling)


def estimates(metrics: Sequence[Metric], resampling: Resampling = DEFAULT_RESAMPLING) -> list[Estimate]:
    """``estimate`` of each, all of the same seeds and days: the resamples are drawn once for a thousand of them."""
    if not metrics:
        return []
    drawn = _resampled(metrics, resampling)
    return [_estimate(metric.value, draws, metric, resampling) for metric, draws in zip(metrics, drawn, strict=True)]


def difference(first: ResampledT, second: ResampledT, resampling: Resampling = DEFAULT_RESAMPLING) -> Estimate:
    """``second`` less ``first`` over the seeds that both have, resampled together."""
    one, other = paired([first, second])
    drawn = _drawn(other, resampling) - _drawn(one, resampling)
    return _estimate(other.value - one.value, drawn, one, resampling, tested=True)


def paired(figures: Sequence[ResampledT]) -> list[ResampledT]:
    """The figures over their common seeds, in one order: a cell of a sweep may have failed.

    Raises ``ValueError`` if they have none in common, or differ in days: such runs cannot be compared.
    """
    common = set(figures[0].seeds).intersection(*(figure.seeds for figure in figures))
    if not common:
        raise ValueError("no seed was run for all that is to be compared")
    if len({figure.days for figure in figures}) > 1:
        raise ValueError("runs over different numbers of days cannot be paired")
    return [figure.of_seeds(sorted(common)) for figure in figures]


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values (S. Holm, Scandinavian Journal of Statistics 6, 1979), in the order given: those at most
    alpha may be called different with one false claim in all of them at a chance of at most alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return tuple(float(value) for value in adjusted)


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting of a policy's aggressiveness: its attainment (of 1) and its cost (say GPU-hours a day)."""

    knob: float
    attainment: Metric
    cost: Metric


@dataclass(frozen=True, slots=True)
class CostAt:
    """What a policy costs at one attainment. ``cost`` is None if the sweep does not reach it; its upper end is infinite
    if too many resamples do not. ``reached``: the share of resamples that do. ``at_most``: even the cheapest setting
    attains more, so that the cost is only known not to be higher."""

    attainment: float
    cost: Estimate | None
    reached: float
    at_most: bool


def cost_at(
    sweep: Sequence[SweepPoint], attainments: Sequence[float] = (0.95, 0.99, 0.999),
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> tuple[CostAt, ...]:  # fmt: skip
    """Cost at equal SLO, by interpolation between neighbours in cost, linear in the logarithm of the missed share.

    That share falls about exponentially with spare capacity, so that a line in the share itself would flatter coarse
    sweeps. Settings that cost more and attain less than another are left out. No misses count as half a request.
    """
    metrics = paired([metric for point in sweep for metric in (point.attainment, point.cost)])
    kept, costs = metrics[::2], metrics[1::2]
    half = np.array([0.5 / max(1.0, metric.denominator.sum()) for metric in kept])
    targets = np.log(1 - np.asarray(attainments, dtype=np.float64))
    values = np.array([[metric.value] for metric in metrics])
    found = _interpolated(values[::2], values[1::2], half, targets)[:, 0]
    drawn = _resampled(metrics, resampling)
    resampled = _interpolated(drawn[::2], drawn[1::2], half, targets)
    least = kept[int(np.argmin([metric.value for metric in costs]))]
    return tuple(
        CostAt(
            attainment=attainment,
            cost=_estimate(float(value), draws, metrics[0], resampling) if math.isfinite(value) else None,
            reached=float(np.isfinite(draws).mean()),
            at_most=least.value >= attainment,
        )
        for attainment, value, draws in zip(attainments, found, resampled, strict=True)
    )


def cost_difference_at(
    first: Sequence[SweepPoint], second: Sequence[SweepPoint], attainments: Sequence[float] = (0.95, 0.99, 0.999),
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> tuple[Estimate | None, ...]:  # fmt: skip
    """What ``second`` costs more than ``first`` at equal attainment, both read off as by ``cost_at`` in the same
    resamples; None at an attainment that either does not reach."""
    metrics = paired([metric for point in (*first, *second) for metric in (point.attainment, point.cost)])
    half = np.array([0.5 / max(1.0, metric.denominator.sum()) for metric in metrics[::2]])
    targets = np.log(1 - np.asarray(attainments, dtype=np.float64))
    values = np.array([[metric.value] for metric in metrics])
    drawn = _resampled(metrics, resampling)

    def more(of: Floats) -> Floats:
        kept, cost, split = of[::2], of[1::2], len(first)
        one = _interpolated(kept[:split], cost[:split], half[:split], targets)
        other = _interpolated(kept[split:], cost[split:], half[split:], targets)
        # Where a resample does not reach it on one side, the difference is infinite to that side; on both, unknown.
        return np.subtract(other, one, where=np.isfinite(one) | np.isfinite(other), out=np.full_like(one, np.nan))

    return tuple(
        _estimate(float(value), draws, metrics[0], resampling, tested=True) if math.isfinite(value) else None
        for (value,), draws in zip(more(values), more(drawn), strict=True)
    )


def _interpolated(kept: Floats, cost: Floats, half: Floats, targets: Floats) -> Floats:
    """(targets, resamples) cost; ``kept`` and ``cost`` are (settings, resamples). Infinite where it is not reached."""
    order = np.argsort(cost, axis=0, kind="stable")
    missed = np.log(np.maximum(1 - np.take_along_axis(kept, order, 0), half[order]))
    best = np.minimum.accumulate(missed, axis=0)
    cost = np.take_along_axis(cost, order, 0)
    columns = np.arange(cost.shape[1])
    answers = np.full((len(targets), cost.shape[1]), np.inf)
    for row, target in enumerate(targets):
        enough = best <= target + 1e-12
        after = np.argmax(enough, axis=0)
        # The setting that attains this much, and the dearest before it that no cheaper one dominates.
        before = np.maximum(after - 1, 0)
        before = np.argmax(best == best[before, columns], axis=0)
        span = best[before, columns] - best[after, columns]
        share = np.where(after > 0, (best[before, columns] - target) / np.where(span > 0, span, 1.0), 1.0)
        value = cost[before, columns] + share * (cost[after, columns] - cost[before, columns])
        value = np.where(after > 0, value, cost[0])
        answers[row] = np.where(enough.any(axis=0), value, np.inf)
    return answers


def _resampled(metrics: Sequence[Metric], resampling: Resampling) -> Floats:
    """(metrics, resamples) values; all metrics see the same draws."""
    days = resampling.days
    parts = np.array([[by_block(metric.numerator, days), by_block(metric.denominator, days)] for metric in metrics])
    drawn = _times(parts.shape[2], resampling.resamples, resampling.seed)
    sums = [parts @ times.T for times in drawn]
    return np.concatenate([_ratio(part[:, 0], part[:, 1]) for part in sums], axis=1)


def _drawn(figure: Resampled, resampling: Resampling) -> Floats:
    """(resamples,) values; all figures of as many blocks see the same draws."""
    blocks = _block_count(figure, resampling.days)
    if blocks == 1:  # of which nothing is known
        return np.zeros(0)
    drawn = _times(blocks, resampling.resamples, resampling.seed)
    return np.concatenate([figure.resampled(times, resampling.days) for times in drawn])


@lru_cache(maxsize=1)
def _times(blocks: int, resamples: int, seed: int) -> tuple[Floats, ...]:
    """How often each block is drawn: (resamples, blocks), some at a time. The report of a month of many models has two
    thousand figures of the same draws."""
    generator = np.random.default_rng(seed)
    drawn = []
    for begin in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - begin)
        drawn.append(generator.multinomial(blocks, np.full(blocks, 1 / blocks), size=count).astype(np.float64))
        drawn[-1].setflags(write=False)
    return tuple(drawn)


def by_block(values: Floats, days: Days) -> Floats:
    """What has the shape (seeds, days, ...) as (blocks, ...)."""
    match days:
        case Days.SHARED:
            return np.asarray(values.sum(axis=0))
        case Days.SEEDS:
            return np.asarray(values.sum(axis=1))
        case Days.OWN:
            return values.reshape(-1, *values.shape[2:])


def _block_count(figure: Resampled, days: Days) -> int:
    return {Days.SHARED: figure.days, Days.SEEDS: len(figure.seeds), Days.OWN: len(figure.seeds) * figure.days}[days]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    return np.asarray(numerator) / np.where(np.asarray(denominator) > 0, denominator, np.nan)


def _estimate(
    value: float, drawn: Floats, figure: Resampled, resampling: Resampling, *, tested: bool = False
) -> Estimate:
    """``drawn``: of ``value``, which is of as many seeds and blocks as ``figure``."""
    blocks = _block_count(figure, resampling.days)
    drawn = drawn[~np.isnan(drawn)]
    low, high = -math.inf, math.inf
    if blocks > 1 and len(drawn):
        tail = expanded_tail((1 - resampling.level) / 2, blocks)
        low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail), method="closest_observation"))
    p = None
    if tested:
        p = _two_sided(value, drawn, blocks) if blocks > 1 and len(drawn) else 1.0
    return Estimate(value, low, high, len(figure.seeds), blocks, resampling, p)


@lru_cache(maxsize=64)
def expanded_tail(tail: float, blocks: int) -> float:
    """The percentile that gives ``blocks`` independent normal blocks a tail of ``tail`` (Hesterberg, see above)."""
    wide = math.sqrt(blocks / (blocks - 1)) * student_quantile(1 - tail, blocks - 1)
    return NormalDist().cdf(-wide)


def _two_sided(value: float, drawn: Floats, blocks: int) -> float:
    """p of "this is 0": below 1 - level where the expanded interval leaves 0 out; more careful than the interval with
    so few blocks that no resample goes as far as that. The plain share of resamples beyond 0 would call any three
    blocks of one sign different at 0.001; where there is none, their spread goes on."""
    beyond = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    distance = -NormalDist().inv_cdf(min(0.5, (1 + float(beyond)) / (1 + len(drawn))))
    if not beyond and np.isfinite(drawn).all():
        spread = float(drawn.std())
        distance = max(distance, abs(value) / spread) if spread > 0 else math.inf
    return 1.0 - _student_within(distance * math.sqrt((blocks - 1) / blocks), blocks - 1)


def student_quantile(q: float, freedom: int) -> float:
    """Student's t at ``q`` (from 0.5 on) for a whole number of degrees of freedom, by bisection of the finite series of
    Abramowitz and Stegun 26.7.3 and 26.7.4."""
    low, high = 0.0, 1.0
    while _student_within(high, freedom) < 2 * q - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < 2 * q - 1 else (low, middle)
    return (low + high) / 2


def _student_within(t: float, freedom: int) -> float:
    """The chance of a value between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    if freedom == 1:
        return 2 * angle / math.pi
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
