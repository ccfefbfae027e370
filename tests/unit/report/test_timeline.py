"""Bins: means, extremes, quantiles and ages are those that looking at every instant gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.report.document import Grid
from simulator.report.timeline import grid_of, level, oldest_wait, quantiles, rounded, share

GRID = Grid(0.0, 2.0, 5)
TIMES = st.integers(-4, 40).map(lambda quarter: quarter / 4)
SPANS = st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=12)


@given(SPANS)
def test_a_level_has_the_mean_and_the_extremes_of_every_instant(spans: list[list[float]]) -> None:
    times = np.array([*(begin for begin, _ in spans), *(end for _, end in spans)])
    changes = np.array([1.0] * len(spans) + [-1.0] * len(spans))
    found = level(GRID, times, changes, 10.0)
    for number in range(GRID.bins):
        instants = np.arange(2.0 * number + 0.125, 2.0 * (number + 1), 0.25)
        there = [float(sum(bool(begin <= at < end) for begin, end in spans)) for at in instants]
        assert math.isclose(found.mean[number], float(np.mean(there)), abs_tol=1e-9)
        assert (found.low[number], found.high[number]) == (min(there), max(there))


def test_a_level_of_a_bin_that_the_run_ends_in_is_that_of_the_part_before() -> None:
    found = level(GRID, np.array([0.0, 9.0]), np.array([3.0, -3.0]), 9.0)
    assert found.mean.tolist() == [3.0] * 5


@given(st.lists(st.tuples(TIMES, st.floats(0, 100)), max_size=40))
def test_quantiles_are_numpys_in_each_bin(rows: list[tuple[float, float]]) -> None:
    rows = [(at, value) for at, value in rows if 0 <= at < 10]
    times, values = (np.array([row[column] for row in rows]) for column in (0, 1))
    found = quantiles(GRID, times, values, (0.5, 0.95, 0.99))
    for number in range(GRID.bins):
        inside = values[(times >= 2 * number) & (times < 2 * (number + 1))]
        for line, q in zip(found, (0.5, 0.95, 0.99), strict=True):
            if len(inside):
                assert math.isclose(line[number], float(np.quantile(inside, q)), rel_tol=1e-9, abs_tol=1e-12)
            else:
                assert math.isnan(line[number])


@given(SPANS)
def test_the_oldest_wait_is_that_of_the_worst_instant(spans: list[list[float]]) -> None:
    waits = sorted((begin, end) for begin, end in spans if begin >= 0)
    arrival_s, served_s = (np.array([wait[column] for wait in waits]) for column in (0, 1))
    found = oldest_wait(GRID, arrival_s, served_s, 10.0)
    for number in range(GRID.bins):
        begin, end = 2.0 * number, 2.0 * (number + 1)
        ages = [min(until, end) - since for since, until in waits if since < end and begin < until]
        assert math.isclose(found[number], max(ages, default=0.0), abs_tol=1e-9)


def test_whoever_is_never_served_waits_until_the_end() -> None:
    found = oldest_wait(GRID, np.array([1.0]), np.array([np.inf]), 9.0)
    assert found.tolist() == [1.0, 3.0, 5.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("end_s", "bin_s", "bins"), [(0.0, 1.0, 1), (59.0, 1.0, 59), (3600.0, 5.0, 720), (2 * 86_400.0, 300.0, 576)]
)
def test_bins_have_a_usual_width_and_are_not_too_many(end_s: float, bin_s: float, bins: int) -> None:
    assert grid_of(end_s, 1000) == Grid(0.0, bin_s, bins)


def test_an_empty_bin_has_no_share() -> None:
    assert rounded(share(GRID, np.array([0.5, 1.0, 5.0]), np.array([True, False, True]))) == (
        0.5,
        None,
        1.0,
        None,
        None,
    )
