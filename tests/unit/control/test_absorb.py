"""What observations do to the records: listings, receipts, snapshots, declarations, a new leader."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.model.observation import LeadershipTaken, LogsTaken, Outcome, PoolSnapshot, ProbeVerdict
from broker.model.replica import ObservedReplica, ReplicaPhase, StopMode, Tier
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import BreakerSpec, Limits, Mode, PolicySpec, PoolSpec
from tests.support.world import World, model_spec, serving

FIRST = "chat-0-g1"


def empty_listing(world: World, pool_id: str = "local") -> PoolSnapshot:
    return PoolSnapshot(pool_id, world.now, world.now, True, (), 8)


def listing_of(world: World, *found: ObservedReplica) -> PoolSnapshot:
    return PoolSnapshot("local", world.now, world.now, True, found, 8)


# -- listings


def test_a_failed_listing_ends_nothing_however_long_it_lasts() -> None:
    world = serving()
    for _ in range(100):
        world.after(1).see(world.failed_listing(), world.snapshot())
    assert world.phases() == {FIRST: "ready"}


def test_a_replica_missing_from_one_listing_is_doubted_and_comes_back() -> None:
    world = serving()
    world.after(1).see(empty_listing(world))
    assert world.replica().missing_since == world.now
    world.after(5).see(world.listing())
    assert (world.phases(), world.replica().missing_since) == ({FIRST: "ready"}, None)


def test_a_replica_is_given_up_when_good_listings_do_not_show_it_for_the_pools_patience() -> None:
    world = serving()
    world.after(1).see(empty_listing(world))
    world.after(14.9).see(empty_listing(world))
    assert world.phases() == {FIRST: "ready"}
    world.after(0.1).see(empty_listing(world))
    assert (world.registry(), world.replica().failure) == ([(FIRST, "gone")], "vanished")
    assert [launch.replica_id for launch in world.launches()] == ["chat-0-g2"]


def test_one_listing_without_a_replica_and_then_failed_ones_do_not_give_it_up() -> None:
    world = serving()
    world.after(1).see(empty_listing(world))
    for _ in range(60):
        world.after(1).see(world.failed_listing(), world.snapshot())
    assert world.phases() == {FIRST: "ready"}


def test_a_listing_begun_before_a_launch_was_accepted_does_not_doubt_it() -> None:
    world = World().begin()
    old = empty_listing(world)
    world.after(1).see(world.accept(world.launches()[0]))
    world.after(1).see(old)
    assert world.replica().missing_since is None


def test_a_stopping_replica_that_is_no_longer_listed_is_gone_and_keeps_its_failure() -> None:
    world = serving()
    world.see(world.probe(FIRST, ProbeVerdict.WRONG))
    world.after(1).see(empty_listing(world))
    world.after(15).see(empty_listing(world))
    assert (world.replica().phase, world.replica().failure) == (ReplicaPhase.FAILED, "wrong_answer")


def test_what_was_given_up_and_still_runs_is_stopped_and_then_killed() -> None:
    world = serving(stop_grace_s=5.0)
    shown = world.listing()
    world.after(1).see(empty_listing(world))
    world.after(15).see(empty_listing(world))
    world.after(5).see(replace(shown, observed_at=world.now, received_at=world.now))
    assert [(stop.replica_id, stop.mode) for stop in world.stops()] == [(FIRST, StopMode.GRACEFUL)]
    assert world.registry() == []
    world.after(5).see()
    assert [(stop.replica_id, stop.mode) for stop in world.stops()] == [(FIRST, StopMode.KILL)]
    world.see(world.listing(chat_0_g1=ReplicaPhase.GONE))
    assert world.replica().failure == "vanished"


def test_an_old_listing_does_not_stop_what_has_ended_since() -> None:
    world = serving()
    old = world.listing()
    world.after(1).see(world.listing(chat_0_g1=ReplicaPhase.FAILED))
    world.see(old)
    assert world.stops() == []


def test_a_pool_that_answers_again_is_used_at_once() -> None:
    world = World()
    world.see(world.declared(), world.failed_listing(), world.snapshot())
    assert (world.launches(), world.codes()[-1]) == ([], "no_pool")
    world.after(1).see(empty_listing(world))
    assert len(world.launches()) == 1


def test_a_pool_that_nobody_listed_in_time_is_not_used() -> None:
    world = World(rate=1.0).begin().bring_up()
    world.after(15).wants(2.0)
    assert (world.launches(), world.codes()[-1]) == ([], "no_pool")


def test_a_pool_that_grew_is_used_at_once() -> None:
    world = World()
    world.see(world.declared(), replace(empty_listing(world), gpus_total=0), world.snapshot())
    assert world.launches() == []
    world.after(1).see(empty_listing(world))
    assert len(world.launches()) == 1


def test_an_address_that_changes_is_published_anew() -> None:
    world = serving()
    before = world.state.control.revision
    moved = ObservedReplica(FIRST, "chat", 1, ReplicaPhase.STARTING, "http://127.0.0.1/elsewhere")
    world.see(listing_of(world, moved))
    assert (world.registry(), world.state.control.revision) == ([(FIRST, "ready")], before + 1)


# -- adoption


def stray(world: World, model_id: str = "chat", phase: ReplicaPhase = ReplicaPhase.STARTING) -> ObservedReplica:
    name = f"{model_id}-3-g7"
    return ObservedReplica(name, model_id, 7, phase, "http://127.0.0.1/stray", started_at=world.now - 5000)


def test_a_replica_without_a_record_is_adopted_and_must_prove_itself() -> None:
    world = World(rate=1.0)
    world.see(world.declared(), listing_of(world, stray(world)), world.snapshot())
    assert (world.phases(), world.launches()) == ({"chat-3-g7": "starting"}, [])
    world.after(1).see(world.probe("chat-3-g7"))
    assert world.registry() == [("chat-3-g7", "ready")]
    assert dict(world.state.starts) == {}  # nobody knows how long it took


def test_generations_go_on_above_the_adopted_ones() -> None:
    world = World(rate=2.0)
    world.see(world.declared(), listing_of(world, stray(world)), world.snapshot())
    assert [launch.replica_id for launch in world.launches()] == ["chat-0-g8"]


def test_to_have_found_replicas_is_no_reason_to_stop_one() -> None:
    world = World(rate=None)
    others = [
        replace(stray(world), replica_id=f"chat-{ordinal}-g{ordinal + 1}", generation=ordinal + 1) for ordinal in (0, 1)
    ]
    world.see(world.declared(), listing_of(world, *others, stray(world)), world.snapshot())
    assert (world.stops(), world.launches(), world.target()) == ([], [], 3)


def test_a_job_that_waits_is_adopted_as_one_that_waits() -> None:
    world = World(models=(model_spec(load_timeout_s=100.0),))
    world.see(world.declared(), listing_of(world, stray(world, phase=ReplicaPhase.PENDING)), world.snapshot())
    assert world.phases() == {"chat-3-g7": "pending"}
    world.after(1000).see(world.snapshot())
    assert world.stops() == [], "it has not begun to load"


def test_what_its_pool_is_stopping_is_adopted_as_no_supply() -> None:
    world = World(rate=1.0)
    world.see(world.declared(), listing_of(world, stray(world, phase=ReplicaPhase.STOPPING)), world.snapshot())
    assert (world.replica("chat-3-g7").phase, world.target()) == (ReplicaPhase.STOPPING, 1)
    assert [launch.replica_id for launch in world.launches()] == ["chat-0-g8"]


def test_the_name_of_what_ended_without_a_record_is_not_given_again() -> None:
    world = World(rate=1.0)
    world.see(world.declared(), listing_of(world, stray(world, phase=ReplicaPhase.GONE)), world.snapshot())
    assert [launch.replica_id for launch in world.launches()] == ["chat-0-g8"]


def test_an_adopted_replica_of_a_model_that_nobody_declares_is_stopped_and_forgotten() -> None:
    world = serving()
    world.see(listing_of(world, *world.listing().replicas, stray(world, "stranger")))
    assert [stop.replica_id for stop in world.stops()] == ["stranger-3-g7"]
    world.after(1).see(listing_of(world, *world.listing().replicas[:1], stray(world, "stranger", ReplicaPhase.GONE)))
    world.after(600).see()
    assert set(world.state.models) == {"chat"}


def test_an_adopted_replica_that_never_loads_is_given_its_time_from_the_adoption_on() -> None:
    world = World(models=(model_spec(load_timeout_s=100.0),))
    world.see(world.declared(), listing_of(world, stray(world)), world.snapshot())
    assert world.stops() == []
    world.after(100).see(world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == ["chat-3-g7"]


def test_an_adopted_replica_has_the_tier_that_its_pool_takes() -> None:
    world = World(pools=(PoolSpec("local", "local", 8, (Tier.BASELINE,)),))
    world.see(world.declared(), listing_of(world, stray(world)), world.snapshot())
    assert world.replica("chat-3-g7").tier is Tier.BASELINE


def test_adopted_replicas_are_the_models_baseline_first_and_elastic_beyond_it() -> None:
    """All were elastic: the baseline was started again beside them, where a pool had room for it."""
    dedicated = PoolSpec("dedicated", "local", 8, (Tier.BASELINE,))
    world = World(models=(model_spec(minimum=1),), pools=(dedicated, PoolSpec("local", "local", 8)), rate=3.0)
    others = [replace(stray(world), replica_id=f"chat-{n}-g{n + 1}", generation=n + 1) for n in (0, 1)]
    world.see(world.declared(), listing_of(world, *others), world.listing("dedicated"), world.snapshot())
    assert [world.replica(seen.replica_id).tier for seen in others] == [Tier.BASELINE, Tier.ELASTIC]
    assert [(launch.pool_id, launch.replica_id) for launch in world.launches()] == [("local", "chat-2-g3")]


@pytest.mark.parametrize("phase", [ReplicaPhase.GONE, ReplicaPhase.FAILED], ids=["gone", "failed"])
def test_what_ended_without_a_record_is_not_adopted(phase: ReplicaPhase) -> None:
    world = World(rate=0.0, models=(model_spec(minimum=0),))
    world.see(world.declared(), listing_of(world, stray(world, phase=phase)), world.snapshot())
    assert world.phases() == {}


# -- receipts


def test_a_pool_without_room_is_left_alone_for_a_while() -> None:
    world = World().begin()
    world.see(world.accept(world.launches()[0], Outcome.NO_CAPACITY))
    assert (world.launches(), world.phases()) == ([], {FIRST: "gone"})
    assert "refused a start for want of room" in world.decision().trail[-1].words
    world.after(30).see(world.listing(), world.snapshot())
    assert [launch.replica_id for launch in world.launches()] == ["chat-0-g2"]


def test_a_receipt_of_a_launch_no_longer_wanted_changes_nothing() -> None:
    world = World(rate=2.0).begin()
    launch = world.launches()[1]
    world.after(1).wants(1.0)
    assert world.phases()[launch.replica_id] == "stopping"
    world.see(world.accept(launch, Outcome.REJECTED))
    assert world.phases()[launch.replica_id] == "stopping"
    assert world.state.models["chat"].breakers == {}


def test_receipts_and_probes_of_unknown_replicas_are_ignored() -> None:
    world = serving()
    world.see(world.probe("chat-9-g9"), replace(world.probe(FIRST), model_id="other"))
    assert world.phases() == {FIRST: "ready"}


# -- snapshots


def test_an_older_snapshot_does_not_replace_a_newer_one() -> None:
    world = serving()
    old = world.snapshot()
    world.after(1).see(world.snapshot())
    newest = world.state.models["chat"].snapshot
    world.see(old)
    assert world.state.models["chat"].snapshot is newest


def test_a_snapshot_of_a_restarted_window_counts_although_its_number_is_lower() -> None:
    world = serving()
    world.after(1).sequence = 0
    world.wants(2.0)
    assert world.target() == 2


def test_snapshots_count_on_after_the_clock_was_set_back_by_an_hour() -> None:
    world = serving()
    world.after(-3600)
    world.wants(3.0)
    assert world.target() == 3
    snapshot = world.state.models["chat"].snapshot
    assert snapshot is not None
    assert snapshot.received_at == world.state.control.last_now


def test_after_a_restart_and_a_clock_set_back_the_new_windows_count() -> None:
    world = serving()
    world.after(-3600).sequence = 0
    world.see(LeadershipTaken(2, "again", world.now))
    world.wants(3.0)
    assert world.target() == 3


def test_a_clock_that_goes_back_does_not_move_the_broker_back() -> None:
    world = serving()
    last = world.state.control.last_now
    world.after(-100).see(world.snapshot())
    assert world.result is not None
    assert (world.result.plan.now, world.state.control.last_now) == (last, last)


def test_a_snapshot_of_an_undeclared_model_is_ignored() -> None:
    world = serving()
    world.see(ModelSnapshot("stranger", 1, world.now, world.now))
    assert set(world.state.models) == {"chat"}


# -- declarations


def test_a_model_that_is_no_longer_declared_is_drained_and_then_forgotten() -> None:
    world = World(models=(model_spec(), model_spec("code"))).begin().bring_up()
    code = next(name for name in world.phases() if name.startswith("code"))
    world.declare(model_spec())
    assert world.registry() == [(code, "draining")]
    assert world.decision("code").code == "retired"
    world.after(2).see(world.snapshot("code"))
    assert [stop.replica_id for stop in world.stops()] == [code]
    world.see(world.listing(**{code.replace("-", "_"): ReplicaPhase.GONE}))
    world.after(600).see()
    assert set(world.state.models) == {"chat"}


def test_a_model_that_returns_while_it_drains_is_served_again_without_a_start() -> None:
    world = World(models=(model_spec(), model_spec("code"))).begin().bring_up()
    world.declare(model_spec())
    world.declare(model_spec(), model_spec("code"))
    assert world.launches() == []
    assert [phase for _, phase in world.registry()] == ["ready"]


def test_a_log_keeps_its_own_id_first_beside_those_that_it_took_over() -> None:
    world = World()
    for log_ids in (("aa",), ("aa", "cc", "bb"), ("bb",)):
        world.see(LogsTaken(log_ids, world.now))
    assert world.state.control.log_ids == ("aa", "cc", "bb")


def test_what_was_mended_in_the_declarations_is_tried_at_once() -> None:
    world = World(limits=Limits(breaker=BreakerSpec(failures=1))).begin()
    world.see(world.accept(world.launches()[0], Outcome.REJECTED))
    world.declare(*world.models)
    assert world.launches() == []
    world.declare(model_spec(gpus=2))
    assert len(world.launches()) == 1
    world.see(world.accept(world.launches()[0], Outcome.REJECTED))
    world.pools = (PoolSpec("local", "fake", gpus=8, options={"partition": "gpu"}),)
    world.declare(*world.models)
    assert len(world.launches()) == 1


def test_why_a_replica_waits_is_on_record_as_often_as_it_changes() -> None:
    world = World().begin()
    world.see(world.accept(world.launches()[0]))
    for why in ("Priority: behind others", "Priority: behind others", "Resources: for nodes"):
        row = ObservedReplica("chat-0-g1", "chat", 1, ReplicaPhase.PENDING, detail=why)
        world.after(1).see(replace(world.listing(), replicas=(row,)))
        assert world.replica().detail == why


def test_what_its_pool_calls_a_replica_stays_on_record_once_it_serves() -> None:
    world = serving()
    rows = tuple(replace(row, runs_as="job 41 on n2") for row in world.listing().replicas)
    for listed in (replace(world.listing(), replicas=rows), world.listing()):
        world.after(1).see(listed)
        assert (world.replica().phase, world.replica().runs_as) == (ReplicaPhase.READY, "job 41 on n2")


def test_an_override_outlives_its_models_absence_from_the_policies() -> None:
    world = serving()
    chat = world.models
    world.override(3, 3600.0)
    world.after(1).declare(model_spec("embed"))
    assert world.target() == 0
    world.after(1).declare(*chat)
    world.wants(1.0)
    assert world.target() == 3


def test_a_raised_minimum_starts_replicas_at_once() -> None:
    world = serving()
    world.declare(model_spec(minimum=3))
    assert (len(world.launches()), world.target()) == (2, 3)


def test_a_lowered_maximum_drains_at_once_even_without_signals() -> None:
    world = serving(3)
    world.rate = None
    world.after(1).see(world.snapshot())
    world.declare(model_spec(maximum=2))
    assert (world.target(), len(world.registry())) == (2, 1)


def test_a_changed_policy_forgets_its_memory_and_an_unchanged_one_keeps_it() -> None:
    world = serving()
    assert world.state.models["chat"].memory["seen"] != 1
    world.declare(model_spec(maximum=5))
    assert world.state.models["chat"].memory["seen"] != 1
    world.declare(model_spec(policy=PolicySpec("fake", {"version": 2})))
    assert world.state.models["chat"].memory["seen"] == 1


def test_a_pool_that_is_no_longer_declared_gets_nothing() -> None:
    pools = (PoolSpec("local", "local", 8), PoolSpec("other", "local", 8))
    world = World(pools=pools, models=(model_spec(pools=("other",)),)).begin()
    assert [launch.pool_id for launch in world.launches()] == ["other"]
    world.pools = pools[:1]
    world.declare(model_spec(pools=("other",), minimum=3))
    assert (world.launches(), world.codes()[-1]) == ([], "no_pool")


# -- a new leader


def test_a_new_leader_repeats_what_was_not_answered_under_the_same_name() -> None:
    world = World().begin()
    launches = world.launches()
    world.after(3).see(LeadershipTaken(2, "again", world.now))
    assert world.launches() == launches


def test_a_new_leader_repeats_nothing_in_a_pool_it_has_not_seen_in_time() -> None:
    world = World().begin()
    launches = world.launches()
    world.after(300).see(LeadershipTaken(2, "again", world.now))
    assert world.launches() == []
    world.after(0.2).see(empty_listing(world))
    assert world.launches() == launches


def test_a_drain_waits_for_a_gateway_that_followed_a_registry_which_was_lost() -> None:
    world = serving(2)
    world.see(world.gateway(applied=world.state.control.revision + 50))
    world.wants(1.0)
    drain = next(replica.drain for replica in world.replicas() if replica.drain is not None)
    assert [session.gateway_id for session in drain.awaiting] == ["gw"]


def test_after_an_outage_a_drain_waits_for_the_gateways_that_could_not_report() -> None:
    world = serving(2)
    world.see(world.gateway(applied=world.state.control.revision))
    world.after(1).wants(1.0)
    world.after(60).see(LeadershipTaken(2, "again", world.now))
    world.after(2).see(world.snapshot())
    assert world.stops() == []
    world.after(0.1).see(world.gateway(applied=world.state.control.revision))
    world.after(1).see(world.snapshot())
    assert [stop.replica_id for stop in world.stops()] == ["chat-1-g2"]


def test_an_outage_does_not_use_up_a_drains_limit() -> None:
    world = serving(2, drain_limit_s=30.0)
    world.see(world.gateway(applied=world.state.control.revision))
    world.after(1).wants(1.0)
    busy = {"chat-1-g2": 4}
    world.see(world.gateway(applied=world.state.control.revision, in_flight=busy))
    world.after(1000).see(LeadershipTaken(2, "again", world.now))
    assert world.stops() == []
    world.after(29).see(world.gateway(applied=world.state.control.revision, in_flight=busy))
    assert world.stops() == []


def test_a_replica_that_loaded_during_an_outage_is_not_given_up_before_it_was_probed() -> None:
    world = World(models=(model_spec(load_timeout_s=100.0),)).begin()
    world.see(world.accept(world.launches()[0]))
    world.see(world.listing())
    world.after(1000).see(LeadershipTaken(2, "again", world.now))
    assert world.stops() == []
    world.after(1).see(world.probe(FIRST))
    assert world.registry() == [(FIRST, "ready")]


@pytest.mark.parametrize("received", [False, True], ids=["launch not answered", "launch accepted"])
def test_a_replica_that_began_to_load_unseen_has_its_load_timeout_from_the_new_leader_on(received: bool) -> None:
    """Its record knew of no start to be excused: loaded and healthy, it was killed before the first probe."""
    world = World(models=(model_spec(load_timeout_s=8.0),)).begin()
    launch, began_at = world.launches()[0], world.now + 0.1
    if received:
        world.see(world.accept(launch))
    world.after(11).see(LeadershipTaken(2, "again", world.now))
    loading = ObservedReplica(FIRST, "chat", 1, ReplicaPhase.STARTING, "http://127.0.0.1:1", started_at=began_at)
    world.after(0.1).see(PoolSnapshot("local", world.now, world.now, True, (loading,), 8))
    assert (world.stops(), world.phases()) == ([], {FIRST: "starting"})
    world.after(7.8).see()
    assert world.stops() == []
    world.after(0.2).see()
    assert [stop.replica_id for stop in world.stops()] == [FIRST]


def test_an_outage_does_not_make_a_doubted_replica_unhealthy() -> None:
    world = serving()
    world.see(world.probe(FIRST, ProbeVerdict.UNREACHABLE))
    world.after(60).see(LeadershipTaken(2, "again", world.now))
    assert world.registry() == []
    assert world.wake() == pytest.approx(1.5)
    assert world.registry() == [(FIRST, "draining")]


def test_a_stop_that_was_written_but_never_sent_is_still_gentle_after_an_outage() -> None:
    world = serving(2, stop_grace_s=10.0)
    world.after(1).wants(1.0)
    world.after(1).see(world.snapshot())
    stops = world.stops()
    assert len(stops) == 1
    world.after(60).see(LeadershipTaken(2, "again", world.now))
    assert world.stops() == stops


# -- observe mode


def test_in_observe_mode_nothing_is_adopted() -> None:
    world = World(mode=Mode.OBSERVE)
    world.see(world.declared(), listing_of(world, stray(world)), world.snapshot())
    assert world.phases() == {}
