"""Decisions: signals, overrides, pauses, observe mode, and where time alone decides."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from broker.model.observation import OverrideCleared, PauseScope, ProbeVerdict
from broker.model.plan import Recommendation
from broker.model.reading import ABSENT, fresh, stale, true_zero
from broker.model.replica import ON_ITS_WAY, ReplicaPhase
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, ModelSnapshot
from broker.model.spec import Mode, PolicySpec, PoolSpec, StabilisationSpec
from broker.model.state import Memory
from tests.support.world import FakePolicy, World, fake_policies, model_spec, serving

FIRST = "chat-0-g1"


# -- a policy that raises


@dataclass(frozen=True, slots=True)
class FakeFaultyPolicy(FakePolicy):
    """Has forgotten that nobody may be asking."""

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        if snapshot.model.reading(Signal.ARRIVAL_RATE).current == 0.0:
            raise ZeroDivisionError("nobody asks")
        return FakePolicy.recommend(self, snapshot, memory)


def with_a_faulty_policy(**spec: object) -> World:
    """``chat`` has it, ``embed`` has not."""

    def policies(spec: PolicySpec) -> FakePolicy:
        return FakeFaultyPolicy() if spec.kind == "faulty" else fake_policies(spec)

    models = (model_spec(**spec), model_spec("embed", minimum=0))
    return World(models=models, rate=3.0, policies=policies).begin().bring_up()


def test_a_policy_that_raises_keeps_its_model_s_target_and_the_others_are_decided() -> None:
    world = with_a_faulty_policy(policy=PolicySpec("faulty"), minimum=2)
    world.after(1).rate = 0.0
    result = world.see(world.snapshot(), world.snapshot("embed"))
    decision = world.decision()
    assert (decision.code, decision.before, decision.target, decision.baseline) == ("policy_failed", 3, 3, 2)
    assert "the faulty policy failed (ZeroDivisionError: nobody asks)" in decision.words
    assert world.target("embed") == 0
    assert [(fault.model_id, fault.policy) for fault in result.faults] == [("chat", "faulty")]


def test_a_policy_that_goes_on_raising_is_told_once_and_decides_when_it_can_again() -> None:
    world = with_a_faulty_policy(policy=PolicySpec("faulty"))
    world.after(1).wants(0.0)
    assert world.decided()
    assert world.after(1).wants(0.0).faults
    assert not world.decided()
    assert not world.after(1).wants(5.0).faults
    assert world.target() == 5


def test_orders_hold_while_a_policy_raises() -> None:
    world = with_a_faulty_policy(policy=PolicySpec("faulty"))
    world.after(1).wants(0.0)
    world.override(5, 60.0)
    assert (world.target(), world.decision().code) == (5, "override_target")


def test_a_policy_that_cannot_be_built_keeps_its_model_s_target_and_the_others_are_decided() -> None:
    def policies(spec: PolicySpec) -> FakePolicy:
        if spec.kind == "unbuildable":
            raise KeyError("a parameter")
        return fake_policies(spec)

    world = World(models=(model_spec(), model_spec("embed")), rate=3.0, policies=policies).begin().bring_up()
    world.after(1).declare(model_spec(policy=PolicySpec("unbuildable")), model_spec("embed"))
    world.rate = 1.0
    result = world.see(world.snapshot(), world.snapshot("embed"))
    assert (world.target(), world.target("embed")) == (3, 1)
    assert [(fault.model_id, fault.policy) for fault in result.faults] == [("chat", "unbuildable")]


def test_a_shadow_that_raises_is_recorded_and_changes_nothing() -> None:
    world = with_a_faulty_policy(shadows={"other": PolicySpec("faulty")}, minimum=0)
    world.after(1).wants(0.0)
    (shadow,) = world.decision().shadows
    assert (shadow.name, shadow.code, world.target(), world.decision().code) == ("other", "policy_failed", 0, "rate")


# -- wishes and signals


def test_a_wish_within_the_bounds_is_the_target() -> None:
    world = serving()
    world.after(1).wants(3.0)
    assert (world.target(), world.decision().code, len(world.launches())) == (3, "rate", 2)


@pytest.mark.parametrize(("rate", "target", "code"), [(20.0, 8, "maximum"), (0.0, 1, "minimum")], ids=["max", "min"])
def test_the_bounds_hold(rate: float, target: int, code: str) -> None:
    world = serving(2)
    world.after(1).wants(rate)
    assert (world.target(), world.decision().code) == (target, code)


@pytest.mark.parametrize(
    ("reading", "target"),
    [
        pytest.param(lambda now: true_zero(now), 1, id="a true zero lets it scale in"),
        pytest.param(lambda now: fresh(2.0, now), 2, id="a fresh value lets it scale in"),
        pytest.param(lambda now: stale(fresh(0.0, now)), 3, id="a stale zero does not"),
        pytest.param(lambda now: ABSENT, 3, id="an absent signal does not"),
    ],
)
def test_capacity_is_taken_away_only_on_what_is_known(reading: object, target: int) -> None:
    world = serving(3)
    world.after(1)
    world.see(world.snapshot(**{Signal.ARRIVAL_RATE: reading(world.now)}))  # type: ignore[operator]  # a table of functions
    assert world.target() == target


def test_a_wish_that_used_no_signal_still_does_not_scale_in_while_nothing_is_known() -> None:
    alone = PolicySpec("fake_blind")
    world = World(models=(model_spec(policy=alone),), rate=3.0).begin()
    assert world.target() == 3
    world.after(1).see(ModelSnapshot("chat", 99, world.now, world.now, {Signal.KV_CACHE_USE: ABSENT}))
    assert (world.target(), world.decision().code) == (3, "hold_no_signals")


def test_late_signals_are_doubted_by_time_alone() -> None:
    world = serving(3)
    world.after(1).see(world.snapshot())
    assert world.wake() == 15.0
    assert world.decision().code == "no_rate"
    assert world.decision().inputs[0].freshness == "stale"


def test_a_failed_replica_is_replaced_without_signals() -> None:
    world = serving(2)
    world.rate = None
    world.after(1).see(world.snapshot())
    world.see(world.listing(chat_0_g1=ReplicaPhase.FAILED))
    assert (world.target(), len(world.launches())) == (2, 1)


def test_stabilisation_ends_by_time_alone() -> None:
    world = serving(3, stabilisation=StabilisationSpec(scale_in_s=10.0, max_step_in=9))
    world.after(1).wants(1.0)
    assert (world.target(), world.decision().code) == (3, "stabilising_in")
    assert world.wake() == 10.0
    assert world.target() == 1


def test_nothing_new_is_not_told_again() -> None:
    world = serving()
    world.after(1).see(world.snapshot())
    world.after(1).see(world.snapshot())
    assert not world.decided()


def test_shadow_policies_say_what_they_would_do_and_nothing_follows() -> None:
    world = World(models=(model_spec(shadows={"other": PolicySpec("fake")}),), rate=20.0).begin()
    assert [(shadow.name, shadow.target) for shadow in world.decision().shadows] == [("other", 8)]


def test_only_models_that_something_happened_to_are_decided() -> None:
    world = World(models=(model_spec(), model_spec("code"))).begin()
    before = world.state.models["code"]
    world.after(1).wants(4.0)
    assert [decision.model_id for decision in world.result.plan.decisions] == ["chat"]  # type: ignore[union-attr]
    assert world.state.models["code"] is before


# -- overrides


def test_an_override_is_the_target_until_it_expires_by_itself() -> None:
    world = serving()
    world.override(4, for_s=5.0)
    assert (world.target(), world.decision().code) == (4, "override_target")
    assert "ann: a demo" in world.decision().words
    assert world.wake() == 5.0
    assert (world.target(), world.state.models["chat"].override) == (1, None)


def test_an_override_stays_within_the_bounds() -> None:
    world = serving()
    world.override(100, for_s=60.0)
    assert world.target() == 8


def test_an_override_may_scale_in_without_signals() -> None:
    world = serving(3)
    world.rate = None
    world.after(1).see(world.snapshot())
    world.override(1, for_s=60.0)
    assert world.target() == 1


def test_hold_keeps_the_present_target_whatever_the_policy_wants() -> None:
    world = serving(2)
    world.override(None, for_s=60.0)
    assert world.decision().code == "override_hold"
    world.after(1).wants(7.0)
    assert (world.target(), world.launches()) == (2, [])


def test_an_override_can_be_taken_back() -> None:
    world = serving()
    world.override(4, for_s=600.0)
    world.see(OverrideCleared("chat", "ann", world.now))
    assert world.target() == 1


def test_overrides_of_unknown_models_are_ignored() -> None:
    world = serving()
    world.override(4, for_s=600.0, model_id="stranger")
    world.see(OverrideCleared("stranger", "ann", world.now))
    assert set(world.state.models) == {"chat"}


# -- pauses

SCOPES = [
    pytest.param(PauseScope.ALL, "", id="everything paused"),
    pytest.param(PauseScope.POOL, "local", id="the pool paused"),
    pytest.param(PauseScope.MODEL, "chat", id="the model paused"),
]


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_a_pause_freezes_starts(scope: PauseScope, name: str) -> None:
    world = serving()
    world.pause(scope, name)
    world.after(1).wants(5.0)
    assert world.launches() == []
    world.pause(scope, name, paused=False)
    assert len(world.launches()) == 4


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_a_pause_freezes_scale_in(scope: PauseScope, name: str) -> None:
    world = serving(3)
    world.pause(scope, name)
    world.after(1).wants(1.0)
    assert (world.registry(), world.count(ReplicaPhase.READY)) == ([], 3)
    world.pause(scope, name, paused=False)
    assert len(world.registry()) == 2


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_a_pause_freezes_the_replacement_of_failures(scope: PauseScope, name: str) -> None:
    world = serving()
    world.pause(scope, name)
    world.see(world.listing(chat_0_g1=ReplicaPhase.FAILED))
    assert (world.registry(), world.launches()) == ([(FIRST, "gone")], [])
    world.pause(scope, name, paused=False)
    assert len(world.launches()) == 1


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_a_pause_freezes_launches_that_nobody_answered(scope: PauseScope, name: str) -> None:
    world = World().begin()
    launches = world.launches()
    world.pause(scope, name)
    world.after(60).see(world.listing(), world.snapshot())
    assert world.launches() == []
    world.pause(scope, name, paused=False)
    assert world.launches() == launches


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_a_pause_freezes_drains_under_way(scope: PauseScope, name: str) -> None:
    world = serving(2, drain_limit_s=20.0)
    world.after(1).wants(1.0)
    world.pause(scope, name)
    for _ in range(30):
        world.after(1).see(world.snapshot())
        assert (world.stops(), world.count(ReplicaPhase.DRAINING)) == ([], 1)
    world.pause(scope, name, paused=False)
    assert len(world.stops()) == 1


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_a_pause_freezes_the_escalation_to_a_kill(scope: PauseScope, name: str) -> None:
    world = serving(2, stop_grace_s=5.0)
    world.after(1).wants(1.0)
    world.after(1).see(world.snapshot())
    world.see(world.accept(world.stops()[0]))
    world.pause(scope, name)
    world.after(60).see(world.snapshot())
    assert world.stops() == []
    world.pause(scope, name, paused=False)
    assert [stop.mode for stop in world.stops()] == ["kill"]


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_in_a_pause_a_wrong_replica_is_withdrawn_and_killed_after_the_thaw(scope: PauseScope, name: str) -> None:
    world = serving()
    world.pause(scope, name)
    world.see(world.probe(FIRST, ProbeVerdict.WRONG))
    assert (world.registry(), world.stops()) == ([(FIRST, "draining")], [])
    world.after(60).see(world.listing(), world.snapshot())
    world.pause(scope, name, paused=False)
    assert [stop.replica_id for stop in world.stops()] == [FIRST]


def test_a_pause_keeps_the_drain_of_a_removed_model_from_beginning() -> None:
    world = World(models=(model_spec(), model_spec("code"))).begin().bring_up()
    world.pause()
    world.declare(model_spec())
    assert world.registry() == []
    world.pause(paused=False)
    assert len(world.registry()) == 1


def test_a_paused_pool_does_not_stop_the_others() -> None:
    pools = (PoolSpec("local", "local", 2), PoolSpec("other", "local", 8))
    world = World(pools=pools).begin()
    world.pause(PauseScope.POOL, "local")
    world.after(1).wants(3.0)
    assert [launch.pool_id for launch in world.launches()] == ["other", "other"]


def test_a_pool_with_the_models_name_is_not_the_model() -> None:
    world = World(pools=(PoolSpec("chat", "local", 8),)).begin()
    world.pause(PauseScope.POOL, "chat")
    world.after(1).wants(3.0)
    assert (world.target(), world.codes()) == (3, ["rate", "no_pool"])


def test_a_pause_says_who_and_why() -> None:
    world = serving()
    world.pause()
    assert (world.decision().code, world.decision().words) == ("paused", "paused by ann: maintenance")


def test_lifting_one_pause_leaves_the_others() -> None:
    world = serving()
    world.pause()
    world.pause(PauseScope.MODEL, "chat")
    world.pause(paused=False)
    world.after(1).wants(5.0)
    assert world.launches() == []


def test_a_pause_is_not_a_busy_loop() -> None:
    world = serving(2, drain_limit_s=5.0)
    world.after(1).wants(1.0)
    world.pause()
    world.after(30).see()
    assert world.result is not None
    assert world.result.wake_at is None or world.result.wake_at > world.now


# -- observe mode


def test_observe_mode_tells_what_it_would_do_and_does_nothing() -> None:
    world = World(mode=Mode.OBSERVE, rate=2.0).begin()
    assert world.result is not None
    assert (world.result.plan.actions, world.replicas()) == ((), [])
    assert world.decision().target == 2
    assert [told.split(" (")[0] for told in world.decision().actions] == [
        "would launch chat-0-g1 in local", "would launch chat-1-g2 in local"
    ]  # fmt: skip
    assert world.decision().trail[-1].code == "observe_mode"


def test_observe_mode_rehearses_what_it_would_launch_once() -> None:
    world = World(mode=Mode.OBSERVE, rate=2.0).begin()
    assert world.result is not None
    assert [launch.replica_id for launch in world.result.plan.rehearsals] == ["chat-0-g1", "chat-1-g2"]
    assert world.launches() == []
    assert world.after(1).see(world.snapshot()).plan.rehearsals == ()


def test_observe_mode_does_not_tell_the_same_again() -> None:
    world = World(mode=Mode.OBSERVE, rate=2.0).begin()
    world.after(1).see(world.snapshot())
    assert not world.decided()
    world.after(1).wants(3.0)
    assert world.decision().target == 3


def test_observe_mode_leaves_alone_what_runs_already() -> None:
    world = serving(3)
    world.declare(mode=Mode.OBSERVE)
    world.after(1).wants(1.0)
    assert [told.split()[:2] for told in world.decision().actions] == [["would", "drain"]] * 2
    world.see(world.probe(FIRST, ProbeVerdict.WRONG))
    world.after(60).see(world.listing(), world.snapshot())
    assert world.stops() == []
    world.declare(mode=Mode.ACT)
    assert FIRST in [stop.replica_id for stop in world.stops()]


def test_observe_mode_stops_a_drain_under_way() -> None:
    world = serving(2)
    world.after(1).wants(1.0)
    world.declare(mode=Mode.OBSERVE)
    for _ in range(5):
        world.after(1).see(world.snapshot())
        assert world.stops() == []


def test_observe_mode_repeats_no_launch() -> None:
    world = World().begin()
    world.declare(mode=Mode.OBSERVE)
    world.after(60).see(world.listing(), world.snapshot())
    assert world.launches() == []


def test_a_removed_model_is_told_once_in_observe_mode() -> None:
    world = World(models=(model_spec(), model_spec("code"))).begin().bring_up()
    world.declare(model_spec(), mode=Mode.OBSERVE)
    assert world.decision("code").actions == ("would drain code-0-g1",)
    world.after(1).see(world.snapshot("code"))
    assert not world.decided()
    assert world.count(*ON_ITS_WAY) == 0
