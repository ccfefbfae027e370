"""Windows cut, and scaling keeps order, sessions and the rate that was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import ConfigError
from tests.unit.traces.files import BURSTGPT, written
from traces.blocks import BLOCK_ROWS, RequestBlock
from traces.options import ScaleMethod
from traces.readers import open_trace
from traces.schema import Requests, TraceRequest, as_requests, replayable
from traces.shape import REPEAT_JITTER_S, Window, parse_window, scale_rate, window

EVERY_SECOND = [TraceRequest(float(n), n, 1) for n in range(1000)]
FIVE_A_SESSION = [TraceRequest(float(n), n, 1, session=n // 5) for n in range(5000)]

traces = st.lists(st.floats(0, 1e5), min_size=1, max_size=50).map(
    lambda arrivals: [TraceRequest(arrival, n, 1) for n, arrival in enumerate(sorted(arrivals))]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m..20m", Window(600, 1200)),
        ("..1h", Window(0, 3600)),
        ("0..10m", Window(0, 600)),
        ("30m..", Window(1800, math.inf)),
        ("1h30m..2h", Window(5400, 7200)),
    ],
)
def test_windows_are_written_as_durations(text: str, expected: Window) -> None:
    assert parse_window(text) == expected
    assert parse_window(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "10m", "20m..10m", "5m..5m", "a..b", "1m..2m..3m", "-1m..2m"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"window: .*(write for example|not a duration)"):
        parse_window(text)


def test_a_window_begins_at_its_own_zero_and_leaves_out_its_end() -> None:
    cut = list(window(EVERY_SECOND, 10, 13))
    assert [(request.arrival_s, request.prompt_tokens) for request in cut] == [(0, 10), (1, 11), (2, 12)]


def test_a_window_reads_no_further_than_its_end() -> None:
    def long() -> Iterator[RequestBlock]:
        yield from as_requests(EVERY_SECOND[:10]).blocks()
        pytest.fail("read too far")

    assert len(list(window(Requests(long), 0, 5))) == 5


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match="rate_scale"):
        scale_rate(EVERY_SECOND, factor, seed=1)


@pytest.mark.parametrize("method", ScaleMethod)
@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 1.7, 3.0, 6.25])
def test_the_rate_is_what_was_asked_for(factor: float, method: ScaleMethod) -> None:
    count = sum(1 for _ in scale_rate(EVERY_SECOND, factor, seed=3, method=method))
    part = factor % 1
    assert abs(count - 1000 * factor) <= 5 * math.sqrt(1000 * part * (1 - part))


@settings(max_examples=100)
@given(traces, st.floats(0.05, 5), st.integers(0, 2**32), st.sampled_from(ScaleMethod))
def test_scaled_requests_keep_order_and_depend_on_the_seed_alone(
    trace: list[TraceRequest], factor: float, seed: int, method: ScaleMethod
) -> None:
    scaled = scale_rate(trace, factor, seed, method)
    requests = list(scaled)
    assert all(before.arrival_s <= after.arrival_s for before, after in pairwise(requests))
    assert requests == list(scaled)
    assert {request.prompt_tokens for request in requests} <= {request.prompt_tokens for request in trace}
    assert math.floor(factor) * len(trace) <= len(requests) <= math.ceil(factor) * len(trace)


@given(traces, st.integers(1, 4), st.integers())
def test_whole_repeats_stay_within_the_jitter(trace: list[TraceRequest], factor: int, seed: int) -> None:
    by_prompt: dict[int, list[float]] = {}
    for request in scale_rate(trace, factor, seed):
        by_prompt.setdefault(request.prompt_tokens, []).append(request.arrival_s)
    for request in trace:
        arrivals = by_prompt[request.prompt_tokens]
        assert len(arrivals) == factor
        assert min(arrivals) == request.arrival_s
        assert max(arrivals) - min(arrivals) <= REPEAT_JITTER_S + 1e-9


@pytest.mark.parametrize("method", ScaleMethod)
@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_sessions_are_kept_and_copied_whole_under_names_of_their_own(factor: float, method: ScaleMethod) -> None:
    sizes: dict[int | None, int] = {}
    for request in scale_rate(FIVE_A_SESSION, factor, seed=5, method=method):
        sizes[request.session] = sizes.get(request.session, 0) + 1
    assert set(sizes.values()) == {5}
    assert None not in sizes
    assert len(sizes) == pytest.approx(1000 * factor, rel=0.1)


def test_another_seed_gives_another_choice() -> None:
    first, second = (list(scale_rate(EVERY_SECOND, 0.5, seed)) for seed in (1, 2))
    assert first != second


def test_repeats_multiply_a_burst_and_superposed_copies_spread_it() -> None:
    burst = [TraceRequest(500 + n / 1000, n, 1) for n in range(200)]
    trace = sorted(EVERY_SECOND + burst, key=lambda request: request.arrival_s)

    def peak(method: ScaleMethod) -> int:
        seconds = [int(request.arrival_s) for request in scale_rate(trace, 4, 11, method)]
        return max(seconds.count(second) for second in set(seconds))

    assert peak(ScaleMethod.CORRELATED) >= 4 * 200
    assert peak(ScaleMethod.SUPERPOSE) <= 2 * 201


def test_superposed_copies_of_a_long_trace_keep_the_hour_of_the_day() -> None:
    noons = [TraceRequest(day * 86_400.0 + 12 * 3600, day, 1) for day in range(10)]
    noons = [TraceRequest(0.0, 99, 1), *noons]
    for request in scale_rate(noons, 6, 2, ScaleMethod.SUPERPOSE):
        from_noon_s = (request.arrival_s % 86_400) - 12 * 3600
        assert abs(from_noon_s) <= 600 or request.prompt_tokens == 99


def test_superposing_a_stream_that_can_be_read_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="use a list"):
        scale_rate(iter(EVERY_SECOND), 2, 1, ScaleMethod.SUPERPOSE)


def test_a_cut_and_scaled_file_is_read_lazily_and_twice(tmp_path: Path) -> None:
    trace = open_trace(written(tmp_path, BURSTGPT))
    scaled = scale_rate(window(trace, 0, 2), 2, 1, ScaleMethod.SUPERPOSE)
    assert list(scaled) == list(scaled)
    assert len(list(islice(scaled, 3))) == 3


def test_what_comes_after_does_not_change_what_came_before() -> None:
    changed = EVERY_SECOND[:500] + [TraceRequest(500 + n / 7, 1, 1) for n in range(3000)]
    before, after = (
        [request for request in scale_rate(trace, 2.5, 9) if request.arrival_s < 500]
        for trace in (EVERY_SECOND, changed)
    )
    assert before == after


@pytest.mark.parametrize("method", ScaleMethod)
def test_a_stretch_of_failed_requests_longer_than_a_block_is_scaled_around(method: ScaleMethod) -> None:
    good, failed = 20, 3 * BLOCK_ROWS
    rows = [TraceRequest(n / 1000, 1, 1, failed=good <= n < good + failed) for n in range(failed + 2 * good)]
    assert all(len(block) for block in replayable(rows).blocks())
    assert len(list(scale_rate(replayable(rows), 2.0, 1, method))) == 4 * good


@pytest.mark.parametrize("method", ScaleMethod)
def test_of_a_trace_in_which_all_requests_failed_nothing_is_left(method: ScaleMethod) -> None:
    rows = [TraceRequest(float(n), 1, 1, failed=True) for n in range(10)]
    assert list(scale_rate(replayable(rows), 2.0, 1, method)) == []
