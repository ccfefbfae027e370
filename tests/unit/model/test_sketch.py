"""Sketches add up in any order and their quantiles keep the stated error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.sketch import BUCKETS, EMPTY_SKETCH, SMALLEST, Sketch, bucket_of, bucket_value

RELATIVE_ERROR = 2 ** (1 / 16) - 1 + 1e-9

values = st.floats(min_value=SMALLEST * 1.001, max_value=9e7)
sketches = st.lists(st.floats(min_value=0.0, max_value=1e9), max_size=30).map(Sketch.of)


@given(sketches, sketches, sketches)
def test_merging_does_not_depend_on_order_or_grouping(a: Sketch, b: Sketch, c: Sketch) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == a.merge(b, c)
    assert a.merge(EMPTY_SKETCH) == a


@given(st.lists(values), st.lists(values))
def test_a_merged_sketch_is_the_sketch_of_all_values(left: list[float], right: list[float]) -> None:
    assert Sketch.of(left).merge(Sketch.of(right)) == Sketch.of(left + right)
    assert Sketch.of(left + right).count == len(left) + len(right)


@given(st.lists(values, min_size=1), st.floats(min_value=0.0, max_value=1.0))
def test_a_quantile_is_within_the_stated_error_of_the_value_at_its_rank(numbers: list[float], q: float) -> None:
    exact = sorted(numbers)[max(1, math.ceil(q * len(numbers) - 1e-9)) - 1]
    assert Sketch.of(numbers).quantile(q) == pytest.approx(exact, rel=RELATIVE_ERROR)


@given(values)
def test_a_bucket_stands_within_the_stated_error_of_its_values(value: float) -> None:
    assert bucket_value(bucket_of(value)) == pytest.approx(value, rel=RELATIVE_ERROR)


@given(st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 2**32 - 1)))
def test_counts_come_back_by_rising_bucket(counts: dict[int, int]) -> None:
    assert list(Sketch.from_counts(counts)) == sorted(counts.items())


@pytest.mark.parametrize("counts", [{-1: 1}, {BUCKETS: 1}, {0: 0}, {0: -1}, {0: 2**32}])
def test_counts_out_of_range_are_refused(counts: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="not of this sketch"):
        Sketch.from_counts(counts)


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(0.0, 0), (-3.0, 0), (SMALLEST, 0), (SMALLEST * 2, 8), (1e300, BUCKETS - 1), (math.inf, BUCKETS - 1)],
)
def test_values_beyond_the_range_go_to_the_outermost_buckets(value: float, bucket: int) -> None:
    assert bucket_of(value) == bucket


def test_what_is_not_a_number_has_no_bucket() -> None:
    with pytest.raises(ValueError, match="NaN"):
        bucket_of(math.nan)


def test_merging_full_buckets_stays_full_instead_of_failing() -> None:
    full = Sketch.from_counts({5: 2**32 - 1})
    assert full.merge(full) == full


def test_an_empty_sketch_has_no_quantile() -> None:
    assert EMPTY_SKETCH.quantile(0.5) is None
    assert EMPTY_SKETCH.count == 0
