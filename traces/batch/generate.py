"""Batch jobs drawn from a fitted profile.

Arrivals are a gamma renewal process whose clock runs with the hour of the week. Sizes, limits and used shares of the
limits follow the log by class of size, the latter two joined by a Gaussian copula. Users, dependencies and jobs that
are submitted again are not modelled: what comes out has the shape of its source in these respects and no others; call
it "kth_sp2-shaped".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.batch.swf import BatchJob
from traces.lengths import normal_cdf

WEEK_HOURS = 168
EPOCH_MONDAY_S = 4 * 86_400.0
"""The first Monday 00:00 UTC after the epoch."""

_HOUR_S = 3600.0
_CHUNK = 1024

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """``values[i]`` is the ``probabilities[i]``-quantile: straight lines between."""

    probabilities: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, probability: Floats) -> Floats:
        found: Floats = np.interp(probability, self.probabilities, self.values)
        return found


@dataclass(frozen=True, slots=True)
class SizeClass:
    """``share`` of all jobs; ``weights`` are those of its ``processors``. ``used`` is run time over limit,
    ``correlation`` that of the normal scores of the two."""

    share: float
    processors: tuple[int, ...]
    weights: tuple[float, ...]
    limit_s: Quantiles
    used: Quantiles
    correlation: float


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """A log in parameters. ``processors`` is its machine's size. ``arrival_cv`` is the coefficient of variation of the
    gaps after slow changes of the rate are taken out; ``weekly_shape`` the rate of each hour from Monday 00:00 UTC on
    over the mean, empty where the log is too short, or does not say when it began."""

    name: str
    provenance: str
    jobs: int
    processors: int
    rate_per_s: float
    arrival_cv: float
    weekly_shape: tuple[float, ...]
    classes: tuple[SizeClass, ...]


def generate(
    profile: BatchProfile, rng: np.random.Generator, *, starts_at: float = EPOCH_MONDAY_S, rate_scale: float = 1.0
) -> Iterator[BatchJob]:
    """Jobs without end, at ``rate_scale`` times the log's rate, submitted from ``starts_at`` (second 0) on."""
    clock = _Clock(profile, starts_at, rate_scale)
    shape = 1 / profile.arrival_cv**2
    shares = np.array([each.share for each in profile.classes])
    expected, number = 0.0, 0
    while True:
        gaps = rng.gamma(shape, 1 / shape, _CHUNK)
        submitted = clock.time_of(expected + np.cumsum(gaps))
        expected += float(gaps.sum())
        chosen = rng.choice(len(shares), _CHUNK, p=shares / shares.sum())
        limits, used, processors = _draw(profile, chosen, rng)
        for row in range(_CHUNK):
            number += 1
            limit_s = max(60.0, 60.0 * round(float(limits[row]) / 60.0))
            yield BatchJob(
                job_id=number,
                submitted_s=float(submitted[row]),
                wait_s=None,
                run_s=limit_s * float(used[row]),
                processors=int(processors[row]),
                requested_s=limit_s,
                status=1,
                user=None,
                queue=None,
                partition=None,
            )


def _draw(
    profile: BatchProfile, chosen: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Limits, used shares and processors of jobs of these classes. The same number of draws whatever the classes."""
    score, other_score = rng.standard_normal((2, len(chosen)))
    by_size = rng.random(len(chosen))
    limits, used = np.empty(len(chosen)), np.empty(len(chosen))
    processors = np.empty(len(chosen), dtype=np.int64)
    for index, each in enumerate(profile.classes):
        rows = chosen == index
        used_score = each.correlation * score + math.sqrt(1 - each.correlation**2) * other_score
        limits[rows] = each.limit_s.at(normal_cdf(score[rows]))
        used[rows] = each.used.at(normal_cdf(used_score[rows]))
        edges = np.cumsum(each.weights) / sum(each.weights)
        processors[rows] = np.asarray(each.processors)[np.searchsorted(edges[:-1], by_size[rows], side="right")]
    return limits, used, processors


class _Clock:
    """When so many arrivals are expected, by the weekly shape."""

    def __init__(self, profile: BatchProfile, starts_at: float, rate_scale: float) -> None:
        shape = np.array(profile.weekly_shape or (1.0,) * WEEK_HOURS)
        per_hour = shape / shape.mean() * profile.rate_per_s * rate_scale * _HOUR_S
        self._until = np.concatenate(([0.0], np.cumsum(per_hour)))
        self._since_monday_s = (starts_at - EPOCH_MONDAY_S) % (WEEK_HOURS * _HOUR_S)
        self._before = float(np.interp(self._since_monday_s / _HOUR_S, np.arange(WEEK_HOURS + 1), self._until))

    def time_of(self, expected: Floats) -> Floats:
        """Seconds from the start."""
        weeks, rest = np.divmod(expected + self._before, self._until[-1])
        hours = weeks * WEEK_HOURS + np.interp(rest, self._until, np.arange(WEEK_HOURS + 1))
        return hours * _HOUR_S - self._since_monday_s
