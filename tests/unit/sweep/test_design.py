"""Grids are whole, draws are of their distribution and hang on their own name only."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from simulator.sweep.design import Between, Choice, Search, Setting


def test_a_grid_is_every_combination_once_in_order() -> None:
    search = Search({"a": [1, 2], "b": ["x", "y"]}, {})
    assert [tuple(setting.value for setting in settings) for settings in search.settings()] == [
        (1, "x"), (1, "y"), (2, "x"), (2, "y"),
    ]  # fmt: skip
    assert len(search) == 4


def test_without_anything_to_vary_there_is_one_setting() -> None:
    assert list(Search({}, {}).settings()) == [()]


def test_draws_go_with_every_combination_of_the_grid() -> None:
    search = Search({"a": [1, 2]}, {"b": Between(0.0, 1.0)}, samples=3)
    found = list(search.settings())
    assert len(found) == len(search) == 6
    assert found[0][1] == found[1][1] != found[2][1]


def test_another_path_leaves_the_draws_of_the_first_as_they_were() -> None:
    def drawn(search: Search) -> list[Setting]:
        return [next(s for s in settings if s.path == "b") for settings in search.settings()]

    alone = Search({}, {"b": Between(0.0, 1.0)}, samples=5)
    beside = Search({}, {"a": Choice((1, 2)), "b": Between(0.0, 1.0)}, samples=5)
    assert drawn(alone) == drawn(beside)
    assert drawn(alone) != drawn(Search({}, {"b": Between(0.0, 1.0)}, samples=5, seed=2))


@given(st.floats(0.0, 1.0, exclude_max=True), st.floats(0.001, 100.0), st.floats(1.1, 1000.0), st.booleans())
def test_values_lie_between_their_ends(share: float, low: float, factor: float, logarithmic: bool) -> None:
    value = Between(low, low * factor, logarithmic).at(share)
    assert isinstance(value, float)
    assert low * (1 - 1e-5) <= value <= low * factor * (1 + 1e-5)


def test_half_of_a_logarithmic_range_lies_below_its_geometric_mean() -> None:
    assert math.isclose(float(str(Between(0.01, 100.0, logarithmic=True).at(0.5))), 1.0)


def test_whole_values_are_whole() -> None:
    assert Between(1.0, 4.0, whole=True).at(0.9) == 4
    assert isinstance(Between(1.0, 4.0, whole=True).at(0.4), int)


def test_every_choice_is_as_likely() -> None:
    assert [Choice(("a", "b")).at(share) for share in (0.0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]
