"""Quantiles that are resampled by day: exact in themselves, with the spread that sorting each resample would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.quantiles import BUCKETS, Quantile, bucket_counts
from simulator.statistics import Days, Floats, Resampling, difference, estimate

DAYS = 8


def quantile(share: float, *seeds: list[Floats]) -> Quantile:
    """Of each seed the times of its days."""
    counts = [
        bucket_counts(np.concatenate(days), np.repeat(np.arange(len(days)), list(map(len, days))), len(days))
        for days in seeds
    ]
    exact = tuple(float(np.quantile(np.concatenate(days), share)) for days in seeds)
    return Quantile(tuple(range(len(seeds))), share, 0, np.array(counts, float), exact)


def week(generator: np.random.Generator, spread: float = 0.3, count: int = 500) -> list[Floats]:
    """Days that differ in their level."""
    return [np.exp(generator.normal(level, 0.8, count)) for level in generator.normal(0.0, spread, DAYS)]


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_the_quantile_of_one_seed_is_exact(share: float) -> None:
    days = week(np.random.default_rng(1))
    assert quantile(share, days).value == pytest.approx(np.quantile(np.concatenate(days), share), rel=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_resamples_are_those_of_sorted_requests(share: float) -> None:
    days = week(np.random.default_rng(2), count=4000)
    times = np.random.default_rng(3).multinomial(DAYS, np.full(DAYS, 1 / DAYS), size=20).astype(float)
    found = quantile(share, days).resampled(times, Days.SHARED)
    drawn = [
        np.concatenate([day for day, count in zip(days, row, strict=True) for _ in range(int(count))]) for row in times
    ]
    assert found == pytest.approx([np.quantile(one, share) for one in drawn], rel=0.02)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Eight days and a P95: of 100 such weeks all but some, with three Monte-Carlo errors and what few blocks cost."""
    generator, truth = np.random.default_rng(4), float(np.exp(np.hypot(0.3, 0.8) * 1.6448536))
    hits = 0
    for run in range(100):
        told = estimate(quantile(0.95, week(generator)), Resampling(resamples=500, seed=run))
        hits += told.low <= truth <= told.high
    assert hits / 100 >= 0.85


def test_pairs_cancel_what_their_days_have_in_common() -> None:
    days = week(np.random.default_rng(5), spread=1.0)
    slower = [1.1 * day for day in days]
    one, other = quantile(0.95, days), quantile(0.95, slower)
    alone, paired = estimate(one), difference(one, other)
    assert paired.value == pytest.approx(0.1 * one.value)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    assert paired.p is not None
    assert paired.p < 0.05


def test_seeds_are_told_together_and_apart() -> None:
    generator = np.random.default_rng(6)
    first, second = week(generator), week(generator)
    both = quantile(0.95, first, second)
    everything = np.concatenate([*first, *second])
    assert both.value == pytest.approx(np.quantile(everything, 0.95), rel=0.01)
    assert both.of_seeds([1]).value == pytest.approx(quantile(0.95, second).value)
    assert estimate(both, Resampling(Days.SEEDS)).blocks == 2
    assert estimate(both, Resampling(Days.OWN)).blocks == 2 * DAYS


def test_of_one_day_nothing_is_known_and_of_nothing_neither() -> None:
    one = estimate(quantile(0.5, [np.array([1.0, 2.0, 3.0])]))
    assert (one.low, one.high) == (-np.inf, np.inf)
    assert one.value == pytest.approx(2.0)
    empty = Quantile((1,), 0.5, 0, np.zeros((1, 3, 4)), (float("nan"),))
    assert np.isnan(empty.value)
    assert np.isnan(empty.resampled(np.ones((2, 3)), Days.SHARED)).all()


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=50))
def test_every_time_is_in_a_bucket(values: list[float]) -> None:
    counts = bucket_counts(np.array(values), np.zeros(len(values), np.int64), 2)
    assert counts.shape == (2, BUCKETS)
    assert counts[0].sum() == len(values)
    assert not counts[1].any()
