"""Who may speak for which model, and what of the log counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.control.windows import raise_fault
from broker.model import wire
from broker.model.errors import WireError
from broker.model.reading import Freshness
from broker.model.replica import ReplicaPhase
from broker.model.signals import Histogram, MetricSample, RequestSummary, Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, ControlState, ModelState
from signals.ingest.partitions import LATE_MARGIN_S, SEQUENCES_APART, Arrived, OwnedWindows, measurement
from tests.support.builders import model_spec, replica, site_spec
from tests.support.world import fake_policies
from tests.unit.signals.samples import report, scrape

AT = 1000.0
PATIENCE_S = 15.0
MODELS = {"chat": 0, "code": 1}
CHANGED_AT = dict.fromkeys(MODELS, AT - 50.0)
STATE = BrokerState(
    control=ControlState(site=site_spec()),
    models={model_id: ModelState(model_id, model_spec(model_id), target=1) for model_id in MODELS},
    replicas={model_id: {"a": replica("a", model_id)} for model_id in MODELS},
)


def arrived(sample: MetricSample | RequestSummary, at: float, offset: int = 0, **changed: Any) -> Arrived:
    topic = "signals" if isinstance(sample, MetricSample) else "requests"
    message = Arrived(
        topic, MODELS[sample.model_id], offset, at, sample.model_id.encode(), wire.dumps(sample).encode()
    )  # fmt: skip
    return replace(message, **changed)


def owner(*partitions: int) -> OwnedWindows:
    """Of these partitions, of which nobody had told anything."""
    windows = OwnedWindows(fake_policies, raise_fault, MODELS.__getitem__)
    windows.follow(STATE, CHANGED_AT)
    for partition in windows.assign(partitions):
        windows.complete(windows.begin(partition, CHANGED_AT))
    return windows


def snapshots(windows: OwnedWindows, now: float) -> dict[str, ModelSnapshot]:
    return {snapshot.model_id: snapshot for _, snapshots in windows.make(now) for snapshot in snapshots}


def test_a_sample_was_received_when_the_log_took_it_in_whatever_its_producer_says() -> None:
    sample = scrape(AT, received_at=AT + 300.0)
    assert measurement(arrived(sample, AT + 0.5)) == replace(sample, received_at=AT + 0.5)


BOUNDS = (1.0, 2.0, float("inf"))
BAD: dict[str, tuple[Arrived, str]] = {
    "empty": (arrived(scrape(AT), AT, value=None), "empty"),
    "no JSON": (arrived(scrape(AT), AT, value=b"{"), "not JSON"),
    "another schema": (arrived(report(AT, 1), AT, topic="signals"), "where a 'metric_sample' is expected"),
    "another model's key": (arrived(scrape(AT), AT, key=b"code"), "its key is b'code'"),
    "no key": (arrived(scrape(AT), AT, key=None), "its key is None"),
    "a gauge below zero": (arrived(scrape(AT, running=-1.0), AT), "requests_running: -1"),
    "a counter beyond doubles": (arrived(scrape(AT, prompt=1e300), AT), "prompt_tokens_total"),
    "no time": (arrived(scrape(1e15), AT), "observed_at"),
    "a histogram without all counts": (
        arrived(scrape(AT, ttft=Histogram(BOUNDS, (1.0, 2.0), 1.0)), AT), "2 counts for 3 buckets",
    ),
    "a histogram of falling bounds": (
        arrived(scrape(AT, ttft=Histogram((2.0, 1.0, float("inf")), (0.0, 0.0, 0.0), 0.0)), AT), "do not rise",
    ),
    "a summary of more than can be": (arrived(replace(report(AT, 1), arrived=10**9), AT), "arrived"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_must_not_reach_a_window_is_bad_for_a_reason(name: str) -> None:
    message, reason = BAD[name]
    with pytest.raises(WireError, match=reason):
        measurement(message)
    problem, due = owner(0).take(message)
    assert reason in problem
    assert not due


def test_what_nobody_foresaw_is_bad_for_a_reason_too_and_keeps_nothing_else_from_its_window() -> None:
    def partition_of(model_id: str) -> int:
        if model_id == "code":
            raise ArithmeticError("nobody foresaw this")
        return 0

    windows = OwnedWindows(fake_policies, raise_fault, partition_of)
    windows.follow(replace(STATE, models={"chat": STATE.models["chat"]}), {"chat": AT - 50.0})
    windows.assign({0})
    opening = windows.begin(0, CHANGED_AT)
    unforeseen = arrived(replace(scrape(AT), model_id="code"), AT, partition=0)
    windows.replay(opening, unforeseen)
    windows.replay(opening, arrived(scrape(AT, running=3.0), AT))
    windows.complete(opening)
    assert windows.take(unforeseen) == ("ArithmeticError: nobody foresaw this", False)
    assert snapshots(windows, AT + 1.0)["chat"].reading(Signal.REQUESTS_RUNNING).value == 3.0


def test_a_model_in_a_foreign_partition_is_bad_since_its_owner_never_sees_it() -> None:
    problem, _ = owner(0, 1).take(arrived(scrape(AT), AT, partition=1))
    assert "belongs in partition 0" in problem


def test_whatever_comes_of_a_partition_that_is_not_ours_is_not_looked_at() -> None:
    windows = owner(1)
    assert windows.take(arrived(scrape(AT), AT, value=b"{")) == ("", False)
    assert snapshots(windows, AT + 2.0).keys() == {"code"}


@pytest.mark.parametrize(("delay_s", "counts"), [(PATIENCE_S - LATE_MARGIN_S, True), (PATIENCE_S - 0.9, False)])
def test_what_took_long_to_the_log_is_late_whenever_the_window_was_last_looked_at(delay_s: float, counts: bool) -> None:
    windows = owner(0)
    windows.take(arrived(scrape(AT, running=3.0), AT + delay_s))
    assert (windows.late == 0) is counts
    told = snapshots(windows, AT + delay_s)["chat"].reading(Signal.REQUESTS_RUNNING)
    assert told.value == (3.0 if counts else None)


@pytest.mark.parametrize(("delay_s", "told"), [(-300.0, True), (-1.0, False), (1.0, False), (300.0, True)])
def test_whose_clock_is_far_off_is_kept_to_be_told_of(delay_s: float, told: bool) -> None:
    windows = owner(0)
    windows.take(arrived(scrape(AT), AT + delay_s))
    assert windows.off == ({"a": delay_s} if told else {})


def test_a_queue_that_begins_is_told_at_once() -> None:
    windows = owner(0)
    windows.take(arrived(scrape(AT), AT))
    snapshots(windows, AT + 0.1)
    assert windows.take(arrived(scrape(AT + 0.2, waiting=2.0), AT + 0.2)) == ("", True)
    assert windows.due_at() == AT + 0.2
    assert snapshots(windows, AT + 0.2)["chat"].reading(Signal.REQUESTS_WAITING).value == 2.0


def test_a_model_or_replica_that_comes_or_goes_is_followed() -> None:
    windows = owner(0)
    windows.take(arrived(scrape(AT, running=3.0), AT))
    draining = replace(replica("a"), phase=ReplicaPhase.DRAINING)
    windows.follow(replace(STATE, replicas={"chat": {"a": draining}}), {"chat": AT + 1.0})
    assert snapshots(windows, AT + 2.0)["chat"].reading(Signal.REQUESTS_RUNNING).value == 0.0
    windows.follow(replace(STATE, models={}), {"chat": AT + 3.0})
    assert windows.due_at() is None


def test_a_first_snapshot_is_not_of_a_time_before_the_replicas_became_ready() -> None:
    windows = OwnedWindows(fake_policies, raise_fault, MODELS.__getitem__)
    windows.follow(replace(STATE, replicas={}), CHANGED_AT)
    windows.assign({0})
    windows.complete(windows.begin(0, CHANGED_AT))
    windows.follow(STATE, {"chat": AT + 0.99})
    snapshot = snapshots(windows, AT + 1.0)["chat"]
    assert snapshot.observed_at == AT + 0.99
    assert snapshot.reading(Signal.REQUESTS_RUNNING).freshness is Freshness.STALE


def test_a_partition_that_is_lost_says_nothing_more() -> None:
    windows = owner(0, 1)
    assert windows.assign({1}) == set()
    assert windows.partitions == {1}
    assert snapshots(windows, AT + 2.0).keys() == {"code"}


def test_a_partition_that_is_kept_keeps_its_windows() -> None:
    windows = owner(0)
    windows.take(arrived(scrape(AT, running=3.0), AT))
    assert windows.assign({0, 1}) == {1}
    assert snapshots(windows, AT + 1.0)["chat"].reading(Signal.REQUESTS_RUNNING).value == 3.0


def test_a_partition_speaks_once_it_was_opened_and_knows_what_came_meanwhile() -> None:
    windows = OwnedWindows(fake_policies, raise_fault, MODELS.__getitem__)
    windows.follow(STATE, CHANGED_AT)
    windows.assign({0})
    opening = windows.begin(0, CHANGED_AT)
    assert windows.take(arrived(scrape(AT, running=3.0), AT)) == ("", False)
    bad = arrived(scrape(AT), AT, value=b"{")
    windows.take(bad)
    assert windows.due_at() is None
    assert [message for message, _ in windows.complete(opening)] == [bad]
    assert snapshots(windows, AT + 1.0)["chat"].reading(Signal.REQUESTS_RUNNING).value == 3.0


def test_what_is_bad_and_came_while_nobody_owned_the_partition_is_told_by_the_next_owner() -> None:
    windows = OwnedWindows(fake_policies, raise_fault, MODELS.__getitem__)
    windows.follow(STATE, CHANGED_AT)
    windows.assign({0})
    opening = windows.begin(0, CHANGED_AT, {"signals": 7})
    told = [windows.replay(opening, arrived(scrape(AT), AT, offset, value=b"{")) for offset in (6, 7)]
    assert (told[0], "not JSON" in told[1]) == ("", True)
    assert windows.replay(opening, arrived(scrape(AT), AT, 8)) == ""


def test_a_partition_that_is_lost_while_it_is_opened_never_speaks() -> None:
    windows = OwnedWindows(fake_policies, raise_fault, MODELS.__getitem__)
    windows.follow(STATE, CHANGED_AT)
    windows.assign({0})
    opening = windows.begin(0, CHANGED_AT)
    windows.assign(())
    assert windows.complete(opening) == []
    assert windows.partitions == frozenset()


def test_a_successor_reads_what_was_settled_and_the_log_since_and_numbers_its_snapshots_above() -> None:
    first = owner(0)
    log = [arrived(scrape(AT + second, running=float(second)), AT + second, second) for second in range(40)]
    for message in log:
        first.take(message)
        told = snapshots(first, message.at + 0.1)
    (state,) = [state for _, state in first.states()]
    second = OwnedWindows(fake_policies, raise_fault, MODELS.__getitem__)
    second.follow(STATE, CHANGED_AT)
    second.assign({0})
    opening = second.begin(0, CHANGED_AT)
    opening.settled("chat", state)
    since = opening.since(AT + 40.0)
    assert since == state.settled_at - 60.0
    for message in log:
        second.replay(opening, message)
    second.replay(opening, arrived(scrape(AT), AT, value=b"{"))
    second.complete(opening)
    assert snapshots(second, AT + 39.1)["chat"].sequence >= told["chat"].sequence + SEQUENCES_APART
    told, again = (snapshots(windows, AT + 40.1) for windows in (first, second))
    assert (again["chat"].readings, again["chat"].windows) == (told["chat"].readings, told["chat"].windows)
    assert again["chat"].reading(Signal.REQUESTS_RUNNING).value == 39.0


def test_what_was_settled_long_ago_does_not_have_the_whole_log_read() -> None:
    windows = owner(0)
    snapshots(windows, AT)
    (state,) = [state for _, state in windows.states()]
    opening = windows.begin(0, CHANGED_AT)
    opening.settled("chat", state)
    assert opening.since(AT + 86400.0) > AT + 86000.0
    opening.settled("chat", None)
    assert opening.states == {}
