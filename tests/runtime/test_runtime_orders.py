"""An order is answered when it is durable, a leader that was deposed ends, and followers are let go at the end."""

from __future__ import annotations

import asyncio

import pytest

from broker.app.feed import Feed
from broker.app.runtime import Runtime
from broker.clock import LoopClock
from broker.log.memory import MemoryLog
from broker.model.errors import LeadershipRefused, LogError, LogFull
from broker.model.observation import PauseChanged, PauseScope, Receipt
from broker.model.plan import Effect
from broker.model.ports import StepRecord
from policies.registry import cached

pytestmark = pytest.mark.looptime

BASE = 1_750_000_000.0


class FakeLog(MemoryLog):
    """A log that may be slow, or refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.delay_s = 0.0
        self.problem: LogError | None = None
        self.committed: list[StepRecord] = []

    async def commit(self, record: StepRecord) -> None:
        await asyncio.sleep(self.delay_s)
        if self.problem is not None:
            raise self.problem
        await super().commit(record)
        self.committed.append(record)


class NoRunner:
    async def execute(self, effect: Effect) -> Receipt:
        raise AssertionError("nothing is to be carried out here")


def runtime_over(log: FakeLog) -> Runtime:
    return Runtime(log=log, policies=cached(), actuators={}, runner=NoRunner(), clock=LoopClock(BASE))


def pause(runtime: Runtime) -> PauseChanged:
    return PauseChanged(PauseScope.ALL, "", True, "operator", "a test", runtime.clock.now())


async def test_an_order_is_answered_only_after_its_step_is_committed() -> None:
    log = FakeLog()
    log.delay_s = 1.5
    runtime = runtime_over(log)
    async with runtime.running("test"):
        await asyncio.sleep(1.0)
        order = pause(runtime)
        await runtime.record(order)
        assert order in log.committed[-1].observations


async def test_an_order_that_the_log_refuses_is_told_so_and_takes_effect_when_it_recovers() -> None:
    log = FakeLog()
    runtime = runtime_over(log)
    async with runtime.running("test"):
        await asyncio.sleep(1.0)
        log.problem = LogFull("no room")
        with pytest.raises(LogError, match="no room"):
            await runtime.record(pause(runtime))
        log.problem = None
        await asyncio.sleep(5.0)
        assert runtime.core.loop.state.control.pauses


async def test_an_order_that_waits_when_the_broker_stops_is_told_so() -> None:
    log = FakeLog()
    runtime = runtime_over(log)
    async with runtime.running("test"):
        await asyncio.sleep(1.0)
        log.delay_s = 60.0
        waiting = asyncio.create_task(runtime.record(pause(runtime)))
        await asyncio.sleep(1.0)
    with pytest.raises(LogError, match="not written down"):
        await waiting


async def test_a_leader_that_was_deposed_ends_and_says_why() -> None:
    log = FakeLog()
    log.problem = LeadershipRefused("taken over by another")
    runtime = runtime_over(log)
    async with runtime.running("test"):
        assert isinstance(await runtime.died(), LeadershipRefused)


async def test_followers_are_let_go_when_the_broker_stops() -> None:
    runtime = runtime_over(FakeLog())
    async with runtime.running("test"):
        feed = Feed(runtime)
        events = feed.events()
        assert "event: snapshot" in await anext(events)
        feed.close()
        async with asyncio.timeout(2.0):
            assert len([event async for event in events]) <= 1
