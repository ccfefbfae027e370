"""What must hold of a window whatever comes in whatever order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.signals import MetricSample, RequestSummary, Signal
from broker.model.sketch import Sketch
from broker.model.snapshot import ModelSnapshot, WindowNeed
from signals.window import SignalWindow
from tests.unit.signals.samples import MODEL, histogram, report, scrape

NEEDS = (WindowNeed(Signal.QUEUE_AGE, 30.0), WindowNeed(Signal.TTFT_P95, 20.0))
PATIENCE_S = 15.0
RATES = [signal for signal in Signal if "rate" in signal]


@st.composite
def scrapes(draw: st.DrawFn) -> list[MetricSample]:
    """Up to three replicas over 40 s, with counters that rise, sometimes restart, and sometimes are not told."""
    samples = []
    for replica_id in draw(st.sets(st.sampled_from("abc"), min_size=1)):
        total = 0.0
        for tenth in sorted(draw(st.sets(st.integers(0, 400), max_size=12))):
            total = 0.0 if draw(st.integers(0, 9)) == 0 else total + draw(st.integers(0, 50))
            sample = scrape(
                100.0 + tenth / 10,
                replica_id,
                running=float(draw(st.integers(0, 5))),
                waiting=float(draw(st.integers(0, 5))),
                prompt=total * 3,
                generated=total * 7,
                finished=total,
                ttft=histogram(total // 3, total // 2, total, total),
            )
            samples.append(replace(sample, kv_cache_use=None) if draw(st.integers(0, 9)) == 0 else sample)
    return samples


@st.composite
def reports(draw: st.DrawFn) -> list[RequestSummary]:
    summaries = []
    for gateway_id in draw(st.sets(st.sampled_from(["g1", "g2"]))):
        boot = 1
        for sequence, tenth in enumerate(sorted(draw(st.sets(st.integers(0, 400), max_size=12)))):
            boot += draw(st.integers(0, 5)) == 0
            at = 100.0 + tenth / 10
            waiting = draw(st.integers(0, 3))
            summaries.append(
                report(
                    at,
                    sequence,
                    gateway_id,
                    boot=f"boot-{boot}",
                    arrived=draw(st.integers(0, 9)),
                    in_flight=waiting + 1,
                    waiting=waiting,
                    oldest=at - 1.5 if waiting else None,
                    ttft=Sketch.of(draw(st.lists(st.floats(0.001, 10.0), max_size=4))),
                )
            )
    return summaries


def observed(samples: list[MetricSample | RequestSummary]) -> SignalWindow:
    window = SignalWindow(MODEL, NEEDS, PATIENCE_S)
    window.expect(("a", "b"), 90.0)
    for sample in samples:
        window.observe(sample)
    return window


def facts(snapshot: ModelSnapshot) -> tuple[object, ...]:
    return snapshot.readings, snapshot.windows, snapshot.replicas


@settings(max_examples=60)
@given(scrapes(), reports(), st.randoms(use_true_random=False), st.floats(130.0, 145.0))
def test_the_order_of_arrival_makes_no_difference(
    first: list[MetricSample], second: list[RequestSummary], shuffler: random.Random, now: float
) -> None:
    samples: list[MetricSample | RequestSummary] = [*first, *second]
    in_time = sorted(samples, key=lambda sample: sample.observed_at)
    shuffler.shuffle(samples)
    again = [shuffler.choice(samples) for _ in range(5)] if samples else []
    assert facts(observed(in_time).snapshot(now, now)) == facts(observed([*samples, *again]).snapshot(now, now))


@settings(max_examples=40)
@given(scrapes(), reports(), st.randoms(use_true_random=False))
def test_late_arrival_within_patience_makes_no_difference_in_the_end(
    first: list[MetricSample], second: list[RequestSummary], delayer: random.Random
) -> None:
    samples: list[MetricSample | RequestSummary] = [*first, *second]
    late = SignalWindow(MODEL, NEEDS, PATIENCE_S)
    late.expect(("a", "b"), 90.0)
    arrivals = sorted(
        ((sample.observed_at + delayer.uniform(0.0, PATIENCE_S - 1.0), sample) for sample in samples),
        key=lambda arrival: arrival[0],
    )
    for second_at in range(100, 160):
        while arrivals and arrivals[0][0] <= second_at:
            late.observe(arrivals.pop(0)[1])
        late.snapshot(float(second_at), float(second_at))
    assert late.late == 0
    in_time = observed(sorted(samples, key=lambda sample: sample.observed_at))
    assert facts(in_time.snapshot(159.5, 159.5)) == facts(late.snapshot(159.5, 159.5))


@settings(max_examples=40)
@given(scrapes(), reports(), st.sampled_from([1.0, 2.5, 7.0]))
def test_views_that_are_kept_say_what_views_made_anew_would(
    first: list[MetricSample], second: list[RequestSummary], interval_s: float
) -> None:
    keeps, renews = observed([]), observed([])
    samples: list[MetricSample | RequestSummary] = [*first, *second]
    coming = sorted(samples, key=lambda sample: sample.observed_at)
    now = 100.0
    while now < 230.0:  # beyond the retention, when all that was seen is dropped
        while coming and coming[0].observed_at <= now:
            sample = coming.pop(0)
            assert keeps.observe(sample) == renews.observe(sample)
        renews.reconfigure(NEEDS, PATIENCE_S)
        assert facts(keeps.snapshot(now, now)) == facts(renews.snapshot(now, now))
        now += interval_s


@settings(max_examples=60)
@given(scrapes(), reports(), st.floats(100.0, 150.0))
def test_no_rate_age_or_latency_is_ever_negative(
    first: list[MetricSample], second: list[RequestSummary], now: float
) -> None:
    snapshot = observed([*first, *second]).snapshot(now, now)
    for signal, reading in snapshot.readings.items():
        assert reading.value is None or reading.value >= 0.0, signal


@settings(max_examples=60)
@given(scrapes(), st.integers(100, 140))
def test_what_comes_after_a_time_does_not_change_what_was_said_of_it(samples: list[MetricSample], now: int) -> None:
    before = [sample for sample in samples if sample.observed_at <= now]
    whole, past = observed(list(samples)), observed(list(before))
    assert facts(whole.snapshot(float(now), now)) == facts(past.snapshot(float(now), now))


@pytest.mark.parametrize("signal", RATES)
def test_a_steady_load_gives_a_steady_rate(signal: Signal) -> None:
    window = SignalWindow(MODEL, (), PATIENCE_S)
    said = set()
    for second in range(100, 140):
        counted = float(second * 5)
        window.observe(scrape(float(second), prompt=counted, generated=counted, preempted=counted, finished=counted))
        window.observe(report(float(second), second, arrived=5, failed=5))
        if second > 101:
            said.add(window.snapshot(float(second), float(second)).reading(signal).current)
    assert said == {5.0}


def test_a_late_report_takes_back_a_last_good_value_that_it_shows_to_be_none() -> None:
    """Requests waited from 131 s on; until the report that said so came, no latency had looked like a good zero."""
    calm, waiting = report(124.7, 1, "g2", in_flight=1), report(130.9, 2, "g2", in_flight=4, waiting=3, oldest=129.4)
    late = SignalWindow(MODEL, NEEDS, PATIENCE_S)
    late.observe(calm)
    for second_at in range(125, 145):
        late.snapshot(float(second_at), float(second_at))
    late.observe(waiting)
    assert facts(late.snapshot(145.5, 145.5)) == facts(_without_expectation([calm, waiting]).snapshot(145.5, 145.5))


def _without_expectation(samples: list[RequestSummary]) -> SignalWindow:
    window = SignalWindow(MODEL, NEEDS, PATIENCE_S)
    for sample in samples:
        window.observe(sample)
    return window
