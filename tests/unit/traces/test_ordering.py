"""Rows come out in order; what a wrong clock did is named by its line, not by what it did to others."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import TraceError
from tests.unit.traces.files import burstgpt_at, written
from traces.blocks import joined, request_block
from traces.ordering import REORDER_ROWS, in_order
from traces.readers import open_trace


def test_a_clock_that_jumps_ahead_and_back_is_named_and_costs_its_own_row_only(tmp_path: Path) -> None:
    timestamps = [float(n) for n in range(3 * REORDER_ROWS)]
    timestamps[100], timestamps[101] = 9e6, 9.1e6
    path = written(tmp_path, burstgpt_at(timestamps))
    with pytest.raises(TraceError, match=r":102: 8\.99785e\+06 s ahead of the rows after it: the clock jumped"):
        list(open_trace(path))
    lenient = open_trace(path, skip_bad=True)
    arrivals = [request.arrival_s for request in lenient]
    assert (len(arrivals), lenient.statistics.bad, arrivals[-1]) == (len(timestamps) - 2, 2, timestamps[-1])


def test_a_first_row_of_a_wrong_clock_is_one_too(tmp_path: Path) -> None:
    path = written(tmp_path, burstgpt_at([1e9, *(float(n) for n in range(2 * REORDER_ROWS))]))
    lenient = open_trace(path, skip_bad=True)
    assert sum(1 for _ in lenient) == 2 * REORDER_ROWS
    assert lenient.statistics.first_bad.startswith("line 2: ")


def test_a_night_without_requests_is_no_jump(tmp_path: Path) -> None:
    timestamps = [float(n) if n < REORDER_ROWS else n + 40_000.0 for n in range(3 * REORDER_ROWS)]
    assert sum(1 for _ in open_trace(written(tmp_path, burstgpt_at(timestamps)))) == len(timestamps)


def test_a_clock_set_back_for_good_is_told_where_it_happened(tmp_path: Path) -> None:
    timestamps = [n if n < 2 * REORDER_ROWS else n - 7200.0 for n in range(4 * REORDER_ROWS)]
    with pytest.raises(TraceError, match=rf":{2 * REORDER_ROWS + 2}: .* sort the file by time"):
        list(open_trace(written(tmp_path, burstgpt_at(timestamps))))


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 20_000), max_size=5))
def test_what_is_left_out_does_not_depend_on_how_rows_are_divided(seed: int, cuts: list[int]) -> None:
    random = np.random.default_rng(seed)
    at = np.arange(20_000.0) + random.normal(0, 300, 20_000)
    at[random.integers(0, 20_000, 3)] += 1e6
    block, lines = request_block(at, at, at), np.arange(20_000)
    edges = [0, *sorted(cuts), 20_000]

    def ordered(pieces: list[int]) -> tuple[list[float], list[int]]:
        refused: list[int] = []
        parts = ((block.take(slice(a, b)), lines[a:b]) for a, b in pairwise(pieces) if b > a)
        found = joined(list(in_order(parts, lambda line, _: refused.append(line))))
        return found.arrival_s.tolist(), sorted(refused)

    divided, whole = ordered(edges), ordered([0, 20_000])
    assert divided == whole
    assert whole[0] == sorted(whole[0])
