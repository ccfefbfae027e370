"""What must hold when another window goes on where one was lost: as if there had been one all along."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import wire
from broker.model.signals import MetricSample, RequestSummary, Signal
from broker.model.snapshot import ModelSnapshot, WindowNeed
from broker.model.window_state import WindowState
from signals.window import SignalWindow
from tests.unit.signals.samples import MODEL, scrape
from tests.unit.signals.test_window_order import facts, reports, scrapes

NEEDS = (WindowNeed(Signal.QUEUE_AGE, 30.0), WindowNeed(Signal.TTFT_P95, 120.0), WindowNeed(Signal.ARRIVAL_RATE, 5.0))
PATIENCE_S = 15.0
PHASE_S = 0.25
END = 190
CHANGES = ((99.5, ("a", "b")), (118.3, ("a", "b", "c")), (131.6, ("b",)), (150.0, ()))

Arrival = tuple[float, MetricSample | RequestSummary]


def new_window() -> SignalWindow:
    return SignalWindow(MODEL, NEEDS, PATIENCE_S, phase_s=PHASE_S)


def expect(window: SignalWindow, since: float, upto: float) -> None:
    for at, replica_ids in CHANGES:
        if since <= at < upto:
            window.expect(replica_ids, at)


def delivered(samples: list[MetricSample | RequestSummary], delayer: random.Random) -> list[Arrival]:
    """Each once or twice, in some order, within patience."""
    twice = [*samples, *(sample for sample in samples if delayer.random() < 0.3)]
    arrivals = [(sample.observed_at + delayer.uniform(0.0, PATIENCE_S - 1.0), sample) for sample in twice]
    return sorted(arrivals, key=lambda arrival: arrival[0])


def followed(window: SignalWindow, arrivals: list[Arrival], first: int, end: int) -> list[ModelSnapshot]:
    """A snapshot each second, of what has arrived by then."""
    snapshots = []
    for second in range(first, end):
        expect(window, second - 1, second)
        for at, sample in arrivals:
            if second - 1 <= at < second:
                window.observe(sample)
        snapshots.append(window.snapshot(second + PHASE_S, second + PHASE_S))
    return snapshots


def handed_over(state: WindowState | None, arrivals: list[Arrival], now: int) -> SignalWindow:
    """A successor that has read the log from where the last one's settled past ends."""
    window = new_window()
    if state is None:
        expect(window, 0.0, now)
        for at, sample in arrivals:
            if at < now:
                window.observe(sample)
        return window
    travelled: WindowState = wire.loads(WindowState, wire.dumps(state))
    changes = [change for change in CHANGES if change[0] < now]
    if changes:
        window.expect(changes[-1][1], changes[-1][0])
    for at, sample in arrivals:
        if travelled.settled_at - window.retention_s <= at < now:
            window.observe(sample)
    window.resume(travelled)
    return window


@settings(max_examples=60)
@given(
    scrapes(), reports(), st.randoms(use_true_random=False), st.integers(101, END - 10), st.integers(0, 20)
)  # fmt: skip
def test_a_takeover_at_any_point_gives_the_snapshots_of_an_uninterrupted_window(
    first: list[MetricSample], second: list[RequestSummary], delayer: random.Random, checkpoint_at: int, lost_s: int
) -> None:
    arrivals = delivered([*first, *second], delayer)
    taken_over_at = min(checkpoint_at + lost_s, END - 1)
    uninterrupted = followed(new_window(), arrivals, 100, END)
    owner = new_window()
    followed(owner, arrivals, 100, checkpoint_at)
    successor = handed_over(owner.state(), arrivals, taken_over_at)
    resumed = followed(successor, arrivals, taken_over_at, END)
    assert [facts(told) for told in resumed] == [facts(told) for told in uninterrupted[taken_over_at - 100 :]]


def test_nothing_is_settled_before_the_first_snapshot() -> None:
    window = new_window()
    window.observe(scrape(100.0))
    assert window.state() is None


def test_a_successor_keeps_the_last_good_value_of_long_ago_and_counts_on() -> None:
    owner = new_window()
    owner.expect(("a",), 90.0)
    owner.observe(scrape(100.0, running=3.0))
    for second in range(100, 400, 10):
        last = owner.snapshot(float(second), float(second))
    state = owner.state()
    assert state is not None
    successor = new_window()
    successor.resume(state)
    told = successor.snapshot(400.0, 400.0)
    assert told.reading(Signal.REQUESTS_RUNNING) == last.reading(Signal.REQUESTS_RUNNING)
    assert told.sequence == last.sequence + 1


@pytest.mark.parametrize("needs", [(), NEEDS], ids=["no policy", "a policy"])
def test_what_is_handed_over_is_small(needs: tuple[WindowNeed, ...]) -> None:
    owner = SignalWindow(MODEL, needs, PATIENCE_S)
    for second in range(100, 1000):
        owner.observe(scrape(float(second), running=float(second)))
        owner.snapshot(float(second), float(second))
    state = owner.state()
    assert state is not None
    assert len(wire.dumps(state)) < 1_500 + 11 * 123 * len(needs)
