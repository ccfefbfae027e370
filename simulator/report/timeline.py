"""Quantities over time in equal bins, so that a run of weeks makes a page as small as one of an hour. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.report.document import Grid, Values
from simulator.report.summary import Floats

_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
_DIGITS = 5
Bins = NDArray[np.int64]


def grid_of(end_s: float, most_bins: int) -> Grid:
    """From second 0 to ``end_s`` in at most ``most_bins`` bins of a usual width."""
    wanted = max(end_s, 1e-9) / most_bins
    width = next((width for width in _WIDTHS_S if width >= wanted), math.ceil(wanted / 86_400) * 86_400)
    return Grid(0.0, float(width), max(1, math.ceil(end_s / width - 1e-9)))


def edges_of(grid: Grid) -> Floats:
    return np.asarray(grid.begin_s + grid.bin_s * np.arange(grid.bins + 1.0))


def bins_of(grid: Grid, times: Floats) -> Bins:
    """The bin of each time; what lies outside counts to the first or the last."""
    return np.clip(np.floor((times - grid.begin_s) / grid.bin_s), 0, grid.bins - 1).astype(np.int64)


def counted(grid: Grid, times: Floats) -> Floats:
    """How many lie in each bin."""
    return np.bincount(bins_of(grid, times), minlength=grid.bins).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A count over time: its mean, least and greatest value in each bin."""

    mean: Floats
    low: Floats
    high: Floats


def level(grid: Grid, times: Floats, changes: Floats, end_s: float) -> Level:
    """The level that begins at 0 and takes ``changes`` at ``times`` (in any order), until ``end_s``. The last bin may
    reach beyond: its mean is of the part before."""
    order = np.argsort(times, kind="stable")
    times, after = times[order], np.cumsum(changes[order])
    # Of several changes at one time only the last level was ever there.
    last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, bool)
    times, after = times[last], after[last]
    edges = np.minimum(edges_of(grid), max(end_s, grid.begin_s))
    lengths = np.maximum(np.diff(edges), 1e-12)
    mean = np.diff(_integral(edges, times, after)) / lengths
    at_edge = np.concatenate(([0.0], after))[np.searchsorted(times, edges[:-1], side="right")]
    low, high = at_edge.copy(), at_edge.copy()
    inside = (times > grid.begin_s) & (times < end_s)
    bins = bins_of(grid, times[inside])
    np.minimum.at(low, bins, after[inside])
    np.maximum.at(high, bins, after[inside])
    return Level(np.clip(mean, low, high), low, high)


def _integral(edges: Floats, times: Floats, after: Floats) -> Floats:
    """The integral of the level up to each edge."""
    if not len(times):
        return np.zeros(len(edges))
    sums = np.concatenate(([0.0], np.cumsum(after[:-1] * np.diff(times))))
    index = np.searchsorted(times, edges, side="right") - 1
    known = np.maximum(index, 0)
    return np.where(index >= 0, sums[known] + after[known] * (edges - times[known]), 0.0)


def quantiles(grid: Grid, times: Floats, values: Floats, shares: tuple[float, ...]) -> list[Floats]:
    """For each share the quantile of the values in each bin (linear between ranks, as numpy's); NaN where there are
    none."""
    bins = bins_of(grid, times)
    order = np.lexsort((values, bins))
    ordered = values[order]
    counts = np.bincount(bins, minlength=grid.bins)
    begins = np.cumsum(counts) - counts
    found = []
    for share in shares:
        answer = np.full(grid.bins, np.nan)
        some = counts > 0
        rank = share * (counts[some] - 1)
        low = np.floor(rank).astype(np.int64)
        below = ordered[begins[some] + low]
        above = ordered[begins[some] + np.minimum(low + 1, counts[some] - 1)]
        answer[some] = below + (above - below) * (rank - low)
        found.append(answer)
    return found


def share(grid: Grid, times: Floats, kept: NDArray[np.bool_]) -> Floats:
    """The share of the times in each bin that are kept; NaN for an empty bin."""
    total = counted(grid, times)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, counted(grid, times[kept]) / total, np.nan)


def oldest_wait(grid: Grid, arrival_s: Floats, served_s: Floats, end_s: float) -> Floats:
    """The greatest age, within each bin, of a request that waits: it came at ``arrival_s`` (rising) and waits until
    ``served_s`` (infinity: for ever)."""
    greatest = np.zeros(grid.bins)
    if not len(arrival_s):
        return greatest
    ends = np.minimum(served_s, end_s)
    # A wait that ends with a bin was longest in that bin.
    np.maximum.at(greatest, bins_of(grid, np.nextafter(ends, -np.inf)), ends - arrival_s)
    edges = np.minimum(edges_of(grid)[1:], end_s)
    # The first row that is still waiting at an edge is the first at which the latest end so far lies beyond it.
    oldest = np.searchsorted(np.maximum.accumulate(served_s), edges, side="right")
    waits = (oldest < len(arrival_s)) & (arrival_s[np.minimum(oldest, len(arrival_s) - 1)] < edges)
    ages = np.where(waits, edges - arrival_s[np.minimum(oldest, len(arrival_s) - 1)], 0.0)
    return np.maximum(greatest, ages)


def rounded(values: Floats | Any) -> Values:
    """For the document: a few digits that count, None for what is not there."""
    return tuple(float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values.tolist())
