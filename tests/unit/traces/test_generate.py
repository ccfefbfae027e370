"""Generated load has the rates, lengths and burstiness it was asked for, and a fit finds them again."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ConfigError, TraceError
from traces.fit import fit_profile, hourly_shape
from traces.generate import (
    DEMO_PEAK,
    demo_curve,
    demo_load,
    generate,
    scale_tokens,
)
from traces.lengths import TokenQuantiles
from traces.profiles import load_profile, profile_names
from traces.rates import RateCurve
from traces.schema import TraceRequest

STEADY = RateCurve((0.0, 4000.0), (5.0, 5.0))

curves = st.lists(st.tuples(st.floats(0.1, 40), st.floats(0, 20)), min_size=1, max_size=4).map(
    lambda steps: RateCurve(
        (0.0, *(sum(width for width, _ in steps[: n + 1]) for n in range(len(steps)))), (1.0, *(r for _, r in steps))
    )
)


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_says_where_it_is_from_and_is_found_again_in_what_it_generates(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert "CC BY 4.0" in profile.provenance or "Apache-2.0" in profile.provenance
    again = fit_profile(generate(profile, STEADY, seed=1), name=name, provenance="generated")
    assert again.arrival_cv == pytest.approx(profile.arrival_cv, rel=0.05)
    assert again.correlation == pytest.approx(profile.correlation, abs=0.03)
    for made, wanted in ((again.prompt, profile.prompt), (again.output, profile.output)):
        for probability in (0.25, 0.5, 0.75, 0.95):
            assert made.at(probability) == pytest.approx(wanted.at(probability), rel=0.1)


def test_an_unknown_profile_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="azure2023_conv, burstgpt1_api, burstgpt1_conv"):
        load_profile("nobody")


def test_generated_load_depends_on_the_seed_alone() -> None:
    profile = load_profile("azure2023_conv")
    first, again, other = (list(generate(profile, STEADY, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@given(curves, st.integers())
def test_generated_requests_come_in_order_within_the_curve(curve: RateCurve, seed: int) -> None:
    requests = list(generate(load_profile("azure2023_conv"), curve, seed))
    assert all(before.arrival_s <= after.arrival_s for before, after in pairwise(requests))
    assert all(0 <= request.arrival_s <= curve.times_s[-1] for request in requests)
    assert all(request.prompt_tokens >= 1 and request.output_tokens >= 1 for request in requests)


@given(curves, st.floats(0, 1))
def test_the_time_of_an_expected_count_is_the_inverse_of_the_integral(curve: RateCurve, share: float) -> None:
    until = curve.expected_until()
    at = curve.time_of(share * until[-1], until)
    rate = float(np.interp(at, curve.times_s, curve.rates_per_s))
    index = min(max(int(np.searchsorted(curve.times_s, at)), 1), len(until) - 1)
    elapsed = at - curve.times_s[index - 1]
    expected = until[index - 1] + elapsed * (curve.rates_per_s[index - 1] + rate) / 2
    assert expected == pytest.approx(share * until[-1], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("times_s", "rates_per_s"),
    [((0.0,), (1.0,)), ((1.0, 2.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 1.0)), ((0.0, 1.0), (1.0, -1.0)), ((0.0, 1.0), ())],
    ids=["one point", "late start", "no width", "negative rate", "no rates"],
)
def test_what_is_no_rate_curve_is_refused(times_s: tuple[float, ...], rates_per_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rate curve"):
        RateCurve(times_s, rates_per_s)


def test_the_demo_ramps_to_three_replicas_worth_and_ends_quiet() -> None:
    curve = demo_curve(one_replica_per_s=20.0, duration_s=100.0)
    assert max(curve.rates_per_s) == DEMO_PEAK * 20.0
    per_ten_s = Counter(
        int(request.arrival_s // 10) for request in demo_load(load_profile("azure2023_conv"), 20.0, 100.0, seed=1)
    )
    assert per_ten_s[4] == pytest.approx(600, rel=0.2)
    assert 200 < per_ten_s[6] < 480, "a shoulder on which a drain begins under load"
    assert per_ten_s[9] < 80


def test_tokens_can_be_made_longer_or_shorter() -> None:
    profile = load_profile("azure2023_conv")
    short = scale_tokens(profile, output=0.5)
    assert short.output.at(0.5) == pytest.approx(profile.output.at(0.5) / 2)
    assert short.prompt == profile.prompt


@given(st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_their_probability(first: float, second: float) -> None:
    quantiles = TokenQuantiles((0.0, 0.5, 1.0), (2.0, 2.0, 400.0))
    low, high = sorted((first, second))
    assert 2.0 <= quantiles.at(low) <= quantiles.at(high) <= 400.0 + 1e-9


def test_a_fit_leaves_slow_changes_of_the_rate_out_of_the_burstiness() -> None:
    profile = load_profile("azure2023_conv")
    tide = RateCurve((0.0, 3000.0, 6000.0), (0.5, 9.0, 0.5))
    again = fit_profile(generate(profile, tide, seed=2), name="tide", provenance="generated")
    assert again.arrival_cv == pytest.approx(profile.arrival_cv, rel=0.05)


def test_too_few_requests_are_not_fitted() -> None:
    with pytest.raises(TraceError, match="99 requests are too few"):
        fit_profile((TraceRequest(float(n), 1, 1) for n in range(99)), name="few", provenance="none")


def test_the_shape_of_the_day_needs_two_days() -> None:
    day = [float(hour) for hour in range(24)]
    assert hourly_shape(day) == ()
    assert hourly_shape(day * 2) == pytest.approx([hour / 11.5 for hour in range(24)], abs=1e-3)
