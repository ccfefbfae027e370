"""The life of a replica: launch, proof, drain, stop, failure, and what time does to each."""

from __future__ import annotations

import pytest

from broker.control.draft import endpoint_record
from broker.control.standing import standing
from broker.model.observation import Outcome, ProbeVerdict
from broker.model.replica import ReplicaPhase, StopMode
from broker.model.spec import BreakerSpec, Limits, PoolSpec
from tests.support.world import World, model_spec

FIRST = "chat-0-g1"


def serving(count: int = 1, **spec: object) -> World:
    world = World(models=(model_spec(**spec),), rate=float(count)).begin()
    return world.bring_up()


def draining(**spec: object) -> World:
    """Two serve, one gateway is live, and one of the two has just been withdrawn: chat-1-g2."""
    world = serving(2, **spec)
    world.see(world.gateway(applied=world.state.control.revision))
    world.after(1).wants(1.0)
    return world


LEAVING = "chat-1-g2"


# -- coming


def test_a_replica_is_published_only_once_it_proved_itself() -> None:
    world = World().begin()
    assert [launch.replica_id for launch in world.launches()] == [FIRST]
    world.see(world.accept(world.launches()[0]))
    assert world.phases() == {FIRST: "pending"}
    world.see(world.listing())
    assert (world.phases(), world.registry()) == ({FIRST: "starting"}, [])
    world.see(world.probe(FIRST, ProbeVerdict.LOADING))
    assert (world.phases(), world.registry()) == ({FIRST: "loading"}, [])
    world.after(20).see(world.probe(FIRST))
    assert (world.phases(), world.registry()) == ({FIRST: "ready"}, [(FIRST, "ready")])


def test_a_replica_is_published_with_what_its_model_could_when_it_was_started() -> None:
    world = serving(1, capabilities=("embeddings",))
    assert endpoint_record(world.replica(FIRST)).capabilities == ("embeddings",)
    world.models = (model_spec(),)
    world.after(1).see(world.declared())
    assert endpoint_record(world.replica(FIRST)).capabilities == ("embeddings",)


def test_a_replica_whose_address_is_unknown_is_not_published() -> None:
    world = World().begin()
    world.see(world.accept(world.launches()[0]), world.probe(FIRST))
    assert (world.phases(), world.registry()) == ({FIRST: "pending"}, [])


def test_a_launch_that_nobody_answered_is_asked_for_again_under_the_same_name() -> None:
    world = World().begin()
    first = world.launches()
    world.after(14.9).see()
    assert world.launches() == []
    world.after(0.1).see(world.listing())
    assert world.launches() == first
    assert world.phases() == {FIRST: "requested"}


def test_an_unanswered_launch_that_is_not_wanted_any_more_is_not_asked_for_again() -> None:
    world = World(rate=3.0).begin()
    world.after(15).see(world.listing())
    world.after(15).see(world.listing(), world.snapshot())
    assert len(world.launches()) == 3
    world.rate = 1.0
    world.after(15).see(world.listing(), world.snapshot())
    assert [launch.replica_id for launch in world.launches()] == [FIRST]
    assert [stop.replica_id for stop in world.stops()] == ["chat-2-g3", "chat-1-g2"]


def test_a_transient_refusal_is_tried_again_after_the_time_it_named() -> None:
    world = World().begin()
    launch = world.launches()[0]
    world.see(world.accept(launch, Outcome.TRANSIENT))
    assert world.wake() == 1.0
    assert world.launches() == [launch]


def test_an_unanswered_launch_is_not_sent_to_a_pool_that_became_unknown() -> None:
    world = World().begin()
    launch = world.launches()[0]
    world.after(5).see(world.failed_listing())
    world.after(60).see(world.snapshot())
    assert world.launches() == []
    world.after(1).see(world.listing())
    assert world.launches() == [launch]


def test_a_relaunch_asks_for_the_gpus_that_were_counted_not_for_those_declared_since() -> None:
    world = World().begin()
    world.declare(model_spec(gpus=4))
    world.after(15).see(world.listing())
    assert [launch.model.gpus for launch in world.launches()] == [1]


def test_a_replica_that_never_loads_is_killed_and_replaced() -> None:
    world = World(models=(model_spec(load_timeout_s=100.0),)).begin()
    world.see(world.accept(world.launches()[0]))
    world.see(world.listing())
    world.after(99.9).see(world.snapshot())
    assert world.stops() == []
    world.after(0.1).see(world.listing(), world.snapshot())
    assert [(stop.replica_id, stop.mode) for stop in world.stops()] == [(FIRST, StopMode.KILL)]
    assert [launch.replica_id for launch in world.launches()] == ["chat-1-g2"]
    assert world.replica().failure == "load_timeout"


def test_a_replica_that_answers_wrongly_is_never_published_and_is_replaced() -> None:
    world = World().begin()
    world.see(world.accept(world.launches()[0]))
    world.see(world.listing())
    world.see(world.probe(FIRST, ProbeVerdict.WRONG))
    assert [(stop.replica_id, stop.mode) for stop in world.stops()] == [(FIRST, StopMode.KILL)]
    assert [launch.replica_id for launch in world.launches()] == ["chat-1-g2"]
    assert world.registry() == []


# -- failing


def test_a_replica_that_does_not_answer_is_withdrawn_and_replaced() -> None:
    world = serving()
    world.see(world.probe(FIRST, ProbeVerdict.UNREACHABLE))
    assert world.registry() == []
    assert world.wake() == 1.5
    assert world.registry() == [(FIRST, "draining")]
    assert [launch.replica_id for launch in world.launches()] == ["chat-1-g2"]


def test_a_replica_that_answers_again_in_time_stays() -> None:
    world = serving()
    world.see(world.probe(FIRST, ProbeVerdict.UNREACHABLE))
    world.after(1).see(world.probe(FIRST))
    world.after(60).see(world.snapshot())
    assert world.phases() == {FIRST: "ready"}


def test_a_replica_that_recovers_while_it_is_withdrawn_is_published_again() -> None:
    world = serving()
    world.see(world.probe(FIRST, ProbeVerdict.UNREACHABLE))
    world.wake()
    world.after(1).see(world.probe(FIRST))
    assert world.registry() == [(FIRST, "ready")]
    assert world.replica().drain is None


@pytest.mark.parametrize("phase", [ReplicaPhase.GONE, ReplicaPhase.FAILED], ids=["gone", "failed"])
def test_a_replica_that_exits_unasked_leaves_a_tombstone_and_is_replaced(phase: ReplicaPhase) -> None:
    world = serving()
    world.see(world.listing(chat_0_g1=phase))
    assert world.registry() == [(FIRST, "gone")]
    assert world.replica().phase is ReplicaPhase.FAILED
    assert [launch.replica_id for launch in world.launches()] == ["chat-0-g2"]


def failing(times: int, **breaker: float) -> World:
    """``times`` starts in a row were rejected."""
    world = World(limits=Limits(breaker=BreakerSpec(**breaker))).begin()  # type: ignore[arg-type]  # a table of numbers
    for _ in range(times):
        world.see(world.accept(world.launches()[0], Outcome.REJECTED))
    return world


def test_the_breaker_opens_after_three_failed_starts_in_a_row() -> None:
    world = failing(2)
    assert len(world.launches()) == 1
    world.see(world.accept(world.launches()[0], Outcome.REJECTED))
    assert world.launches() == []
    assert "breaker_open" in world.codes()
    assert world.wake() == pytest.approx(15.0)  # the signals' patience ends first
    world.after(45).see(world.listing())
    assert len(world.launches()) == 1


def test_an_open_breaker_tells_the_failure_and_the_time_of_the_next_try() -> None:
    world = failing(3)
    told = next(stage.words for stage in world.decision().trail if stage.code == "breaker_open")
    assert told == "starts in pool local failed too often: rejected; the next try is at 13:47:40 UTC"
    now = [*standing(world.state, "chat", world.now + 22.5)]
    assert now == ["Now: starts in pool local failed too often: rejected. The next try is in 38s, at 13:47:40 UTC."]
    assert not [*standing(world.state, "chat", world.now + 60.0)]


def test_an_open_breaker_tells_the_failure_for_longer_than_that_is_on_record() -> None:
    world = failing(3, open_s=1200.0)
    world.after(700).see(world.listing())
    assert world.replicas() == []
    (now,) = standing(world.state, "chat", world.now)
    assert now.startswith("Now: starts in pool local failed too often: rejected. The next try is in 8m20s")


def test_a_pool_that_cannot_be_listed_is_told_with_its_error_as_long_as_it_is_so() -> None:
    world = World().begin()
    world.see(world.failed_listing())
    (now,) = standing(world.state, "chat", world.now + 40.5)
    assert now == "Now: nothing is started in pool local, which has been unknown for 40s: timed out."
    world.see(world.listing())
    assert not [*standing(world.state, "chat", world.now)]


def test_the_breaker_stays_open_twice_as_long_each_time_up_to_its_limit() -> None:
    world = failing(3, max_open_s=100.0)
    spans = []
    for _ in range(3):
        breaker = world.state.models["chat"].breakers["local"]
        assert breaker.open_until is not None
        spans.append(breaker.open_until - world.now)
        world.now = breaker.open_until
        world.see(world.listing())
        world.see(world.accept(world.launches()[0], Outcome.REJECTED))
    assert spans == [60.0, 100.0, 100.0]


def test_after_an_open_breaker_one_start_is_tried_and_the_others_follow_once_it_serves() -> None:
    """Three were tried at once, within seconds, and told what one would have told."""
    world = World(rate=8.0).begin()
    world.see(*(world.accept(launch, Outcome.REJECTED) for launch in world.launches()))
    world.after(60).see(world.listing(), world.snapshot())
    assert len(world.launches()) == 1
    (told,) = (stage.words for stage in world.decision().trail if stage.code == "no_pool")
    assert told == "local is tried with one start at a time, since starts failed there too often"
    trial = world.launches()
    world.see(world.listing(), world.snapshot())
    assert world.launches() == []
    world.see(world.accept(trial[0]))
    world.see(world.listing())
    world.see(world.probe(trial[0].replica_id))
    assert len(world.launches()) == 7


def test_a_start_that_succeeds_closes_the_breaker() -> None:
    world = failing(2)
    world.bring_up()
    assert world.state.models["chat"].breakers == {}


def test_a_pool_whose_breaker_is_open_leaves_the_others_to_be_tried() -> None:
    pools = (PoolSpec("bad", "local", gpus=8), PoolSpec("good", "local", gpus=8))
    world = World(pools=pools).begin()
    for _ in range(3):
        assert [launch.pool_id for launch in world.launches()] == ["bad"]
        world.see(world.accept(world.launches()[0], Outcome.REJECTED))
    assert [launch.pool_id for launch in world.launches()] == ["good"]
    assert world.state.models["chat"].breakers.keys() == {"bad"}


def test_replicas_that_had_served_and_die_together_do_not_open_the_breaker() -> None:
    world = serving(4)
    names = {replica.replica_id.replace("-", "_"): ReplicaPhase.FAILED for replica in world.replicas()}
    world.see(world.listing(**names))
    assert len(world.launches()) == 4


def test_one_burst_of_failed_starts_opens_the_breaker_once() -> None:
    world = World(rate=8.0).begin()
    world.see(*(world.accept(launch, Outcome.REJECTED) for launch in world.launches()))
    breaker = world.state.models["chat"].breakers["local"]
    assert (breaker.opened, breaker.open_until) == (1, world.now + 60.0)


# -- leaving


def test_a_drain_goes_from_withdrawal_to_acknowledgement_to_silence_to_stop_to_tombstone() -> None:
    world = draining()
    assert (world.registry(), world.stops()) == ([(LEAVING, "draining")], [])
    revision = world.state.control.revision
    world.see(world.gateway(applied=revision - 1))
    world.after(2).see(world.gateway(applied=revision - 1), world.snapshot())
    assert world.stops() == []  # not acknowledged
    world.see(world.gateway(applied=revision, in_flight={LEAVING: 1}))
    world.after(2).see(world.gateway(applied=revision, in_flight={LEAVING: 1}), world.snapshot())
    assert world.stops() == []  # one request is open
    world.see(world.gateway(applied=revision))
    assert [(stop.replica_id, stop.mode) for stop in world.stops()] == [(LEAVING, StopMode.GRACEFUL)]
    assert world.registry() == []  # it has not exited: no tombstone
    world.see(world.accept(world.stops()[0]))
    world.after(3).see(world.listing(chat_1_g2=ReplicaPhase.GONE))
    assert world.registry() == [(LEAVING, "gone")]
    assert world.replica(LEAVING).phase is ReplicaPhase.GONE
    assert world.replica(LEAVING).in_flight_at_stop == 0


def test_a_drain_waits_for_the_engines_own_gauges_too() -> None:
    world = draining()
    world.loads = {LEAVING: 3.0}
    revision = world.state.control.revision
    world.see(world.gateway(applied=revision))
    world.after(2).see(world.gateway(applied=revision), world.snapshot())
    assert world.stops() == []
    world.loads = {}
    world.after(2).see(world.gateway(applied=revision), world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_gauges_scraped_before_the_acknowledgement_prove_nothing() -> None:
    world = draining()
    revision = world.state.control.revision
    world.see(world.snapshot(), world.gateway(applied=revision))
    assert world.stops() == []
    world.after(0.4).see(world.snapshot())
    assert world.stops() == []
    world.after(0.1).see(world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_without_any_gateway_the_engines_gauges_decide() -> None:
    world = serving(2)
    world.after(1).wants(1.0)
    world.loads = {LEAVING: 1.0}
    world.after(2).see(world.snapshot())
    assert world.stops() == []
    world.loads = {}
    world.after(2).see(world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_without_gateway_and_gauges_a_drain_waits_for_its_limit() -> None:
    world = serving(2, drain_limit_s=300.0)
    world.after(1).wants(1.0)
    blind = world.snapshot()
    world.after(299).see(type(blind)("chat", blind.sequence + 1, world.now, world.now, blind.readings))
    assert world.stops() == []
    world.after(1).see()
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_a_drain_does_not_wait_for_a_gateway_whose_session_ended() -> None:
    world = draining()
    revision = world.state.control.revision
    world.see(world.gateway(applied=revision, name="other"))
    for _ in range(6):
        world.after(1).see(world.gateway(applied=revision, name="other"), world.snapshot())
    assert list(world.state.gateways) == ["other/boot"]
    assert world.count(ReplicaPhase.STOPPING) == 1


@pytest.mark.parametrize("name", ["gw", "other"], ids=["silent for a time", "new"])
def test_a_gateway_that_is_heard_during_a_drain_and_does_not_know_of_it_is_waited_for(name: str) -> None:
    world = draining(drain_limit_s=600.0)
    revision = world.state.control.revision
    world.loads = {LEAVING: 1.0}
    for _ in range(7):  # longer than a session
        world.after(1).see(world.snapshot())
    drain = world.replica(LEAVING).drain
    assert drain is not None
    assert (drain.awaiting, drain.acknowledged_at is not None) == ((), True)
    world.loads = {}
    world.after(1).see(world.gateway(applied=revision - 1, name=name), world.snapshot())
    assert world.stops() == []
    world.after(1).see(world.gateway(applied=revision - 1, name=name), world.snapshot())
    assert world.stops() == []
    world.see(world.gateway(applied=revision, name=name))
    assert world.stops() == [], "the gauges are from before its word"
    world.after(1).see(world.gateway(applied=revision, name=name), world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_a_gateway_that_says_goodbye_is_not_waited_for() -> None:
    world = draining()
    goodbye = world.gateway(applied=0)
    world.after(1).see(type(goodbye)("gw", "boot", 99, 0, world.now, world.now, closed=True))
    world.after(1).see(world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_the_drain_limit_cuts_what_is_open_and_counts_it() -> None:
    world = draining(drain_limit_s=30.0)
    revision = world.state.control.revision
    for _ in range(29):
        world.after(1).see(world.gateway(applied=revision, in_flight={LEAVING: 2}), world.snapshot())
        assert world.stops() == []
    world.after(1).see(world.gateway(applied=revision, in_flight={LEAVING: 2}), world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]
    assert world.replica(LEAVING).in_flight_at_stop == 2


def test_the_death_of_a_gateway_that_held_requests_moves_the_drain_on_by_itself() -> None:
    world = draining(drain_limit_s=600.0)
    revision = world.state.control.revision
    world.see(world.gateway(applied=revision, in_flight={LEAVING: 2}))
    world.after(1).see(world.snapshot())
    assert world.wake() == pytest.approx(4.0)
    assert [stop.replica_id for stop in world.stops()] == [LEAVING]


def test_a_draining_replica_that_is_wanted_again_is_published_again_instead_of_a_start() -> None:
    world = draining()
    world.after(1).wants(2.0)
    assert (world.registry(), world.launches()) == ([(LEAVING, "ready")], [])


def stopping(**spec: object) -> World:
    world = draining(**spec)
    world.after(1).see(world.gateway(applied=world.state.control.revision))
    world.after(1).see(world.gateway(applied=world.state.control.revision), world.snapshot())
    assert world.count(ReplicaPhase.STOPPING) == 1
    return world


def test_a_replica_that_does_not_exit_in_its_grace_is_killed() -> None:
    world = stopping(stop_grace_s=10.0)
    world.see(world.accept(world.stops()[0]))
    world.after(9.9).see(world.snapshot())
    assert world.stops() == []
    world.after(0.1).see(world.snapshot())
    assert [(stop.replica_id, stop.mode) for stop in world.stops()] == [(LEAVING, StopMode.KILL)]


def test_a_late_answer_to_the_gentle_stop_does_not_answer_the_kill() -> None:
    world = stopping(stop_grace_s=10.0)
    gentle = world.stops()[0]
    world.after(10).see(world.snapshot())
    kill = world.stops()[0]
    world.see(world.accept(gentle))
    world.after(15).see(world.snapshot())
    assert world.stops() == [kill]
    world.see(world.accept(kill))
    world.after(15).see(world.snapshot())
    assert world.stops() == []


def test_a_stop_that_nobody_answered_is_asked_for_again_under_the_same_name() -> None:
    world = stopping()
    stop = world.stops()[0]
    world.after(15).see(world.snapshot())
    assert world.stops() == [stop]


def test_a_published_replica_that_is_stopped_at_once_leaves_no_tombstone_before_its_exit() -> None:
    world = serving()
    world.see(world.probe(FIRST, ProbeVerdict.WRONG))
    assert world.registry() == [(FIRST, "draining")]
    world.see(world.listing(chat_0_g1=ReplicaPhase.GONE))
    assert world.registry() == [(FIRST, "gone")]
    assert world.replica().failure == "wrong_answer"


def test_an_ended_record_is_forgotten_after_its_time() -> None:
    world = serving()
    world.see(world.listing(chat_0_g1=ReplicaPhase.FAILED))
    world.after(599.9).see(world.snapshot())
    assert FIRST in world.phases()
    world.after(0.1).see(world.snapshot())
    assert FIRST not in world.phases()


def test_a_start_that_its_pool_ends_has_failed_and_counts_towards_the_breaker() -> None:
    """A job whose agent had found no port was seen while it was being ended: it went as if that had been wanted, and
    was started anew for ever."""
    world = World().begin()
    world.see(world.accept(world.launches()[0]))
    world.see(world.listing(chat_0_g1=ReplicaPhase.STOPPING))
    assert world.state.models["chat"].breakers["local"].failures == 1
    world.after(1).see(world.listing(chat_0_g1=ReplicaPhase.GONE))
    assert world.count(ReplicaPhase.FAILED) == 1


def test_a_replica_that_its_pool_is_stopping_is_drained_and_replaced() -> None:
    world = serving()
    world.see(world.listing(chat_0_g1=ReplicaPhase.STOPPING))
    assert world.registry() == [(FIRST, "draining")]
    assert [launch.replica_id for launch in world.launches()] == ["chat-1-g2"]


def test_the_least_loaded_replica_of_a_tier_leaves_first() -> None:
    world = serving(2, minimum=0)
    world.loads = {LEAVING: 5.0}
    world.after(1).wants(1.0)
    assert world.registry() == [(FIRST, "draining")]
