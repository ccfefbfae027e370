"""Chance belongs to names and keys, not to the order of asking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.randomness import Draws, stream

keys = st.integers(-(2**63), 2**63 - 1)


@given(st.integers(), st.lists(keys, min_size=1, max_size=20), keys)
def test_one_key_and_many_draw_the_same_bits(seed: int, first: list[int], second: int) -> None:
    draws = Draws(seed, "patience")
    several = draws.uniforms(np.array(first), second)
    assert several.tolist() == [draws.uniform(number, second) for number in first]
    assert all(0 < value < 1 for value in several)


def test_names_and_seeds_give_streams_of_their_own() -> None:
    first = [stream(seed, *names).random() for seed in (1, 2, -1) for names in (("a",), ("b",), ("a", "b"), ("ab",))]
    assert len(set(first)) == len(first)
    assert stream(1, "a").random() == first[0]


def test_keyed_draws_are_uniform_and_their_keys_independent() -> None:
    draws = Draws(7, "test")
    rows = np.arange(200_000)
    values = draws.uniforms(rows)
    assert np.histogram(values, 20, (0, 1))[0] == pytest.approx(10_000, rel=0.05)
    assert abs(np.corrcoef(values, draws.uniforms(rows, 1))[0, 1]) < 0.01
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.01


def test_normal_and_lognormal_draws_have_their_moments() -> None:
    draws = Draws(3, "test")
    normal = np.array([draws.normal(n) for n in range(20_000)])
    assert (normal.mean(), normal.std()) == pytest.approx((0, 1), abs=0.03)
    assert np.median([draws.lognormal(20.0, 0.5, n) for n in range(5000)]) == pytest.approx(20, rel=0.05)
