"""The fit finds what it was made from, and says so where it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.calibration.fit import Figure, Load, Metric, Statistic, figure_of, fit_profile
from simulator.calibration.replay import replay
from simulator.calibration.solve import Parameter, solve
from tests.support.measured import BLANK, TRUE_ENGINE, measured_load, poisson_requests

FIGURES = [(Metric.TTFT, Statistic.MEAN), (Metric.ITL, Statistic.MEAN), (Metric.E2E, Statistic.MEDIAN)]


def summary_load(rate_per_s: float, count: int, *, cached_share: float = 0.0) -> Load:
    """Some statistics of what the true engine does, no single request's times."""
    requests = poisson_requests(rate_per_s, count, cached_share=cached_share)
    times, _ = replay(TRUE_ENGINE, requests)
    figures = [Figure(metric, statistic, 0.0) for metric, statistic in FIGURES]
    return Load("summary", tuple(requests), tuple(replace(each, value=figure_of(each, times)) for each in figures))


def test_requests_of_several_loads_give_the_true_coefficients_back() -> None:
    """Nearly: a request that just misses an iteration makes the residuals rugged around the truth."""
    loads = [measured_load(poisson_requests(rate, 60, seed=int(rate)), f"{rate:g}/s") for rate in (1.0, 4.0, 10.0)]
    fitted = fit_profile(loads, BLANK)
    for name in ("base_s", "s_per_prefill_token"):
        assert getattr(fitted.engine, name) == pytest.approx(getattr(TRUE_ENGINE, name), rel=0.15), name
    context = 1000  # tokens of a sequence here: time per sequence and per cached token are alike in effect
    per_sequence = fitted.engine.s_per_decode_sequence + context * fitted.engine.s_per_kv_token
    assert per_sequence == pytest.approx(150e-6 + context * 0.08e-6, rel=0.3)
    assert fitted.rms < 0.15
    assert {each.figure for each in fitted.residuals} >= {"ttft median", "tpot p95"}


@pytest.mark.parametrize("true_s", [0.0, 0.03])
def test_requests_that_found_the_engine_asleep_and_others_that_did_not_tell_its_wakeup_latency(true_s: float) -> None:
    requests = tuple(poisson_requests(0.5, 120))
    slow_to_wake = replace(TRUE_ENGINE, wakeup_latency_s=true_s)
    fitted = fit_profile([Load("light", requests, measured=replay(slow_to_wake, requests)[0])], BLANK)
    assert fitted.engine.wakeup_latency_s == pytest.approx(true_s, abs=0.005)


def test_an_engine_that_never_slept_tells_no_wakeup_latency() -> None:
    requests = tuple(replace(request, arrival_at=0.0) for request in poisson_requests(1.0, 60))
    fitted = fit_profile([Load("at once", requests, measured=replay(TRUE_ENGINE, requests)[0])], BLANK)
    assert "wakeup_latency_s" in {each.name for each in fitted.held}
    assert fitted.engine.wakeup_latency_s == 0.0


def test_one_load_of_means_leaves_the_small_terms_unknown_and_says_with_what_they_are_mixed_up() -> None:
    fitted = fit_profile([summary_load(4.0, 60)], BLANK)
    held = {each.name: each for each in fitted.held}
    assert "s_per_kv_token" in held
    assert "base_s" not in held
    assert any("cannot be told apart from" in each.reason for each in fitted.held)
    assert any(remark.startswith("one load only") for remark in fitted.remarks)
    assert fitted.rms < 0.05


def test_prefill_from_a_cached_benchmark_is_not_guessed() -> None:
    base = replace(BLANK, s_per_prefill_token=33e-6)
    fitted = fit_profile([summary_load(1.0, 60, cached_share=0.97), summary_load(8.0, 60, cached_share=0.97)], base)
    held = {each.name: each for each in fitted.held}
    assert "97% of the prompt tokens were cached" in held["s_per_prefill_token"].reason
    assert fitted.engine.s_per_prefill_token == 33e-6


def test_prompts_faster_than_the_hardware_point_to_the_cache() -> None:
    loads = [measured_load(poisson_requests(rate, 80, seed=int(rate)), f"{rate:g}/s") for rate in (1.0, 6.0)]
    fitted = fit_profile(loads, BLANK, floors={"s_per_prefill_token": 200e-6})
    assert fitted.engine.s_per_prefill_token == pytest.approx(200e-6, rel=0.01)
    assert any("below its physical floor" in remark for remark in fitted.remarks)


def test_a_coefficient_can_be_held() -> None:
    load = measured_load(poisson_requests(4.0, 60))
    fitted = fit_profile([load], replace(BLANK, s_per_kv_token=0.08e-6), free=("base_s", "s_per_decode_sequence"))
    assert set(fitted.relative_errors) == {"base_s", "s_per_decode_sequence"}
    assert fitted.engine.s_per_kv_token == 0.08e-6


@pytest.mark.parametrize(
    ("loads", "problem"),
    [
        pytest.param([], "no load", id="nothing"),
        pytest.param(
            [Load("x", tuple(poisson_requests(1.0, 5)), (Figure(Metric.TTFT, Statistic.MEAN, 0.1),))],
            "no time between tokens", id="no decoding",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_at_all_is_refused(loads: list[Load], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fit_profile(loads, BLANK)


def test_a_line_is_fitted_and_its_worth_told() -> None:
    x = np.arange(1.0, 20.0)
    noise = np.random.default_rng(1).normal(0, 0.01, x.size)
    solution = solve(
        lambda values: (values["slope"] * x + values["offset"] - 3 * x - 5) / 10 + noise,
        [Parameter("slope", 1.0, 1.0), Parameter("offset", 1.0, 5.0)],
    )
    assert solution.values == {"slope": pytest.approx(3, rel=0.02), "offset": pytest.approx(5, rel=0.05)}
    assert (solution.unknown, solution.at_bound) == ((), ())


def test_two_parameters_of_which_only_the_sum_matters_are_told_together() -> None:
    parameters = [Parameter("a", 1.0, 1.0), Parameter("b", 1.0, 1.0), Parameter("c", 1.0, 1.0)]
    solution = solve(
        lambda values: np.array([values["a"] + values["b"] - 4, values["c"] - 2, values["c"] - 2]), parameters
    )
    assert [set(names) for names in solution.unknown] == [{"a", "b"}]
    assert solution.relative_errors["c"] < 0.1 < 0.5 < solution.relative_errors["a"]


def test_a_parameter_without_effect_is_told_alone() -> None:
    solution = solve(lambda values: np.array([values["a"] - 4.0]), [Parameter("a", 1.0, 1.0), Parameter("b", 1.0, 1.0)])
    assert solution.unknown == (("b",),)


def test_a_value_at_its_bound_is_told() -> None:
    solution = solve(lambda values: np.array([values["a"] - 4.0]), [Parameter("a", 1.0, 1.0, high=2.0)])
    assert solution.at_bound == ("a",)
