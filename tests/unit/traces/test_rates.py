"""Rates follow days, bursts and curves, and scaling changes the mean alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import ConfigError
from traces.blocks import joined
from traces.fit import hour_levels
from traces.generate import generate, renewal
from traces.options import ScaleMethod
from traces.profiles import load_profile
from traces.randomness import stream
from traces.rates import RateCurve, bursting, shaped, steady
from traces.schema import Requests
from traces.shape import scale_rate


def gaps_of(requests: Requests) -> tuple[float, float]:
    """(requests, coefficient of variation of their gaps)"""
    at = joined(list(requests.blocks())).arrival_s
    gaps = np.diff(at)
    return len(at), float(gaps.std() / gaps.mean())


@settings(max_examples=25)
@given(st.floats(0.3, 2.5), st.floats(0.2, 6.0), st.integers(0, 2**32))
def test_scaling_a_generated_rate_keeps_its_burstiness(cv: float, factor: float, seed: int) -> None:
    curve = steady(2.0, 4000.0).scaled(factor)
    at = np.concatenate(list(renewal(cv, curve, stream(seed, "test"))))
    gaps = np.diff(at)
    expected = 8000 * factor
    assert abs(len(at) - expected) < 5 * cv * math.sqrt(expected) + 5
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.25 * max(1.0, cv) * math.sqrt(1600 / expected) + 0.02)


@settings(max_examples=15)
@given(st.floats(0.2, 0.9), st.floats(1.2, 5.0), st.integers(0, 2**32))
def test_the_mean_rate_is_scaled_whatever_the_method(down: float, up: float, seed: int) -> None:
    requests = generate(load_profile("azure2023_conv"), steady(5.0, 1200.0), seed)
    count, _ = gaps_of(requests)
    for factor in (down, up):
        for method in ScaleMethod:
            scaled, _ = gaps_of(scale_rate(requests, factor, seed, method))
            assert abs(scaled - factor * count) < 5 * math.sqrt(factor * count)


@settings(max_examples=10)
@given(st.integers(2, 8), st.integers(0, 2**32))
def test_correlated_users_keep_the_variance_of_minutes_and_copies_even_it_out(factor: int, seed: int) -> None:
    """Counts of whole seconds: their coefficient of variation stays for perfectly correlated users, and falls with the
    square root of the factor for independent copies."""
    requests = generate(load_profile("mooncake_conv"), steady(3.0, 3600.0), seed)

    def variation(scaled: Requests) -> float:
        at = joined(list(scaled.blocks())).arrival_s
        counts = np.bincount((at // 10).astype(np.int64), minlength=360)[:360]
        return float(counts.std() / counts.mean())

    alone = variation(requests)
    together = variation(scale_rate(requests, factor, seed, ScaleMethod.CORRELATED))
    apart = variation(scale_rate(requests, factor, seed, ScaleMethod.SUPERPOSE))
    assert together == pytest.approx(alone, rel=0.1)
    assert apart == pytest.approx(alone / math.sqrt(factor), rel=0.35)


def test_a_renewal_process_has_its_rate_from_the_first_second_on() -> None:
    """Beginning with a whole gap, or with an arrival, would bend the first minutes of a bursty load."""
    counts = [sum(len(at) for at in renewal(3.0, steady(1.0, 30.0), stream(seed, "test"))) for seed in range(3000)]
    assert np.mean(counts) == pytest.approx(30.0, rel=0.04)


def test_a_shape_of_the_day_is_followed_from_the_hour_it_begins() -> None:
    hours = [1.0] * 12 + [3.0] * 12
    curve = shaped(10.0, hours, 86_400.0, begin_hour=6.0)
    assert curve.rates_per_s[0] == pytest.approx(5.0)
    assert max(curve.rates_per_s) == pytest.approx(15.0)
    assert float(np.interp(9 * 3600, curve.times_s, curve.rates_per_s)) == pytest.approx(15.0)
    assert curve.expected_until()[-1] == pytest.approx(864_000, rel=0.01)
    with pytest.raises(ConfigError, match="no shape of the day"):
        shaped(1.0, (), 60.0)


def test_hours_of_bursts_have_the_levels_of_their_source() -> None:
    levels = load_profile("burstgpt1_api").hour_levels
    assert levels is not None
    curve = bursting(2.0, levels, 5000 * 3600.0, stream(1, "hours"))
    middles = np.interp(np.arange(5000) * 3600.0 + 1800, curve.times_s, curve.rates_per_s)
    assert middles.mean() == pytest.approx(2.0, rel=0.2)
    assert np.mean(middles < 0.002) == pytest.approx(0.45, abs=0.1)
    again = hour_levels((middles * 3600).round().tolist())
    assert again is not None
    assert again.persistence == pytest.approx(levels.persistence, abs=0.1)


def test_a_curve_is_cut_or_held_at_its_end() -> None:
    curve = RateCurve((0.0, 10.0), (0.0, 10.0))
    assert curve.until(5.0) == RateCurve((0.0, 5.0), (0.0, 5.0))
    assert curve.until(20.0) == RateCurve((0.0, 10.0, 20.0), (0.0, 10.0, 10.0))


@pytest.mark.parametrize(
    ("times_s", "rates_per_s", "words"),
    [
        pytest.param((0.0, 1.0), (1.0,), "two points or more", id="a rate is missing"),
        pytest.param((0.0,), (1.0,), "two points or more", id="a single point"),
        pytest.param((1.0, 2.0), (1.0, 1.0), "the first at time 0", id="a late begin"),
        pytest.param((0.0, 2.0, 2.0), (1.0, 1.0, 1.0), "must rise", id="a time that comes twice"),
        pytest.param((0.0, 1.0), (1.0, -1.0), "0 or more", id="a rate below nothing"),
        pytest.param((0.0, 1.0), (1.0, math.inf), "0 or more", id="a rate without end"),
    ],
)
def test_a_curve_that_says_nothing_is_refused(
    times_s: tuple[float, ...], rates_per_s: tuple[float, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        RateCurve(times_s, rates_per_s)
