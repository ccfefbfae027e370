"""Recorded observations give their decisions again: whole, from every checkpoint, across restarts, from any log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from broker.control.replay import Replayed, replay
from broker.log.memory import MemoryLog, MemoryStore
from broker.log.sqlite import SqliteLog
from broker.model import wire
from broker.model.errors import LogError
from broker.model.observation import Override, Receipt
from broker.model.ports import Checkpoint, Log, StepRecord
from broker.model.state import BrokerState
from policies.registry import cached
from tests.support.rehearsal import play_in_simulator
from tests.support.rehearsal_scripts import generated_script

SEEDS = (3, 4, 5)
EVERY = 25
"""Checkpoints beside those of restarts, in steps."""


def recorded(seed: int) -> MemoryStore:
    """A rehearsal's log with more checkpoints than a broker writes."""
    store = play_in_simulator(generated_script(seed))
    state = BrokerState()
    for record in store.steps:
        state = state.with_changes(record.changes)
        if record.number % EVERY == 0:
            store.checkpoints[record.number] = Checkpoint(record.number, record.now, state)
    assert store.epoch.number >= 2, "a restart is part of every rehearsal"
    return store


async def copied(store: MemoryStore, path: Path) -> None:
    """The same terms, steps and checkpoints in an SQLite file."""
    log: SqliteLog | None = None
    epoch = 0
    for record in store.steps:
        while epoch < record.epoch:
            if log is not None:
                await log.close()
            log = SqliteLog(path)
            epoch = (await log.acquire_leadership("rehearsal")).number
        assert log is not None
        await log.commit(record)
        if record.number in store.checkpoints:
            await log.checkpoint(store.checkpoints[record.number])
    if log is not None:
        await log.close()


@asynccontextmanager
async def log_of(kind: str, store: MemoryStore, folder: Path) -> AsyncIterator[Log]:
    log: Log = MemoryLog(store)
    if kind == "sqlite":
        await copied(store, folder / "log.sqlite")
        log = SqliteLog(folder / "log.sqlite")
    yield log
    await log.close()


def again(replayed: Replayed) -> StepRecord:
    """The record that the replay would have written."""
    plan = replayed.result.plan
    return replace(
        replayed.record,
        changes=replayed.result.changes,
        decisions=plan.decisions,
        effects=plan.effects,
        registry=plan.registry,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_every_step_is_made_again_byte_for_byte(kind: str, seed: int, tmp_path: Path) -> None:
    store = recorded(seed)
    async with log_of(kind, store, tmp_path) as log:
        steps = [replayed async for replayed in replay(log, cached())]
    assert [replayed.record.number for replayed in steps] == [record.number for record in store.steps]
    assert all(replayed.same for replayed in steps)
    written = [wire.dumps(again(replayed)) for replayed in steps]
    assert written == [wire.dumps(record) for record in store.steps]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_replay_may_begin_at_every_checkpoint(kind: str, tmp_path: Path) -> None:
    store = recorded(SEEDS[0])
    async with log_of(kind, store, tmp_path) as log:
        checkpoints = [checkpoint async for checkpoint in log.checkpoints()]
        assert len(checkpoints) >= 3
        for checkpoint in checkpoints:
            steps = [replayed async for replayed in replay(log, cached(), start=checkpoint)]
            assert len(steps) == len(store.steps) - checkpoint.number
            assert all(replayed.same for replayed in steps)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_trimmed_log_is_replayed_from_the_checkpoint_that_it_kept(kind: str, tmp_path: Path) -> None:
    store = recorded(SEEDS[1])
    async with log_of(kind, store, tmp_path) as log:
        await log.acquire_leadership("trimmer")
        await log.trim(store.steps[2 * EVERY].now)
        steps = [replayed async for replayed in replay(log, cached())]
    assert 0 < len(steps) < store.number
    assert all(replayed.same for replayed in steps)


async def test_a_log_with_a_hole_is_refused_by_name() -> None:
    store = recorded(SEEDS[0])
    del store.steps[10]
    with pytest.raises(LogError, match="step 11 is missing"):
        [replayed async for replayed in replay(MemoryLog(store), cached())]


@pytest.mark.parametrize("kind", [Receipt, Override])
async def test_an_observation_that_is_left_out_shows(kind: type) -> None:
    """The comparison can fail: a decision follows from what was observed."""
    store = recorded(SEEDS[0])
    index = next(i for i, r in enumerate(store.steps) if any(isinstance(o, kind) for o in r.observations))
    record = store.steps[index]
    store.steps[index] = replace(
        record, observations=tuple(seen for seen in record.observations if not isinstance(seen, kind))
    )
    steps = [replayed async for replayed in replay(MemoryLog(store), cached())]
    assert next(replayed.record.number for replayed in steps if not replayed.same) == record.number
