"""Intervals that cover, pairs that cancel, Holm's textbook numbers, and cost at equal SLO on a known curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.statistics import (
    Days,
    Floats,
    Metric,
    Resampling,
    SweepPoint,
    cost_at,
    cost_difference_at,
    difference,
    estimate,
    estimates,
    expanded_tail,
    holm,
    paired,
    student_quantile,
)

FEW = Resampling(resamples=1000)


def means(values: Floats, seeds: tuple[int, ...] | None = None) -> Metric:
    """A plain mean over seeds and days."""
    return Metric(seeds or tuple(range(len(values))), values, np.ones_like(values))


def covered(draw: object, *, days: Days, runs: int = 400) -> float:
    """In how many of the runs the interval holds 0, the truth."""
    assert callable(draw)
    generator = np.random.default_rng(20)
    hits = 0
    for run in range(runs):
        told = estimate(means(draw(generator)), Resampling(days=days, resamples=1000, seed=run))
        hits += told.low <= 0 <= told.high
    return hits / runs


# Three Monte-Carlo errors of 400 runs around 95 % are 3.3 points.
COVERAGE = [
    ("days shared by all seeds", lambda g: g.normal(size=(1, 10)) + 0.3 * g.normal(size=(20, 10)), Days.SHARED),
    ("a week only", lambda g: g.normal(size=(1, 7)) + 0.3 * g.normal(size=(20, 7)), Days.SHARED),
    ("days of each seed's own", lambda g: g.normal(size=(10, 3)), Days.OWN),
    ("seeds of a day", lambda g: g.normal(size=(20, 1)), Days.SEEDS),
]


@pytest.mark.parametrize(("draw", "days"), [case[1:] for case in COVERAGE], ids=[case[0] for case in COVERAGE])
def test_intervals_hold_the_truth_as_often_as_they_say(draw: object, days: Days) -> None:
    assert covered(draw, days=days) == pytest.approx(0.95, abs=0.033)


def test_a_share_is_of_all_requests_and_not_a_mean_of_days() -> None:
    busy_and_quiet = Metric((1,), np.array([[900.0, 10.0]]), np.array([[1000.0, 10.0]]))
    assert busy_and_quiet.value == pytest.approx(910 / 1010)


def test_common_random_numbers_take_the_noise_out_of_a_difference() -> None:
    generator = np.random.default_rng(1)
    shared = generator.normal(size=(20, 14))
    first, second = means(shared), means(shared + 0.1 + 0.01 * generator.normal(size=shared.shape))
    told = difference(first, second)
    assert told.value == pytest.approx(0.1, abs=0.005)
    assert told.high - told.low < 0.02
    alone = estimate(second)
    assert alone.high - alone.low > 10 * (told.high - told.low)
    assert told.p is not None
    assert told.p < 0.001


def test_p_values_of_no_difference_are_even() -> None:
    generator = np.random.default_rng(3)
    p_values = []
    for run in range(300):
        first, second = (means(generator.normal(size=(20, 1))) for _ in range(2))
        told = difference(first, second, Resampling(days=Days.SEEDS, resamples=500, seed=run))
        p_values.append(told.p)
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.06)


def test_pairing_keeps_the_common_seeds_in_one_order() -> None:
    first = means(np.array([[1.0], [2.0], [3.0]]), (5, 6, 7))
    second = means(np.array([[30.0], [10.0]]), (7, 5))
    one, other = paired([first, second])
    assert one.seeds == other.seeds == (5, 7)
    assert one.numerator.tolist() == [[1.0], [3.0]]
    assert other.numerator.tolist() == [[10.0], [30.0]]
    assert difference(first, second).n == 2


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="no seed"):
        paired([means(np.ones((1, 1)), (1,)), means(np.ones((1, 1)), (2,))])
    with pytest.raises(ValueError, match="days"):
        paired([means(np.ones((1, 1))), means(np.ones((1, 2)))])
    with pytest.raises(ValueError, match="twice"):
        means(np.ones((2, 1)), (1, 1))
    with pytest.raises(ValueError, match="one row for each"):
        means(np.ones((2, 1)), (1,))


def test_one_block_says_nothing_of_the_spread() -> None:
    told = estimate(means(np.ones((3, 1))))
    assert (told.value, told.low, told.high, told.n, told.blocks) == (1.0, -math.inf, math.inf, 3, 1)


def test_the_same_seed_gives_the_same_interval() -> None:
    metric = means(np.random.default_rng(1).normal(size=(5, 9)))
    assert estimate(metric, FEW) == estimate(metric, FEW)


# Student's t at 97.5 %, from any table.
@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (3, 3.182), (6, 2.447), (9, 2.262), (19, 2.093)]
)
def test_student_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(value, abs=5e-4)


def test_many_blocks_need_no_widening() -> None:
    assert expanded_tail(0.025, 10_000) == pytest.approx(0.025, rel=1e-3)
    # Hesterberg's example: n = 10 takes the 0.85 % percentile.
    assert expanded_tail(0.025, 10) == pytest.approx(0.0085, abs=2e-4)


def test_holms_p_values_are_those_of_the_textbook() -> None:
    assert holm((0.01, 0.04, 0.03, 0.005)) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm(()) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_raw_value_and_bonferroni(p_values: list[float]) -> None:
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, len(p_values) * raw) + 1e-12


# -- cost at equal SLO


def sweep(costs: list[float], missed: list[float], *, noise: float = 0.0) -> list[SweepPoint]:
    """Settings with these costs (a day) and missed shares, 20 seeds of 7 days, 10,000 requests a day."""
    generator = np.random.default_rng(4)
    arrivals = np.full((20, 7), 10_000.0)
    bad_days = np.exp(noise * generator.normal(size=(1, 7)))
    seeds = tuple(range(20))
    return [
        SweepPoint(
            cost,
            Metric(seeds, arrivals * (1 - np.minimum(1, share * bad_days)), arrivals),
            Metric(seeds, np.full((20, 7), cost), np.ones((20, 7))),
        )
        for cost, share in zip(costs, missed, strict=True)
    ]


def test_cost_is_read_off_a_known_curve() -> None:
    """Misses fall tenfold for each 10 GPU-hours: 100 costs 10 %, 110 costs 1 %, 120 costs 0.1 %."""
    told = cost_at(sweep([120.0, 100.0, 115.0, 105.0], [1e-3, 0.1, 10**-2.5, 10**-1.5]), resampling=FEW)
    assert [one.attainment for one in told] == [0.95, 0.99, 0.999]
    assert [one.cost.value for one in told if one.cost] == pytest.approx(
        [100 + 10 * math.log10(2), 110.0, 120.0], abs=1e-3
    )
    assert not any(one.at_most for one in told)


def test_what_the_sweep_does_not_reach_has_no_cost() -> None:
    told = cost_at(sweep([100.0, 110.0], [0.1, 0.01]), (0.999,), FEW)[0]
    assert told.cost is None
    assert told.reached == 0.0


def test_a_sweep_that_begins_above_tells_a_cost_at_most() -> None:
    told = cost_at(sweep([100.0, 110.0], [0.01, 0.001]), (0.95,), FEW)[0]
    assert told.at_most
    assert told.cost is not None
    assert told.cost.value == 100.0


def test_a_dearer_and_worse_setting_is_left_out() -> None:
    told = cost_at(sweep([100.0, 105.0, 120.0], [0.1, 0.5, 0.001]), (0.99,), FEW)[0]
    assert told.cost is not None
    assert told.cost.value == pytest.approx(110.0)


def test_uncertain_attainment_makes_cost_uncertain() -> None:
    points = sweep([90.0, 100.0, 110.0, 120.0], [1.0, 0.1, 0.01, 1e-3], noise=1.0)
    told = cost_at(points, (0.99,), FEW)[0]
    assert told.cost is not None
    assert told.cost.low < told.cost.value < told.cost.high
    assert told.cost.high - told.cost.low > 2
    assert (told.cost.n, told.cost.blocks) == (20, 7)
    barely = cost_at(points, (0.9983,), FEW)[0]
    assert 0 < barely.reached < 1
    assert barely.cost is None or barely.cost.high == math.inf


@pytest.mark.parametrize(("blocks", "most"), [(7, 0.3), (14, 0.2), (14, 0.01)])
def test_a_difference_is_called_one_just_where_its_interval_leaves_zero_out(blocks: int, most: float) -> None:
    generator = np.random.default_rng(4)
    for seed in range(40):
        noise = means(generator.normal(size=(1, blocks)))
        shifted = means(noise.numerator + most * generator.random() * 5 + generator.normal(size=(1, blocks)))
        told = difference(noise, shifted, Resampling(resamples=1000, seed=seed))
        assert told.p is not None
        if not 0.03 < told.p < 0.07:  # at the edge a resample more or less decides
            assert (told.p < 0.05) == (not told.low <= 0 <= told.high)


def test_three_blocks_of_one_sign_prove_little() -> None:
    told = difference(means(np.zeros((1, 3))), means(np.array([[1.0, 2.0, 4.0]])), FEW)
    assert told.p is not None
    assert 0.05 < told.p < 0.3


def test_estimates_of_many_are_those_of_each() -> None:
    generator = np.random.default_rng(3)
    metrics = [means(generator.normal(size=(3, 5))) for _ in range(4)]
    assert estimates(metrics, FEW) == [estimate(metric, FEW) for metric in metrics]
    assert estimates([], FEW) == []


def test_a_difference_at_equal_attainment_is_that_of_both_curves() -> None:
    first = sweep([100.0, 110.0, 120.0], [0.1, 0.01, 0.001], noise=0.3)
    second = sweep([200.0, 220.0, 240.0], [0.1, 0.01, 0.001], noise=0.3)
    [told, beyond] = cost_difference_at(first, second, (0.99, 0.9999), FEW)
    assert told is not None
    alone = [cost_at(points, (0.99,), FEW)[0].cost for points in (first, second)]
    assert alone[0] is not None
    assert alone[1] is not None
    assert told.value == pytest.approx(alone[1].value - alone[0].value)
    assert told.low <= told.value <= told.high
    assert told.p is not None
    assert told.p < 0.001
    assert beyond is None


def test_a_policy_does_not_differ_from_itself_at_equal_attainment() -> None:
    points = sweep([100.0, 110.0, 120.0], [0.1, 0.01, 0.001], noise=0.3)
    [told] = cost_difference_at(points, points, (0.99,), FEW)
    assert told is not None
    assert (told.value, told.low, told.high, told.p) == (0.0, 0.0, 0.0, 1.0)
