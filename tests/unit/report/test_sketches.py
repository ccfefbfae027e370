"""Sketches of arrays are those of their values one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from broker.model.sketch import BUCKETS, SMALLEST, Sketch, bucket_of
from simulator.sketches import buckets_of, sketches_of

VALUES = st.one_of(
    st.floats(0.0, 1e9), st.integers(0, BUCKETS).map(lambda bucket: SMALLEST * 2.0 ** (bucket / 8)), st.just(0.0)
)
KIND = st.lists(st.tuples(st.integers(0, 2), VALUES), max_size=30)


@given(st.lists(VALUES, min_size=1))
def test_each_value_is_in_its_bucket(values: list[float]) -> None:
    assert buckets_of(np.array(values)).tolist() == [bucket_of(value) for value in values]


@given(st.lists(KIND, min_size=1, max_size=4))
def test_a_sketch_for_each_kind_and_group(kinds: list[list[tuple[int, float]]]) -> None:
    columns = [
        (np.array([group for group, _ in kind], np.int16), np.array([value for _, value in kind], float))
        for kind in kinds
    ]
    assert sketches_of(columns, 3) == [
        [Sketch.of(value for group, value in kind if group == wanted) for wanted in range(3)] for kind in kinds
    ]


def test_groups_are_as_many_as_models_can_be() -> None:
    groups = np.array([0, 499], np.int16)
    found = sketches_of([(groups, np.array([5, 7], np.int32))] * 5, 500)
    assert [found[4][0], found[4][499], found[4][1]] == [Sketch.of([5]), Sketch.of([7]), Sketch()]
