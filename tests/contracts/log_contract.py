"""What every ``Log`` must do. A test module subclasses ``LogContract`` and gives it a ``LogHome``."""

from __future__ import annotations

import abc
import asyncio
import dataclasses
from typing import Protocol

import pytest

from broker.model.errors import LeadershipRefused, LogDamaged
from broker.model.ports import Checkpoint, Log, StepRecord
from broker.model.replica import EndpointRecord, ReplicaPhase
from broker.model.state import BrokerState, Changes
from tests.support.builders import START, decision, endpoint, replica, step_record


class RegistryLog(Log, Protocol):
    """The port, with the registry's projection that the embedded logs keep beside it."""

    async def endpoints(self) -> list[EndpointRecord]: ...


class LogHome(abc.ABC):
    """A place where a log is kept: each ``open`` is another broker (or the same one, restarted) at that place."""

    def __init__(self) -> None:
        self._opened: list[RegistryLog] = []

    @abc.abstractmethod
    def make(self) -> RegistryLog: ...

    def open(self) -> RegistryLog:
        log = self.make()
        self._opened.append(log)
        return log

    async def leader(self, holder: str = "broker-a") -> RegistryLog:
        log = self.open()
        await log.acquire_leadership(holder)
        return log

    async def close(self) -> None:
        for log in self._opened:
            await log.close()


async def commit_steps(log: Log, count: int, *, first: int = 1, epoch: int = 1) -> BrokerState:
    """Commit ``count`` steps and return the state that they add up to."""
    state = BrokerState()
    for number in range(first, first + count):
        record = step_record(number, epoch=epoch)
        await log.commit(record)
        state = state.with_changes(record.changes)
    return state


class LogContract:
    async def test_a_new_log_is_empty_at_step_0(self, home: LogHome) -> None:
        log = await home.leader()
        assert await log.load() == Checkpoint(0, 0.0, BrokerState())
        assert [step async for step in log.steps()] == []
        assert [checkpoint async for checkpoint in log.checkpoints()] == []
        assert await log.decisions() == []
        assert await log.endpoints() == []
        assert [record async for record in log.records("requests")] == []

    async def test_a_committed_step_comes_back_exactly(self, home: LogHome) -> None:
        log = await home.leader()
        record = step_record(1)
        await log.commit(record)
        assert [step async for step in log.steps()] == [record]

    async def test_load_gives_the_state_after_the_last_step(self, home: LogHome) -> None:
        log = await home.leader()
        state = await commit_steps(log, 3)
        assert await log.load() == Checkpoint(3, START + 3, state)

    async def test_a_change_to_none_removes_the_entity(self, home: LogHome) -> None:
        log = await home.leader()
        there: Changes = {("replica", "a"): replica("a"), ("replica", "b"): replica("b")}
        await log.commit(step_record(1, changes=there))
        await log.commit(step_record(2, changes={("replica", "a"): None, ("pool", "never-was"): None}))
        assert (await log.load()).state == BrokerState(replicas={"chat": {"b": replica("b")}})

    async def test_entities_keep_the_order_in_which_they_came(self, home: LogHome) -> None:
        log = await home.leader()
        keys = ["c", "a", "b"]
        await log.commit(step_record(1, changes={("replica", key): replica(key) for key in keys}))
        await log.commit(step_record(2, changes={("replica", "c"): replica("c", at=START + 1)}))
        await log.commit(step_record(3, changes={("replica", "a"): None}))
        await log.commit(step_record(4, changes={("replica", "a"): replica("a")}))
        assert list((await log.load()).state.replicas_of("chat")) == ["c", "b", "a"]

    async def test_a_refused_step_leaves_nothing_behind(self, home: LogHome) -> None:
        log = await home.leader()
        await commit_steps(log, 2)
        before = await log.load()
        with pytest.raises(LogDamaged, match="step 4 cannot follow step 2"):
            await log.commit(step_record(4))
        with pytest.raises(LogDamaged, match="step 2 cannot follow step 2"):
            await log.commit(step_record(2))
        assert await log.load() == before
        assert [step.number async for step in log.steps()] == [1, 2]
        assert len(await log.decisions()) == 2
        await log.commit(step_record(3))

    async def test_a_step_that_was_decided_under_another_epoch_is_refused(self, home: LogHome) -> None:
        log = await home.leader()
        with pytest.raises(LeadershipRefused, match="decided under epoch 7, and this is 1"):
            await log.commit(step_record(1, epoch=7))

    async def test_steps_come_in_order_after_the_given_number(self, home: LogHome) -> None:
        log = await home.leader()
        await commit_steps(log, 120)
        assert [step.number async for step in log.steps()] == list(range(1, 121))
        assert [step.number async for step in log.steps(after=117)] == [118, 119, 120]
        assert [step.number async for step in log.steps(after=120)] == []

    async def test_decisions_come_newest_first_and_can_be_narrowed(self, home: LogHome) -> None:
        log = await home.leader()
        for number in range(1, 7):
            await log.commit(step_record(number, model_id="even" if number % 2 == 0 else "odd"))
        assert [d.target for d in await log.decisions()] == [6, 5, 4, 3, 2, 1]
        assert [d.target for d in await log.decisions("even")] == [6, 4, 2]
        assert [d.target for d in await log.decisions("odd", limit=2)] == [5, 3]
        assert [d.target for d in await log.decisions(since=START + 5)] == [6, 5]
        assert [d.target for d in await log.decisions("odd", since=START + 2)] == [5, 3]
        assert await log.decisions("nobody") == []
        assert (await log.decisions(limit=1))[0] == decision("even", START + 6, 6)

    async def test_checkpoints_come_oldest_first_and_replay_to_the_same_state(self, home: LogHome) -> None:
        log = await home.leader()
        kept = []
        for number in (1, 2, 3, 4):
            await log.commit(step_record(number, model_id=f"model-{number}"))
            if number % 2 == 0:
                kept.append(await log.load())
                await log.checkpoint(kept[-1])
        found = [checkpoint async for checkpoint in log.checkpoints()]
        assert found == kept
        state = found[0].state
        async for step in log.steps(after=found[0].number):
            state = state.with_changes(step.changes)
        assert state == (await log.load()).state

    async def test_the_newest_checkpoint_before_a_time_is_found_alone(self, home: LogHome) -> None:
        log = await home.leader()
        kept = []
        for number in (1, 2, 3):
            await log.commit(step_record(number))
            kept.append(await log.load())
            await log.checkpoint(kept[-1])
        assert await log.checkpoint_before(START + 1) is None
        assert await log.checkpoint_before(START + 2) == kept[0]
        assert await log.checkpoint_before(START + 99) == kept[2]

    async def test_a_checkpoint_of_a_step_to_come_is_refused(self, home: LogHome) -> None:
        log = await home.leader()
        with pytest.raises(LogDamaged, match="checkpoint of step 9"):
            await log.checkpoint(Checkpoint(9, START, BrokerState()))

    async def test_the_registry_keeps_live_endpoints_and_drops_tombstones(self, home: LogHome) -> None:
        log = await home.leader()
        await log.commit(step_record(1, model_id="chat"))
        await log.commit(step_record(2, model_id="code"))
        draining = endpoint("chat-0-g1", 3, ReplicaPhase.DRAINING)
        await log.commit(with_registry(3, draining))
        assert await log.endpoints() == [draining, endpoint("code-0-g1", 2)]
        await log.commit(with_registry(4, endpoint("chat-0-g1", 4, ReplicaPhase.GONE)))
        assert await log.endpoints() == [endpoint("code-0-g1", 2)]

    async def test_records_come_back_by_topic_in_order(self, home: LogHome) -> None:
        log = await home.leader()
        await log.append("requests", [{"n": 1}, {"n": 2.5, "deep": [None, True, "ä\u0000"]}])
        await log.append("signals", ["one"])
        await log.append("requests", [])
        await log.append("requests", [3])
        assert [r async for r in log.records("requests")] == [{"n": 1}, {"n": 2.5, "deep": [None, True, "ä\u0000"]}, 3]
        assert [r async for r in log.records("signals")] == ["one"]
        assert [r async for r in log.records("usage")] == []

    async def test_writes_that_wait_at_once_are_all_kept_in_order(self, home: LogHome) -> None:
        log = await home.leader()
        await asyncio.gather(
            *(log.commit(step_record(number)) for number in range(1, 31)),
            *(log.append("requests", [number]) for number in range(30)),
        )
        assert [step.number async for step in log.steps()] == list(range(1, 31))
        assert [r async for r in log.records("requests")] == list(range(30))

    async def test_one_bad_write_among_many_fails_alone(self, home: LogHome) -> None:
        log = await home.leader()
        outcomes = await asyncio.gather(
            log.commit(step_record(1)),
            log.commit(step_record(5)),
            log.append("requests", ["good"]),
            log.commit(step_record(2)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), LogDamaged, type(None), type(None)]
        assert [step.number async for step in log.steps()] == [1, 2]

    async def test_trim_keeps_what_the_newest_older_checkpoint_needs(self, home: LogHome) -> None:
        log = await home.leader()
        for number in range(1, 11):
            await log.append("requests", [f"before step {number}"])
            await log.commit(step_record(number))
            if number in (2, 5, 9):
                await log.checkpoint(await log.load())
        whole = await log.load()
        await log.trim(before=START + 8)
        assert [checkpoint.number async for checkpoint in log.checkpoints()] == [5, 9]
        assert [step.number async for step in log.steps()] == [6, 7, 8, 9, 10]
        assert [step.number async for step in log.steps(after=8)] == [9, 10]
        assert [d.target for d in await log.decisions()] == [10, 9, 8, 7, 6]
        assert [r async for r in log.records("requests")] == [f"before step {n}" for n in (8, 9, 10)]
        assert await log.load() == whole
        await log.commit(step_record(11))

    async def test_trim_without_an_older_checkpoint_keeps_all_steps(self, home: LogHome) -> None:
        log = await home.leader()
        await commit_steps(log, 5)
        await log.checkpoint(await log.load())
        await log.trim(before=START + 4)
        assert [step.number async for step in log.steps()] == [1, 2, 3, 4, 5]

    async def test_a_second_broker_is_refused_and_told_who_leads(self, home: LogHome) -> None:
        await home.leader("broker-a")
        with pytest.raises(LeadershipRefused, match="led by broker-a"):
            await home.open().acquire_leadership("broker-b")

    async def test_a_refused_broker_may_read_and_not_write(self, home: LogHome) -> None:
        leader, other = await home.leader(), home.open()
        await commit_steps(leader, 2)
        assert (await other.load()).number == 2
        for write in (
            other.commit(step_record(3)),
            other.append("requests", [1]),
            other.checkpoint(Checkpoint(1, START, BrokerState())),
            other.trim(START),
        ):
            with pytest.raises(LeadershipRefused, match="only the leader writes"):
                await write

    async def test_each_term_of_leadership_has_a_higher_epoch(self, home: LogHome) -> None:
        first, second = home.open(), home.open()
        one = await first.acquire_leadership("broker-a")
        assert await first.acquire_leadership("broker-a") == one
        await first.close()
        two = await second.acquire_leadership("broker-b")
        assert (one.number, two.number, two.holder) == (1, 2, "broker-b")

    async def test_close_may_be_repeated_and_ends_writing(self, home: LogHome) -> None:
        log = await home.leader()
        await commit_steps(log, 1)
        await log.close()
        await log.close()
        with pytest.raises(LeadershipRefused):
            await log.commit(step_record(2))

    async def test_a_restart_keeps_everything(self, home: LogHome) -> None:
        first = await home.leader()
        await commit_steps(first, 4)
        await first.checkpoint(await first.load())
        await first.append("usage", [{"gpu_s": 12.5}])
        before = await first.load()
        await first.close()
        second = await home.leader("broker-b")
        assert await second.load() == before
        assert [step async for step in second.steps()] == [step_record(number) for number in (1, 2, 3, 4)]
        assert [checkpoint async for checkpoint in second.checkpoints()] == [before]
        assert [record async for record in second.records("usage")] == [{"gpu_s": 12.5}]
        assert len(await second.endpoints()) == 1
        await second.commit(step_record(5, epoch=2))


def with_registry(number: int, record: EndpointRecord) -> StepRecord:
    return dataclasses.replace(step_record(number), registry=(record,))
