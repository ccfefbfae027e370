"""The control loop, the reconciler, the core with its windows, and replays; no event loop runs here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from broker.control.core import BrokerCore
from broker.control.loop import COALESCE_S, ROUTINE_S, ControlLoop, Ran
from broker.control.reconcile import objection
from broker.control.replay import Replayed, replay
from broker.log.memory import MemoryLog, MemoryStore
from broker.model import wire
from broker.model.errors import LogError, LogFull
from broker.model.observation import (
    GatewayReport,
    Observation,
    Outcome,
    PauseChanged,
    PauseScope,
    PoolSnapshot,
    Probe,
    ProbeVerdict,
    Receipt,
    SpecChanged,
)
from broker.model.plan import Effect, Launch, Stop
from broker.model.ports import Checkpoint, StepRecord
from broker.model.reading import fresh
from broker.model.replica import ReplicaPhase
from broker.model.signals import MetricSample, Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import JsonValue, Mode, PoolSpec, SiteSpec
from broker.model.state import BrokerState
from policies import registry
from simulator.driver import drive
from tests.support.world import World, fake_policies, model_spec

START = 1_000_000.0
SITE = SiteSpec("test", (PoolSpec("local", "local", 8),))


class FakeFullLog(MemoryLog):
    """Refuses steps or checkpoints while there is no room, or writes a step and cannot say so."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.refuses_steps = False
        self.refuses_checkpoints = False
        self.loses_answers = False

    async def commit(self, record: StepRecord) -> None:
        if self.refuses_steps:
            raise LogFull("no room for a step")
        await super().commit(record)
        if self.loses_answers:
            raise LogError("the disk did not answer")

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.refuses_checkpoints:
            raise LogFull("no room for a checkpoint")
        await super().checkpoint(checkpoint)


@dataclass
class Led:
    """A loop over a log, the effects it dispatched, and the time."""

    store: MemoryStore = field(default_factory=MemoryStore)
    now: float = START
    effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = FakeFullLog(self.store)
        self.loop = ControlLoop(self.log, fake_policies, self.effects.append, checkpoint_every_s=10.0)
        drive(self.loop.open("me", self.now))

    def offer(self, *observations: Observation) -> None:
        for observation in observations:
            self.loop.offer(observation)

    def declare(self) -> None:
        listing = PoolSnapshot("local", self.now, self.now, True, (), 8)
        self.offer(SpecChanged(SITE, (model_spec(),), self.now), listing, self.rate(1.0, 1))

    def rate(self, value: float, sequence: int) -> ModelSnapshot:
        return ModelSnapshot("chat", sequence, self.now, self.now, {Signal.ARRIVAL_RATE: fresh(value, self.now)})

    def run(self) -> Ran:
        return drive(self.loop.run(self.now))

    def restart(self) -> Led:
        drive(self.log.close())
        return Led(self.store, self.now)


def begun() -> Led:
    led = Led()
    led.declare()
    led.run()
    return led


# -- committing


def test_a_step_is_written_before_its_effects_are_carried_out() -> None:
    led = begun()
    assert [effect.replica_id for effect in led.effects] == ["chat-0-g1"]
    assert led.store.steps[0].effects == tuple(led.effects)
    assert led.store.steps[0].number == 1


def test_a_refused_step_loses_nothing_and_carries_out_nothing() -> None:
    led = Led()
    led.declare()
    led.log.refuses_steps = True
    with pytest.raises(LogError, match="no room for a step"):
        led.run()
    assert (led.effects, led.loop.state, led.store.steps) == ([], BrokerState(), [])
    led.now += 1
    led.log.refuses_steps = False
    assert led.loop.due_at() == START
    led.run()
    assert [effect.replica_id for effect in led.effects] == ["chat-0-g1"]
    assert [step.number for step in led.store.steps] == [1]


def test_what_comes_while_the_log_refuses_is_decided_together_with_what_waited() -> None:
    led = begun()
    led.log.refuses_steps = True
    led.now += 1
    led.offer(led.rate(3.0, 2))
    with pytest.raises(LogError):
        led.run()
    led.offer(PauseChanged(PauseScope.ALL, "", True, "ann", "why", led.now))
    led.log.refuses_steps = False
    ran = led.run()
    assert ran.plan.effects == ()
    assert {type(seen) for seen in led.store.steps[-1].observations} == {ModelSnapshot, PauseChanged}


def test_of_a_models_waiting_snapshots_only_the_newest_is_kept() -> None:
    led = begun()
    for sequence in range(2, 50):
        led.offer(led.rate(float(sequence % 5), sequence))
    led.now += 1
    led.run()
    assert [seen.sequence for seen in led.store.steps[-1].observations if isinstance(seen, ModelSnapshot)] == [49]


def test_a_step_that_was_written_although_the_log_said_no_is_carried_out_and_followed_by_the_next() -> None:
    led = Led()
    led.declare()
    led.log.loses_answers = True
    with pytest.raises(LogError, match="did not answer"):
        led.run()
    assert led.effects == []
    led.log.loses_answers = False
    led.now += 1
    led.offer(led.rate(2.0, 2))
    ran = led.run()
    assert ran.late
    assert [effect.replica_id for effect in led.effects] == ["chat-0-g1"]
    assert led.loop.due_at() == led.now + COALESCE_S
    assert not led.run().late
    assert [step.number for step in led.store.steps] == [1, 2]
    assert [type(seen) for seen in led.store.steps[1].observations] == [ModelSnapshot]


def test_while_the_log_refuses_only_what_says_something_else_piles_up() -> None:
    led = begun()
    led.log.refuses_steps = True
    for second in range(1, 1000):
        led.now += 1
        led.offer(
            led.rate(3.0, second + 1),
            GatewayReport("gw", "boot", second, 0, led.now, led.now),
            Probe("chat-0-g1", "chat", ProbeVerdict.UNREACHABLE, led.now, led.now),
            PoolSnapshot("local", led.now, led.now, True, (), 8, missing=()),
        )
        with pytest.raises(LogError):
            led.run()
    lost = PoolSnapshot("local", led.now, led.now, True, (), 8, missing=("chat-0-g1",))
    answers = [Receipt("launch-1", "chat-0-g1", "chat", Outcome.ACCEPTED, led.now, led.now) for _ in range(2)]
    led.offer(lost, *answers)
    led.log.refuses_steps = False
    led.run()
    observations = led.store.steps[-1].observations
    assert len(observations) == 4 + 1 + 2
    assert all(seen.received_at == led.now for seen in observations)


# -- when


def test_changes_within_50_ms_of_a_step_are_decided_together() -> None:
    led = begun()
    led.now += 0.01
    led.offer(led.rate(2.0, 2))
    assert led.loop.due_at() == pytest.approx(START + COALESCE_S)
    led.offer(PauseChanged(PauseScope.ALL, "", True, "ann", "why", led.now))
    led.now = START + COALESCE_S
    led.run()
    assert len(led.store.steps[-1].observations) == 2


def test_a_change_long_after_a_step_is_decided_at_once() -> None:
    led = begun()
    led.now += 5
    led.offer(led.rate(2.0, 2))
    assert led.loop.due_at() == led.now


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda at: GatewayReport("gw", "boot", 2, 0, at, at), id="a known gateway"),
        pytest.param(lambda at: PoolSnapshot("local", at, at, True, (), 8, missing=()), id="a pool without news"),
    ],
)
def test_that_somebody_known_is_still_there_waits_for_a_second(said: Callable[[float], Observation]) -> None:
    led = known_gateway()
    led.offer(said(led.now))
    assert led.loop.due_at() == led.now + ROUTINE_S


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda at: GatewayReport("new", "boot", 1, 0, at, at), id="another gateway"),
        pytest.param(lambda at: GatewayReport("gw", "new", 1, 0, at, at), id="another boot of a gateway"),
        pytest.param(lambda at: GatewayReport("gw", "boot", 2, 0, at, at, closed=True), id="a gateway that closes"),
        pytest.param(lambda at: PoolSnapshot("local", at, at, True, (), 9, missing=()), id="a pool that grew"),
        pytest.param(lambda at: PoolSnapshot("local", at, at, True, (), 8), id="a whole listing"),
        pytest.param(lambda at: PoolSnapshot("local", at, at, False, error="down"), id="a pool that failed"),
    ],
)
def test_what_is_news_waits_for_nothing(said: Callable[[float], Observation]) -> None:
    led = known_gateway()
    led.offer(said(led.now))
    assert led.loop.due_at() == led.now


def test_what_waits_is_decided_with_what_comes_before_its_time() -> None:
    led = known_gateway()
    led.offer(GatewayReport("gw", "boot", 2, 0, led.now, led.now))
    led.now += 0.5
    led.offer(led.rate(2.0, 2))
    assert led.loop.due_at() == led.now
    assert len(led.run().record.observations) == 2


def known_gateway() -> Led:
    led = begun()
    led.now += 1.0
    led.offer(GatewayReport("gw", "boot", 1, 0, led.now, led.now))
    led.run()
    led.now += 1.0
    return led


def test_with_nothing_pending_the_loop_wakes_when_time_alone_acts() -> None:
    led = begun()
    assert led.loop.due_at() == START + 15.0  # the launch is repeated, and the signals become late


def test_a_clock_set_back_by_an_hour_does_not_stop_the_loop() -> None:
    led = begun()
    led.now -= 3600
    led.offer(led.rate(2.0, 2))
    due = led.loop.due_at()
    assert due is not None
    assert due <= led.now + COALESCE_S
    led.run()
    assert led.loop.state.models["chat"].target == 2


# -- effects held back


def launch_and_stop() -> tuple[BrokerState, Launch, Stop]:
    """A state in which one replica is requested and another is to stop."""
    world = World(rate=2.0).begin().bring_up()
    world.after(1).wants(1.0)
    world.after(1).see(world.snapshot())
    stop = world.stops()[0]
    world.after(1).wants(3.0)
    return world.state, world.launches()[0], stop


NEWER = [
    pytest.param([], None, None, id="nothing newer"),
    pytest.param([PoolSnapshot("local", 1, 1, False, error="x")], "local cannot be listed any more", None,
                 id="the pool became unknown: no launch, but a stop"),
    pytest.param([PoolSnapshot("other", 1, 1, False)], None, None, id="another pool became unknown"),
    pytest.param([PauseChanged(PauseScope.ALL, "", True, "ann", "x", 1)], "paused by ann", "paused by ann",
                 id="everything was paused"),
    pytest.param([PauseChanged(PauseScope.POOL, "local", True, "ann", "x", 1)], "paused by ann", "paused by ann",
                 id="the pool was paused"),
    pytest.param([PauseChanged(PauseScope.MODEL, "code", True, "ann", "x", 1)], None, None,
                 id="another model was paused"),
    pytest.param([PauseChanged(PauseScope.ALL, "", False, "ann", "x", 1)], None, None, id="a pause was lifted"),
    pytest.param([SpecChanged(replace(SITE, mode=Mode.OBSERVE), (), 1)], "mode is observe now", "mode is observe now",
                 id="the mode became observe"),
]  # fmt: skip


@pytest.mark.parametrize(("newest", "of_launch", "of_stop"), NEWER)
def test_what_was_seen_since_may_speak_against_an_effect(
    newest: list[Observation], of_launch: str | None, of_stop: str | None
) -> None:
    state, launch, stop = launch_and_stop()
    assert (objection(state, newest, launch), objection(state, newest, stop)) == (of_launch, of_stop)


def test_an_effect_whose_replica_moved_on_or_was_forgotten_is_held_back() -> None:
    state, launch, stop = launch_and_stop()
    assert objection(BrokerState(), [], launch) == "its replica is no longer on record"
    assert objection(state, [], replace(stop, generation=99)) == "its replica is no longer on record"
    record = state.replicas_of("chat")[stop.replica_id]
    moved = state.with_changes({("replica", record.replica_id): replace(record, phase=ReplicaPhase.GONE)})
    assert objection(moved, [], stop) == "its replica is gone now"


class LateObservation(MemoryLog):
    """Something is seen while the step is being written."""

    def __init__(self) -> None:
        super().__init__()
        self.then: list[Observation] = []
        self.loop: ControlLoop | None = None

    async def commit(self, record: StepRecord) -> None:
        await super().commit(record)
        assert self.loop is not None
        while self.then:
            self.loop.offer(self.then.pop())


def test_a_held_back_effect_is_tried_again() -> None:
    log, effects = LateObservation(), list[Effect]()
    loop = log.loop = ControlLoop(log, fake_policies, effects.append)
    drive(loop.open("me", START))
    led = Led()
    loop.offer(SpecChanged(SITE, (model_spec(),), START))
    loop.offer(PoolSnapshot("local", START, START, True, (), 8))
    loop.offer(led.rate(1.0, 1))
    log.then = [PoolSnapshot("local", START, START, False, error="timed out")]
    ran = drive(loop.run(START))
    assert [problem for _, problem in ran.held] == ["local cannot be listed any more"]
    assert effects == []
    drive(loop.run(START + 1))
    loop.offer(PoolSnapshot("local", START + 15, START + 15, True, (), 8))
    drive(loop.run(START + 15))
    assert [effect.replica_id for effect in effects] == ["chat-0-g1"]


# -- checkpoints and restarts


def test_checkpoints_are_kept_at_their_interval() -> None:
    led = begun()
    for _ in range(25):
        led.now += 1
        led.offer(led.rate(1.0, int(led.now - START) + 1))
        led.run()
    assert [kept.now - START for kept in led.store.checkpoints.values()] == [9.0, 19.0]


def test_a_refused_checkpoint_finds_nothing_done_and_is_tried_again() -> None:
    led = begun()
    led.now += 10
    led.offer(led.rate(2.0, 2), PoolSnapshot("local", led.now, led.now, True, (), 8))
    led.log.refuses_checkpoints = True
    with pytest.raises(LogError):
        led.run()
    assert (len(led.store.steps), len(led.effects)) == (1, 1)
    led.log.refuses_checkpoints = False
    led.run()
    assert (len(led.store.steps), len(led.effects), len(led.store.checkpoints)) == (2, 2, 1)


def test_a_restarted_broker_goes_on_from_the_stored_state() -> None:
    led = begun()
    led.now += 3
    again = led.restart()
    assert again.loop.state == led.loop.state
    again.offer(PoolSnapshot("local", again.now, again.now, True, (), 8))
    ran = again.run()
    assert again.effects == led.effects  # under the same name, since nobody answered
    assert again.store.steps[-1].number == 2
    assert again.store.steps[-1].epoch == 2
    assert ran.plan.decisions == ()


def test_a_loop_that_was_not_opened_does_not_run() -> None:
    loop = ControlLoop(MemoryLog(), fake_policies, lambda effect: None)
    with pytest.raises(RuntimeError, match="not opened"):
        drive(loop.run(START))


# -- replay


async def replayed(led: Led, start: Checkpoint | None = None) -> list[Replayed]:
    return [step async for step in replay(led.log, fake_policies, start=start)]


def busy() -> Led:
    led = begun()
    for sequence in range(2, 40):
        led.now += 1
        led.offer(led.rate(float(sequence % 4), sequence), PoolSnapshot("local", led.now, led.now, True, (), 8))
        led.run()
    return led


def test_a_replay_decides_the_same_byte_for_byte() -> None:
    led = busy()
    steps = drive(replayed(led))
    assert len(steps) == len(led.store.steps)
    for step in steps:
        assert step.same
        again = replace(
            step.record, changes=step.result.changes, decisions=step.result.plan.decisions,
            effects=step.result.plan.effects,
        )  # fmt: skip
        assert wire.dumps(again) == wire.dumps(step.record)


def test_a_replay_may_start_at_any_checkpoint() -> None:
    led = busy()
    for start in led.store.checkpoints.values():
        steps = drive(replayed(led, start))
        assert len(steps) == len(led.store.steps) - start.number
        assert all(step.same for step in steps)


def test_a_trimmed_log_is_replayed_from_its_oldest_checkpoint() -> None:
    led = busy()
    drive(led.log.trim(START + 15))
    steps = drive(replayed(led))
    assert steps[0].record.number > 1
    assert all(step.same for step in steps)


def test_a_record_that_was_tampered_with_is_not_the_same() -> None:
    led = busy()
    led.store.steps[3] = replace(led.store.steps[3], observations=())
    assert not all(step.same for step in drive(replayed(led)))


def test_a_gap_in_the_log_is_told() -> None:
    led = busy()
    del led.store.steps[5]
    with pytest.raises(LogError, match=r"step 6 is missing from the log \(the next one is 7\)"):
        drive(replayed(led))


def test_an_empty_log_has_nothing_to_replay() -> None:
    assert drive(replayed(Led())) == []


# -- windows and loop together


def core() -> tuple[BrokerCore, MemoryLog]:
    log = MemoryLog()
    broker = BrokerCore(log, registry.cached(), lambda effect: None)
    drive(broker.open("me", START))
    rule: dict[str, JsonValue] = {
        "name": "queue",
        "signal": "requests_waiting",
        "above": 3.0,
        "for_s": 5.0,
        "change": 1,
    }
    policy = replace(model_spec().policy, kind="threshold", parameters={"rules": [rule]})
    broker.offer(SpecChanged(SITE, (model_spec(policy=policy),), START))
    drive(broker.run(START))
    return broker, log


def test_each_model_on_record_emits_a_snapshot_every_second() -> None:
    broker, _ = core()
    first = broker.due_at()
    assert first is not None
    assert START < first <= START + 1
    for second in range(3):
        assert broker.due_at() == first + second
        assert drive(broker.run(first + second)) is not None
    snapshot = broker.loop.state.models["chat"].snapshot
    assert snapshot is not None
    assert (snapshot.sequence, snapshot.received_at) == (3, first + 2)
    assert [(window.signal, window.over_s) for window in snapshot.windows] == [(Signal.REQUESTS_WAITING, 5.0)]


def test_measurements_of_unknown_models_are_ignored() -> None:
    broker, _ = core()
    assert not broker.observe(MetricSample("stranger", "stranger-0-g1", START, START, requests_running=1.0))


def test_nothing_is_run_before_it_is_due() -> None:
    broker, log = core()
    due = broker.due_at()
    assert due is not None
    assert drive(broker.run(due - 0.01)) is None
    assert drive(log.load()).number == 1


def test_snapshots_go_on_after_the_clock_was_set_back() -> None:
    broker, _ = core()
    drive(broker.run(START + 1))
    for second in range(-3600, -3595):
        broker.offer(PoolSnapshot("local", START + second, START + second, True, (), 8))
        drive(broker.run(START + second + COALESCE_S))
    snapshot = broker.loop.state.models["chat"].snapshot
    assert snapshot is not None
    assert snapshot.sequence >= 4


def test_a_model_that_is_forgotten_has_no_window_any_more() -> None:
    broker, _ = core()
    broker.offer(SpecChanged(SITE, (), START + 1))
    drive(broker.run(START + 1))
    drive(broker.run(START + 2))
    assert broker.loop.state.models == {}
    assert broker.due_at() is None
