"""Profiles as values: where a workload goes beyond them, and what physics alone gives."""

from __future__ import annotations

import dataclasses

import pytest

from simulator.engine.profile import capacity_rps
from simulator.profiles.document import load_profile
from simulator.profiles.physics import GPUS, ModelShape, floors, from_physics
from simulator.profiles.profile import COEFFICIENTS, LoadTime, Method, Range, WorkloadRange, extrapolations

LLAMA_70B = ModelShape("Llama-3.1-70B", 70.6e9, 80, 8, 128)
KNOWN_START = LoadTime(80.0, 0.5, Method.CHOSEN, "for the test")
MEASURED = dataclasses.replace(
    load_profile("demo"), valid=WorkloadRange(Range(10, 500), Range(1, 200), Range(0, 0), Range(1, 16))
)


def test_a_workload_within_the_measured_range_is_no_extrapolation() -> None:
    workload = WorkloadRange(Range(10, 500), Range(20, 30), None, Range(2, 3))
    assert extrapolations(MEASURED, workload) == ()


def test_each_quantity_beyond_the_measured_range_is_told_once() -> None:
    found = extrapolations(MEASURED, WorkloadRange(Range(10, 501), Range(1, 2), Range(0, 0.5)))
    assert [(each.quantity, each.asked.high, each.valid.high) for each in found] == [
        ("prompt_tokens", 501, 500),
        ("cached_share", 0.5, 0),
    ]
    assert str(found[0]).startswith("extrapolated: prompt_tokens 10 to 501, measured 10 to 500 (base_s, ")


def test_a_value_with_a_range_of_its_own_is_judged_by_that() -> None:
    narrow = dataclasses.replace(MEASURED.coefficients["s_per_kv_token"], valid=WorkloadRange(Range(10, 50)))
    profile = dataclasses.replace(MEASURED, coefficients={**MEASURED.coefficients, "s_per_kv_token": narrow})
    (found,) = extrapolations(profile, WorkloadRange(Range(10, 100)))
    assert found.values == ("s_per_kv_token",)


def test_a_profile_of_chosen_numbers_extrapolates_nothing() -> None:
    assert extrapolations(load_profile("demo"), WorkloadRange(Range(1, 1e6))) == ()


def test_floors_follow_from_the_data_sheet() -> None:
    least = floors(LLAMA_70B, GPUS["H100 SXM"], 4)
    assert least.base_s == pytest.approx(141.2e9 / 4 / 3.35e12)
    assert least.s_per_prefill_token == pytest.approx(2 * 70.6e9 / 4 / 989e12)
    assert least.s_per_kv_token == pytest.approx(2 * 80 * 8 * 128 * 2 / 4 / 3.35e12)


def test_a_profile_of_physics_alone_says_that_nothing_was_measured_and_fits_the_known_cache() -> None:
    profile = from_physics("70b", LLAMA_70B, GPUS["H100 SXM"], 4, KNOWN_START)
    assert {profile.coefficients[name].method for name in COEFFICIENTS} == {Method.FLOOR}
    assert "Nothing was measured" in profile.summary
    assert profile.engine.kv_capacity_tokens == pytest.approx(485_000, rel=0.25)  # 484 to 487 thousand are reported
    assert capacity_rps(profile.engine, 500, 200) > 10


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"141 GB of weights\) does not fit on 1 x H100 SXM"):
        from_physics("70b", LLAMA_70B, GPUS["H100 SXM"], 1, KNOWN_START)
