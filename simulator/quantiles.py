"""Quantiles of times, kept as each day's counts in logarithmic buckets, so that they can be resampled without the
requests: a resample adds up days' counts instead of sorting millions of times. Pure.

Buckets grow by 2^(1/32) (2.2 %). Within one a quantile is read off linearly in the logarithm, and scaled so that what
was counted has its exact quantile: only the spread rests on the buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.statistics import Days, Floats, by_block

BUCKETS_PER_DOUBLING = 32
SMALLEST_S = 1e-6
BUCKETS = 40 * BUCKETS_PER_DOUBLING
"""From a microsecond to twelve days; the first and the last have what lies beyond."""

Counts = NDArray[np.int64]


def bucket_counts(values_s: Floats, day: NDArray[np.int64], days: int) -> Counts:
    """(days, BUCKETS) of times, each of its ``day``."""
    doublings = np.log2(np.maximum(values_s, SMALLEST_S) / SMALLEST_S)
    bucket = np.minimum((doublings * BUCKETS_PER_DOUBLING).astype(np.int64), BUCKETS - 1)
    return np.bincount(day * BUCKETS + bucket, minlength=days * BUCKETS).reshape(days, BUCKETS)


@dataclass(frozen=True, slots=True, eq=False)
class Quantile:
    """The value that ``share`` of all times of one policy do not exceed, as ``simulator.statistics.Resampled``.
    ``counts``: (seeds, days, buckets), those from the bucket ``first`` on. ``exact_s``: each seed's own, NaN for one
    without."""

    seeds: tuple[int, ...]
    share: float
    first: int
    counts: Floats
    exact_s: tuple[float, ...]

    @property
    def days(self) -> int:
        return int(self.counts.shape[1])

    @property
    def value(self) -> float:
        """Exact for one seed. NaN if nothing was counted."""
        return float(self._of(self.counts.sum(axis=(0, 1))[None, :], np.ones((1, 1)))[0] * self._scale())

    def of_seeds(self, seeds: Sequence[int]) -> Quantile:
        rows = [self.seeds.index(seed) for seed in seeds]
        exact_s = tuple(self.exact_s[row] for row in rows)
        return Quantile(tuple(seeds), self.share, self.first, self.counts[rows], exact_s)

    def resampled(self, times: Floats, blocks: Days) -> Floats:
        return self._of(by_block(self.counts, blocks), times) * self._scale()

    def _scale(self) -> float:
        """By how much the exact quantiles exceed those read off."""
        read_s = [float(self._of(own.sum(axis=0)[None, :], np.ones((1, 1)))[0]) for own in self.counts]
        factors = [exact / read for exact, read in zip(self.exact_s, read_s, strict=True) if exact > 0]
        return float(np.mean(factors)) if factors else 1.0

    def _of(self, counts: Floats, times: Floats) -> Floats:
        """For each row of ``times``, which says how often each row of ``counts`` is taken. Only those buckets matter
        in which some row's own quantile lies: that of any mixture is among them."""
        up_to, totals = np.cumsum(counts, axis=1), counts.sum(axis=1)
        some = totals > 0
        if not some.any():
            return np.full(len(times), np.nan)
        own = (up_to[some] < self.share * totals[some, None]).sum(axis=1)
        low, high = int(own.min()), int(own.max())
        before = up_to[:, low - 1 : low] if low else np.zeros((len(counts), 1))
        found = times @ np.concatenate([before, up_to[:, low : high + 1]], axis=1)
        wanted = self.share * (times @ totals)
        place = np.minimum((found[:, 1:] < wanted[:, None]).sum(axis=1), high - low)
        rows = np.arange(len(times))
        below, above = found[rows, place], found[rows, place + 1]
        with np.errstate(invalid="ignore"):  # of a resample that has nothing
            inside = (wanted - below) / (above - below)
        doublings = (self.first + low + place + inside) / BUCKETS_PER_DOUBLING
        return np.asarray(SMALLEST_S * 2.0**doublings)
