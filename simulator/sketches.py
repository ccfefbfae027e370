"""Sketches of whole arrays: the buckets of ``broker.model.sketch``, found for many values at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from broker.model.sketch import BUCKETS, BUCKETS_PER_DOUBLING, EMPTY_SKETCH, SMALLEST, Sketch

_ENTRY = np.dtype([("bucket", "<u2"), ("count", "<u4")])


def buckets_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """``bucket_of`` each."""
    exponents = np.log2(np.maximum(values, SMALLEST) / SMALLEST) * BUCKETS_PER_DOUBLING
    buckets: NDArray[np.int64] = np.minimum(np.ceil(exponents - 1e-9), BUCKETS - 1).astype(np.int64)
    return buckets


def sketches_of(
    values: Sequence[NDArray[np.float64]], groups: Sequence[NDArray[np.int64]], count: int
) -> list[list[Sketch]]:
    """For each array of ``values`` one sketch for each of ``count`` groups; ``groups`` tells each value's.

    All in one count: with the few values of a second numpy's calls cost more than the work.
    """
    offsets = [kind * count * BUCKETS for kind in range(len(values))]
    marks = np.concatenate([group * BUCKETS + offset for group, offset in zip(groups, offsets, strict=True)])
    counts = np.bincount(marks + buckets_of(np.concatenate(values)), minlength=len(values) * count * BUCKETS)
    filled = np.flatnonzero(counts)
    entries = np.empty(len(filled), _ENTRY)
    entries["bucket"] = filled % BUCKETS
    entries["count"] = counts[filled]
    packed = entries.tobytes()
    ends = np.searchsorted(filled, np.arange(len(values) * count + 1) * BUCKETS) * _ENTRY.itemsize
    sketches = [
        Sketch(packed[begin:end]) if end > begin else EMPTY_SKETCH
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]
    return [sketches[kind * count : (kind + 1) * count] for kind in range(len(values))]
