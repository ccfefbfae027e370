"""Sketches of whole arrays: the buckets of ``broker.model.sketch``, found for many values at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.model.sketch import BUCKETS, BUCKETS_PER_DOUBLING, EMPTY_SKETCH, SMALLEST, Sketch

Integers = NDArray[np.integer[Any]]
Numbers = NDArray[np.float64] | NDArray[np.integer[Any]]

_ENTRY = np.dtype([("bucket", "<u2"), ("count", "<u4")])


def buckets_of(values: Numbers) -> NDArray[np.int64]:
    """``bucket_of`` each."""
    exponents = np.log2(np.maximum(values, SMALLEST) / SMALLEST) * BUCKETS_PER_DOUBLING
    buckets: NDArray[np.int64] = np.minimum(np.ceil(exponents - 1e-9), BUCKETS - 1).astype(np.int64)
    return buckets


def sketches_of(kinds: Sequence[tuple[Integers, Numbers]], groups: int) -> list[list[Sketch]]:
    """For each kind of values (the group of each, from 0, and the value) a sketch for each group.

    All in one count: with the few values of a second numpy's calls cost more than the work.
    """
    marks = np.concatenate(
        [(kind * groups + group.astype(np.int64)) * BUCKETS for kind, (group, _) in enumerate(kinds)]
    )
    values = np.concatenate([values for _, values in kinds])
    if not len(values):
        return [[EMPTY_SKETCH] * groups for _ in kinds]
    lists = len(kinds) * groups
    counts = np.bincount(marks + buckets_of(values), minlength=lists * BUCKETS)
    filled = np.flatnonzero(counts)
    entries = np.empty(len(filled), _ENTRY)
    entries["bucket"] = filled % BUCKETS
    entries["count"] = counts[filled]
    packed = entries.tobytes()
    ends = (np.searchsorted(filled, np.arange(lists + 1) * BUCKETS) * _ENTRY.itemsize).tolist()
    sketches = [Sketch(packed[begin:end]) if end > begin else EMPTY_SKETCH for begin, end in pairwise(ends)]
    return [sketches[kind * groups : (kind + 1) * groups] for kind in range(len(kinds))]
