"""Quantiles of counts: by Prometheus buckets as engines keep them, by sketch buckets as gateways do."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from broker.model.sketch import BUCKETS, bucket_value

Floats = NDArray[np.float64]

SKETCH_ENTRY = np.dtype([("bucket", "<u2"), ("count", "<u4")])
"""``Sketch.packed`` as numpy reads it."""
_VALUES = [bucket_value(bucket) for bucket in range(BUCKETS)]
SKETCH_VALUES: Floats = np.array(_VALUES)


def prometheus_quantile(q: float, bounds: Sequence[float], counts: Sequence[float], total: float) -> float | None:
    """Linear interpolation inside the bucket that holds the rank, as Prometheus' ``histogram_quantile``.

    ``counts`` are cumulative, ``bounds`` end with infinity, ``total`` is the sum of the values; None if there are
    none. In the open last bucket the answer is its lower bound. Where all values lie in the first bucket, they are
    taken to be even between 0 and twice their mean: vLLM's first queue-time bucket reaches to 0.3 s, and plain
    interpolation would report a P95 of 0.285 s for requests that never waited.
    """
    observed = counts[-1]
    if observed <= 0.0:
        return None
    rank = q * observed
    index = bisect_left(counts, rank)
    if index >= len(bounds) - 1:
        return bounds[-2] if len(bounds) > 1 else None
    if index == 0:
        upper = min(bounds[0], 2.0 * total / observed) if counts[0] == observed else bounds[0]
        return upper * rank / counts[0]
    lower, below = bounds[index - 1], counts[index - 1]
    return lower + (bounds[index] - lower) * (rank - below) / (counts[index] - below)


def sketch_quantile(q: float, lowest: int, cumulative: Sequence[int]) -> float | None:
    """The value at rank ceil(q * n) of the cumulative counts of sketch buckets from ``lowest`` on, as
    ``Sketch.quantile``; None if there are none."""
    observed = cumulative[-1] if cumulative else 0
    if observed <= 0:
        return None
    return _VALUES[lowest + bisect_left(cumulative, max(1, math.ceil(q * observed - 1e-9)))]


Cumulative = tuple[Sequence[float], list[float], float]
"""A histogram: bounds, cumulative counts, sum of the values."""


def merged(histograms: Sequence[Cumulative]) -> Cumulative:
    """The sum of histograms whose bounds may differ, as when a fleet runs two engine versions: over the union of the
    bounds, each interpolated linearly between its own. Without bounds if one has none."""
    if len(histograms) == 1:
        return histograms[0]
    if not all(bounds for bounds, _, _ in histograms):
        return (), [], 0.0
    union = sorted({bound for bounds, _, _ in histograms for bound in bounds})
    finite = union[:-1]
    summed = np.zeros(len(union))
    for bounds, counts, _ in histograms:
        if len(bounds) > 1:
            summed[:-1] += np.interp(finite, (0.0, *bounds[:-1]), (0.0, *counts[:-1]))
        summed[-1] += counts[-1]
    return union, summed.tolist(), sum(total for _, _, total in histograms)
