"""Service levels over all arrivals: what counts as a miss, and the worst windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.report.slo import (
    FIVE_MINUTES_S,
    HOUR_S,
    FirstTokenLimit,
    RequestTable,
    ServiceLevel,
    Share,
    kept_in_time,
    worst_window,
)

CHAT = ServiceLevel("chat", (FirstTokenLimit(1000, 1.0), FirstTokenLimit(8000, 4.0)), 0.1)
NEVER = math.nan


def requests(*rows: tuple[float, float, float, int, int, bool]) -> RequestTable:
    """Rows of arrival, first token, end, prompt, output, finished."""
    arrival, first, end, prompt, output, finished = zip(*rows, strict=True)
    return RequestTable(
        arrival_s=np.array(arrival, dtype=np.float64),
        first_token_s=np.array(first, dtype=np.float64),
        end_s=np.array(end, dtype=np.float64),
        prompt_tokens=np.array(prompt, dtype=np.int64),
        output_tokens=np.array(output, dtype=np.int64),
        finished=np.array(finished, dtype=np.bool_),
        level=np.zeros(len(rows), np.int64),
        tenant=np.zeros(len(rows), np.int64),
    )


JUDGED = [
    ("both limits kept", (0.0, 0.5, 1.5, 100, 11, True), True),
    ("limits are inclusive", (0.0, 1.0, 2.0, 1000, 11, True), True),
    ("first token too late", (0.0, 1.25, 1.5, 1000, 11, True), False),
    ("a long prompt may take longer", (0.0, 1.25, 1.5, 1001, 11, True), True),
    ("the last limit holds beyond", (0.0, 4.5, 5.0, 90000, 11, True), False),
    ("tokens too slow", (0.0, 0.5, 1.75, 100, 11, True), False),
    ("a single token has no pace", (0.0, 0.5, 0.5, 100, 1, True), True),
    ("cut, though in time until then", (0.0, 0.5, 1.0, 100, 11, False), False),
    ("rejected", (0.0, NEVER, 0.0, 100, 0, False), False),
    ("still waiting at the end", (0.0, NEVER, NEVER, 100, 0, False), False),
]


@pytest.mark.parametrize(("row", "kept"), [case[1:] for case in JUDGED], ids=[case[0] for case in JUDGED])
def test_a_request_is_in_time_if(row: tuple[float, float, float, int, int, bool], kept: bool) -> None:
    assert kept_in_time(requests(row), [CHAT]).tolist() == [kept]


def test_limits_rise_with_the_prompt() -> None:
    with pytest.raises(ValueError, match="rising"):
        ServiceLevel("wrong", (FirstTokenLimit(10, 1.0), FirstTokenLimit(5, 2.0)), 1.0)


def test_the_worst_window_need_not_begin_on_its_own_multiple() -> None:
    """Misses from 04:00 to 06:00 lie in two aligned windows of five minutes, and in one that begins at 01:00."""
    arrivals = np.arange(0.0, 1200.0, 10.0)
    kept = ~((arrivals >= 240) & (arrivals < 360))
    worst = worst_window(arrivals, kept, FIVE_MINUTES_S)
    assert worst is not None
    assert (worst.begin_s, worst.share) == (60.0, Share(18, 30))


def test_a_run_shorter_than_the_window_is_one_window() -> None:
    worst = worst_window(np.array([5.0, 700.0]), np.array([True, False]), HOUR_S)
    assert worst is not None
    assert (worst.begin_s, worst.share) == (0.0, Share(1, 2))


arrivals_and_kept = st.lists(st.tuples(st.floats(0, 3 * 86399), st.booleans()), min_size=1, max_size=80)


@given(arrivals_and_kept)
def test_the_worst_window_is_no_better_than_the_whole(rows: list[tuple[float, bool]]) -> None:
    arrivals, kept = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    for length_s in (HOUR_S, FIVE_MINUTES_S):
        worst = worst_window(arrivals, kept, length_s)
        assert worst is not None
        assert worst.share.value is not None
        assert worst.share.value <= kept.mean() + 1e-12
        inside = (arrivals >= worst.begin_s) & (arrivals < worst.begin_s + length_s)
        assert worst.share == Share(int(kept[inside].sum()), int(inside.sum()))
