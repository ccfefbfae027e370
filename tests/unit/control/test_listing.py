"""What of a listing is worth an observation: a step makes of the news what it would make of the whole."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from broker.control.listing import ListingFilter, news_of
from broker.control.step import StepResult, step
from broker.model.observation import PoolSnapshot
from broker.model.replica import ObservedReplica, ReplicaPhase
from broker.model.state import BrokerState, ControlState
from tests.support.builders import START, replica
from tests.support.world import fake_policies
from tests.unit.control.test_invariants import POOLS, Chance, Event, events

SERVING = BrokerState().with_changes(
    {("replica", name): replace(replica(name), url=f"http://{name}") for name in ("chat-0-g1", "chat-1-g2")}
)


def listing(*names: str, at: float = START, phase: ReplicaPhase = ReplicaPhase.STARTING) -> PoolSnapshot:
    shown = tuple(ObservedReplica(name, "chat", 1, phase, f"http://{name}") for name in names)
    return PoolSnapshot("local", at, at, True, shown, 8)


def outcome(state: BrokerState, listed: PoolSnapshot, now: float) -> tuple[object, ...]:
    result: StepResult = step(state, [listed], fake_policies, now)
    return dict(result.changes), result.plan, result.wake_at


@given(events)
def test_a_step_decides_the_same_on_the_news_of_a_listing_as_on_all_of_it(script: list[Event]) -> None:
    chance = Chance().begin()
    for event in script:
        chance.happen(event)
        for pool in POOLS:
            for listed in (chance.listing(pool.pool_id), replace(chance.listing(pool.pool_id), replicas=())):
                news = news_of(chance.state, listed)
                assert outcome(chance.state, news, chance.now) == outcome(chance.state, listed, chance.now)


def test_of_a_listing_that_shows_what_is_on_record_only_that_it_came_is_told() -> None:
    told = ListingFilter().worth_telling(listing("chat-0-g1", "chat-1-g2"), SERVING)
    assert told == replace(listing(), missing=())


def test_what_a_replica_runs_as_is_news_until_it_is_on_record() -> None:
    shown = listing("chat-0-g1", "chat-1-g2")
    rows = tuple(replace(row, runs_as="job 41 on n2") for row in shown.replicas)
    told = ListingFilter().worth_telling(replace(shown, replicas=rows), SERVING)
    assert told is not None
    assert told.replicas == rows


def test_what_is_not_shown_is_told_by_its_name() -> None:
    told = ListingFilter().worth_telling(listing("chat-0-g1", at=START + 60), SERVING)
    assert told == replace(listing(at=START + 60), missing=("chat-1-g2",))


def test_news_is_told_once_and_again_with_the_next_sign_of_life() -> None:
    listings = ListingFilter()
    both, one = ("chat-0-g1", "chat-1-g2"), ("chat-0-g1",)
    shown = [both, both, one, one, one, *[both] * 12]
    told = [
        index
        for index, names in enumerate(shown)
        if listings.worth_telling(listing(*names, at=START + 60 + 0.5 * index), SERVING) is not None
    ]
    assert told == [0, 2, 12]


@given(events)
def test_a_filter_tells_the_news_of_each_listing_that_it_tells(script: list[Event]) -> None:
    chance, filters = Chance().begin(), {pool.pool_id: ListingFilter() for pool in POOLS}
    for event in script:
        chance.happen(event)
        for pool in POOLS:
            for age_s in (0.0, 6.0):  # the second is told as a sign of life
                listed = chance.listing(pool.pool_id)
                listed = replace(listed, received_at=listed.received_at + age_s)
                told = filters[pool.pool_id].worth_telling(listed, chance.state)
                assert told in (None, news_of(chance.state, listed))


def test_what_was_listed_before_it_ended_on_record_is_news_once_it_is_listed_after() -> None:
    listings, ended_at = ListingFilter(), START + 60
    gone = replace(replica("chat-0-g1", at=ended_at), phase=ReplicaPhase.GONE)
    state = BrokerState(ControlState(last_now=ended_at)).with_changes({("replica", gone.replica_id): gone})
    before, after = listing("chat-0-g1", at=ended_at - 1), listing("chat-0-g1", at=ended_at + 5)
    assert listings.worth_telling(before, state) == replace(before, replicas=(), missing=())
    assert listings.worth_telling(after, state) == replace(after, missing=())


def test_a_sign_of_life_tells_what_became_new_by_another_record() -> None:
    listings = ListingFilter()
    assert listings.worth_telling(listing("chat-0-g1", "chat-1-g2", at=START + 60), SERVING) is not None
    ended = SERVING.with_changes({("replica", "chat-1-g2"): None})
    told = listings.worth_telling(listing("chat-0-g1", "chat-1-g2", at=START + 70), ended)
    assert told == replace(listing("chat-1-g2", at=START + 70), missing=())


def test_a_failed_listing_is_told_as_it_is() -> None:
    listings = ListingFilter()
    assert listings.worth_telling(listing("chat-0-g1", "chat-1-g2"), SERVING) is not None
    failed = PoolSnapshot("local", START + 1, START + 1, known=False, error="timed out")
    assert listings.worth_telling(failed, SERVING) == failed
    assert listings.worth_telling(replace(failed, received_at=START + 2), SERVING) is None
    assert listings.worth_telling(listing("chat-0-g1", "chat-1-g2", at=START + 3), SERVING) is not None
