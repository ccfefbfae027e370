"""The runtime when its world misbehaves, in virtual time: what it cannot write it does not do, and it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from actuators.fake import FakeActuator
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime, RuntimeSettings
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.errors import ActionRejected, LogError, TransientError
from broker.model.observation import (
    Outcome,
    Override,
    PauseChanged,
    PauseScope,
    PoolSnapshot,
    Probe,
    ProbeVerdict,
    Receipt,
    SpecChanged,
)  # fmt: skip
from broker.model.plan import Launch, Recommendation
from broker.model.ports import Checkpoint, StepRecord
from broker.model.replica import EndpointRecord, Replica, ReplicaPhase
from broker.model.snapshot import FleetSnapshot, ModelSnapshot
from broker.model.spec import Limits, PolicySpec, PoolSpec, SiteSpec
from broker.model.state import Memory
from policies.base import Policy
from tests.support.silence import silent_logs
from tests.support.virtual_loop import VirtualClock, run_virtually
from tests.support.world import FakePolicy, fake_policies, model_spec

START = 1_700_000_000.0
SITE = SiteSpec("test", (PoolSpec("local", "fake", gpus=8),), limits=Limits(effect_patience_s=3.0, pool_patience_s=4.0))

pytestmark = pytest.mark.usefixtures(silent_logs.__name__)


class FakeFullDisk(MemoryLog):
    """A log that refuses to write while it is ``full``."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.full = False
        self.no_checkpoints = False

    async def commit(self, record: StepRecord) -> None:
        if self.full:
            raise LogError("the disk is full")
        await super().commit(record)

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.no_checkpoints:
            raise LogError("no room for a checkpoint")
        await super().checkpoint(checkpoint)


async def as_always() -> None: ...


async def for_ever() -> None:
    await asyncio.Event().wait()


class FakeMoodyPool(FakeActuator):
    """``before_observe`` and ``before_start`` are awaited first: they may hang or raise."""

    before_observe: Callable[[], Awaitable[None]] = staticmethod(as_always)
    before_start: Callable[[], Awaitable[None]] = staticmethod(as_always)

    async def observe(self) -> PoolSnapshot:
        await self.before_observe()
        return await super().observe()

    async def start(self, launch: Launch) -> Receipt:
        await self.before_start()
        return await super().start(launch)


class Bench:
    """A runtime with one pool. The next broker in the same world is ``Bench(world=...)``."""

    def __init__(
        self,
        policies: Callable[[PolicySpec], Policy] = fake_policies,
        *,
        log: Callable[[MemoryStore], FakeFullDisk] = FakeFullDisk,
        world: Bench | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.store: MemoryStore = world.store if world else MemoryStore()
        self.log = log(self.store)
        self.pool: FakeMoodyPool = (
            world.pool if world else FakeMoodyPool("local", gpus=8, now=self.clock.now, start_s=0.5)
        )
        pools = {"local": self.pool}
        runner = AsyncRunner(pools, self.clock, timeout_s=5.0, concurrency=2, may_act=lambda: True)
        self.runtime = Runtime(
            log=self.log, policies=policies, actuators=pools, runner=runner, clock=self.clock,
            settings=RuntimeSettings(pool_timeout_s=2.0),
        )  # fmt: skip

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.runtime.running("test", SpecChanged(SITE, (model_spec(),), self.clock.now())):
            yield
        await self.log.close()

    async def after(self, seconds: float) -> None:
        await self.clock.sleep_until(self.clock.now() + seconds)

    def wants(self, target: int) -> None:
        now = self.clock.now()
        self.runtime.offer(Override("chat", "ops", "a test", now, now + 3600.0, target))

    def probe(self) -> None:
        now = self.clock.now()
        for replica in self.replicas().values():
            if replica.url is not None:
                self.runtime.offer(Probe(replica.replica_id, "chat", ProbeVerdict.READY, now, now))

    def replicas(self) -> Mapping[str, Replica]:
        return self.runtime.core.loop.state.replicas_of("chat")

    def phases(self) -> list[str]:
        return sorted(replica.phase.value for replica in self.replicas().values())


def in_virtual_time(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    run_virtually(main(), START)


def test_while_the_log_refuses_nothing_is_started_and_afterwards_everything_goes_on() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.running():
            await bench.after(3.0)
            assert len(bench.pool.launched) == 1
            bench.log.full = True
            bench.wants(3)
            steps = bench.store.number
            await bench.after(30.0)
            assert (len(bench.pool.launched), bench.store.number) == (1, steps)
            assert bench.runtime.log_problem == "the disk is full"
            bench.log.full = False
            await bench.after(3.0)
            assert bench.runtime.log_problem is None
            assert len(bench.pool.launched) == 3
        overrides = [o for record in bench.store.steps for o in record.observations if isinstance(o, Override)]
        assert len(overrides) == 1, "what was told meanwhile is neither lost nor written twice"

    in_virtual_time(story)


def test_while_the_log_refuses_snapshots_do_not_pile_up() -> None:
    """One for each model each second: a disk that was full overnight would have filled the memory too."""

    async def story() -> None:
        bench = Bench()
        async with bench.running():
            await bench.after(2.0)
            bench.log.full = True
            await bench.after(600.0)
            bench.log.full = False
            await bench.after(1.5)
        most = max(
            sum(isinstance(observation, ModelSnapshot) for observation in record.observations)
            for record in bench.store.steps
        )
        assert most == 1

    in_virtual_time(story)


def test_a_checkpoint_that_fails_does_not_lose_the_effects_of_a_committed_step() -> None:
    """It came between the commit and the effects: a launch was on record, and nobody carried it out or told of it."""

    async def story() -> None:
        bench = Bench()
        bench.log.no_checkpoints = True
        async with bench.running():
            await bench.after(2.0)
            launches = [e for record in bench.store.steps for e in record.effects if isinstance(e, Launch)]
            assert [launch.action_id for launch in launches] == [launch.action_id for launch in bench.pool.starts]
            bench.log.no_checkpoints = False
            await bench.after(2.0)
            assert bench.runtime.log_problem is None
            assert len(bench.pool.launched) == 1

    in_virtual_time(story)


def test_a_pool_that_hangs_is_unknown_after_its_time_and_not_submitted_to() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.running():
            await bench.after(3.0)
            bench.pool.before_observe = for_ever
            await bench.after(3.0)
            pool = bench.runtime.core.loop.state.pools["local"]
            assert pool.unknown_since is not None
            assert pool.error == "the listing timed out"
            bench.wants(4)
            await bench.after(10.0)
            assert len(bench.pool.launched) == 1
            bench.pool.before_observe = as_always
            await bench.after(5.0)
            assert len(bench.pool.launched) == 4

    in_virtual_time(story)


def test_a_pool_that_cannot_be_listed_is_told_of_once_with_the_cause_and_once_when_it_is_back() -> None:
    """The log had not a word of a controller that was away for minutes: only the API told."""

    async def fail() -> None:
        raise TransientError("slurmctld does not answer")

    async def story() -> None:
        bench = Bench()
        async with bench.running():
            with capture_logs() as lines:
                for before_observe in (as_always, fail, as_always):
                    bench.pool.before_observe = before_observe
                    await bench.after(5.0)
        told = [line for line in lines if line["event"].startswith("pool_")]
        assert [(line["event"], line["log_level"]) for line in told] == [
            ("pool_unknown", "warning"),
            ("pool_known_again", "info"),
        ]
        assert told[0]["problem"] == "slurmctld does not answer"
        assert 4.0 < told[1]["unknown_s"] < 6.0

    in_virtual_time(story)


def test_what_a_pool_refuses_again_and_again_is_told_once_and_again_after_it_took_one() -> None:
    refusal = ActionRejected("there is no partition gpus")

    async def refuse() -> None:
        raise refusal

    async def story() -> None:
        bench = Bench()
        async with bench.running():
            with capture_logs() as lines:
                bench.pool.before_start = refuse
                await bench.after(400.0)
                assert len(bench.replicas()) > 3
                bench.pool.before_start = as_always
                await bench.after(200.0)
                bench.probe()  # until one serves no other is tried
                bench.pool.before_start = refuse
                bench.wants(2)
                await bench.after(10.0)
        told = [line["event"] for line in lines if str(refusal) in (line.get("problem"), line.get("detail"))]
        assert told == ["replica_failed", "replica_failed"]

    in_virtual_time(story)


def test_a_start_that_hangs_is_cut_off_and_asked_for_again() -> None:
    async def story() -> None:
        bench = Bench()
        bench.pool.before_start = for_ever
        async with bench.running():
            await bench.after(4.0)
            assert bench.phases() == ["requested"]
            bench.pool.before_start = as_always
            await bench.after(8.0)
            assert len(bench.pool.launched) == 1
        receipts = [o for record in bench.store.steps for o in record.observations if isinstance(o, Receipt)]
        assert receipts[0].outcome is Outcome.TRANSIENT
        assert "did not answer within 5 s" in receipts[0].detail

    in_virtual_time(story)


@pytest.mark.parametrize(
    "error",
    [ValueError("no such job"), OSError(28, "no space"), TimeoutError(), asyncio.CancelledError(), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_a_pool_that_raises_anything_is_unknown_and_looked_at_again(error: BaseException) -> None:
    """A cancellation from inside an actuator once ended the watching of its pool for good."""

    async def fail() -> None:
        raise error

    async def story() -> None:
        bench = Bench()
        bench.pool.before_observe = fail
        async with bench.running():
            await bench.after(3.0)
            assert bench.runtime.core.loop.state.pools["local"].unknown_since is not None
            assert bench.pool.launched == []
            bench.pool.before_observe = as_always
            await bench.after(3.0)
            assert bench.runtime.core.loop.state.pools["local"].unknown_since is None
            assert len(bench.pool.launched) == 1

    in_virtual_time(story)


def test_stopping_the_broker_lets_an_effect_that_was_begun_finish() -> None:
    async def slowly() -> None:
        await asyncio.sleep(1.5)

    async def story() -> None:
        bench = Bench()
        bench.pool.before_start = slowly
        async with bench.running():
            await bench.after(1.5)
            assert (bench.phases(), bench.pool.launched) == (["requested"], [])
        assert len(bench.pool.launched) == 1
        assert bench.clock.now() < START + 3.5
        again = Bench(world=bench)
        async with again.running():
            await again.after(4.0)
            assert again.phases() == ["starting"]
        assert len(bench.pool.launched) == 1, "asked again, and recognised"

    in_virtual_time(story)


def test_stopping_the_broker_does_not_wait_for_ever_for_an_effect_that_hangs() -> None:
    async def story() -> None:
        bench = Bench()
        bench.pool.before_start = for_ever
        async with bench.running():
            await bench.after(1.5)
            assert bench.phases() == ["requested"]
        assert bench.clock.now() == START + 3.5

    in_virtual_time(story)


def test_listeners_are_told_of_every_change_in_the_order_of_revisions() -> None:
    async def story() -> None:
        bench = Bench()
        told: list[EndpointRecord] = []
        bench.runtime.listen(told.extend)
        async with bench.running():
            for target in (2, 4, 1):
                bench.wants(target)
                for _ in range(6):
                    await bench.after(0.5)
                    bench.probe()
        written = [endpoint for record in bench.store.steps for endpoint in record.registry]
        assert told == written
        assert [endpoint.revision for endpoint in told] == list(range(1, len(told) + 1))
        assert {endpoint.phase for endpoint in told} >= {ReplicaPhase.READY, ReplicaPhase.DRAINING}

    in_virtual_time(story)


def test_a_listener_that_fails_stops_neither_the_others_nor_the_broker() -> None:
    """The endpoints file on a full disk raised out of the control loop, which ended without a word."""

    async def story() -> None:
        bench = Bench()
        told: list[EndpointRecord] = []

        def fails(records: tuple[EndpointRecord, ...]) -> None:
            raise OSError(28, "no space left on device")

        bench.runtime.listen(fails)
        stop = bench.runtime.listen(told.extend)
        async with bench.running():
            await bench.after(2.0)
            bench.probe()
            await bench.after(1.0)
            assert [endpoint.phase for endpoint in told] == [ReplicaPhase.READY]
            stop()
            bench.wants(0)
            await bench.after(2.0)
            assert len(told) == 1
            assert bench.store.steps[-1].now >= START + 4.0

    in_virtual_time(story)


class FakeFaultyPolicies:
    """``raises``: what no policy should."""

    raises = False

    def __call__(self, spec: PolicySpec) -> Policy:
        return FakeFaultyPolicy() if self.raises else fake_policies(spec)


class FakeFaultyPolicy(FakePolicy):
    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        raise ZeroDivisionError("a fault in a policy")


def test_a_fault_in_a_step_is_told_and_tried_again_and_the_broker_lives() -> None:
    """An exception out of a step ended the control loop, while the API went on answering as if all were well."""

    class FakeFaultyLog(FakeFullDisk):
        async def commit(self, record: StepRecord) -> None:
            if self.full:
                raise ZeroDivisionError("a fault in a step")
            await super().commit(record)

    async def story() -> None:
        bench = Bench(log=FakeFaultyLog)
        async with bench.running():
            await bench.after(3.0)
            bench.log.full = True
            await bench.after(5.0)
            assert bench.runtime.log_problem == "ZeroDivisionError: a fault in a step"
            bench.log.full = False
            await bench.after(3.0)
            assert bench.runtime.log_problem is None

    in_virtual_time(story)


def test_a_fault_in_a_policy_is_logged_once_and_steps_go_on() -> None:
    async def story() -> None:
        policies = FakeFaultyPolicies()
        bench = Bench(policies)
        async with bench.running():
            await bench.after(3.0)
            policies.raises = True
            with capture_logs() as lines:
                await bench.after(5.0)
            (line,) = [line for line in lines if line["event"] == "policy_failed"]
            assert (line["model_id"], line["log_level"]) == ("chat", "error")
            assert line["problem"] == "ZeroDivisionError: a fault in a policy"
            assert bench.runtime.problem is None
            bench.wants(3)
            await bench.after(2.0)
            assert len(bench.pool.launched) == 3

    in_virtual_time(story)


def test_a_pause_that_comes_while_the_plan_is_written_holds_its_effects_back() -> None:
    class FakeSlowDisk(FakeFullDisk):
        async def commit(self, record: StepRecord) -> None:
            if any(isinstance(effect, Launch) for effect in record.effects) and len(record.effects) > 1:
                await asyncio.sleep(0.5)
            await super().commit(record)

    async def story() -> None:
        bench = Bench(log=FakeSlowDisk)
        async with bench.running():
            await bench.after(3.0)
            bench.wants(3)
            await bench.after(0.2)
            now = bench.clock.now()
            bench.runtime.offer(PauseChanged(PauseScope.ALL, "", True, "ops", "stop it", now))
            await bench.after(2.0)
            assert len(bench.pool.launched) == 1

    in_virtual_time(story)
