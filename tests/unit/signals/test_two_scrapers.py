"""A replica that two scrapers read for a while, as one takes over from the other: nothing of it counts twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.reading import Freshness
from broker.model.signals import MetricSample, Signal
from broker.model.snapshot import ModelSnapshot
from signals.window import SignalWindow
from signals.window.engines import SOONEST_RESTART_S
from tests.unit.signals.samples import MODEL, histogram, scrape

PATIENCE_S = 15.0
TOKENS_PER_S = 100.0
RATES = {Signal.PROMPT_TOKEN_RATE: 100.0, Signal.GENERATION_TOKEN_RATE: 300.0, Signal.ARRIVAL_RATE: 10.0}


def answer(read_at: float, observed_at: float) -> MetricSample:
    """Of an engine that has long counted, and counts on evenly."""
    tokens = float(int(100_000 + TOKENS_PER_S * read_at))
    finished = tokens // 10
    return scrape(
        observed_at, running=2.0, waiting=1.0, prompt=tokens, generated=3 * tokens, finished=finished,
        queue_time=histogram(finished / 4, finished / 2, finished, finished),
    )  # fmt: skip


def seen(samples: list[MetricSample], now: float = 130.0) -> ModelSnapshot:
    window = SignalWindow(MODEL, (), PATIENCE_S)
    window.expect(("a",), 90.0)
    for sample in samples:
        window.observe(sample)
    return window.snapshot(now, now)


BY_ONE = [answer(second, second + 0.02) for second in range(100, 130)]


@st.composite
def reads_of_another(draw: st.DrawFn) -> list[MetricSample]:
    """For some seconds: each takes its time to arrive, and the clock is off by up to half a second."""
    off_s = draw(st.floats(-0.5, 0.5))
    samples = []
    for second in draw(st.sets(st.integers(105, 129), max_size=8)):
        read_at = second + draw(st.floats(0.0, 0.05))
        samples.append(answer(read_at, read_at + draw(st.floats(0.0, 0.3)) + off_s))
    return samples


@given(reads_of_another())
def test_rates_and_gauges_are_those_that_one_scraper_alone_would_have_seen(
    others: list[MetricSample],
) -> None:
    snapshot = seen([*BY_ONE, *others])
    for signal, rate in RATES.items():
        assert snapshot.reading(signal).current == pytest.approx(rate, rel=0.1), signal
    assert snapshot.reading(Signal.REQUESTS_RUNNING).current == 2.0
    assert snapshot.reading(Signal.QUEUE_TIME_P95).current == pytest.approx(
        seen(BY_ONE).reading(Signal.QUEUE_TIME_P95).value, rel=0.1
    )


def test_an_answer_that_overtakes_another_is_no_restart() -> None:
    overtaken = [answer(122.0, 122.08), answer(122.01, 122.03)]
    snapshot = seen([*BY_ONE, *overtaken])
    assert snapshot.reading(Signal.PROMPT_TOKEN_RATE).current == pytest.approx(TOKENS_PER_S)


def test_the_same_answer_twice_counts_once() -> None:
    assert seen([*BY_ONE, *BY_ONE]) == seen(BY_ONE)


def test_where_nothing_else_is_known_the_signal_is_not_below_zero() -> None:
    snapshot = seen([answer(129.0, 129.06), answer(129.01, 129.03)])
    assert snapshot.reading(Signal.PROMPT_TOKEN_RATE).current == 0.0
    assert snapshot.reading(Signal.QUEUE_TIME_P95).freshness is not Freshness.FRESH


def test_an_engine_that_did_restart_counts_from_zero() -> None:
    before = [scrape(float(second), prompt=1000.0 + second) for second in range(100, 120)]
    again_at = 119.0 + SOONEST_RESTART_S
    after = [scrape(again_at + second, prompt=10.0 * second) for second in range(10)]
    snapshot = seen([*before, *after], again_at + 9.0)
    assert snapshot.reading(Signal.PROMPT_TOKEN_RATE).current == pytest.approx((90.0 + 4.0) / 15.0)
