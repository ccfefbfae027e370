"""Hot reload of policies.yaml, in virtual time with real files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from broker.app.reloading import LOOK_INTERVAL_S, policies_by_now, watch_files
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime, cancel
from broker.app.settings import SiteSettings, load_policies, load_site, spec_changed
from broker.clock import LoopClock
from broker.log.memory import MemoryLog
from broker.model.observation import PoolSnapshot
from broker.model.replica import ObservedReplica, ReplicaPhase
from broker.model.state import BrokerState, ControlState, ModelState
from tests.support.builders import model_spec
from tests.support.world import fake_policies

TEXT = """\
models:
  chat:
    engine: {command: [serve, "{port}"]}
    min: 1
    max: MAX
    policy: {kind: threshold, rules: [{signal: queue_age_s, above: 2s, for: 10s, change: +1}]}
"""


class World:
    def __init__(self, folder: Path, runtime: Runtime, logged: list[Any]) -> None:
        self.path = folder / "policies.yaml"
        self.runtime = runtime
        self.logged = logged

    async def looks(self, count: int = 4) -> None:
        """Let it look a few times. Real time passes too: files are read in a thread."""
        for _ in range(count):
            await asyncio.sleep(LOOK_INTERVAL_S)
            await asyncio.to_thread(lambda: None)

    def events(self) -> list[str]:
        return [line["event"] for line in self.logged if line["event"].startswith("policies")]

    def maximum(self) -> int | None:
        models = self.runtime.core.loop.state.models
        return models["chat"].spec.maximum if "chat" in models else None


def write(path: Path, maximum: int) -> None:
    path.write_text(TEXT.replace("MAX", str(maximum)))


def declare(folder: Path) -> SiteSettings:
    (folder / "site.yaml").write_text("cluster: x\npools: {local: {kind: local, gpus: 4}}\n")
    return load_site(folder / "site.yaml")


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    site = declare(folder)
    write(folder / "policies.yaml", 3)
    clock = LoopClock(1e9)
    runner = AsyncRunner({}, clock, timeout_s=1, concurrency=1, may_act=lambda: False)
    runtime = Runtime(log=MemoryLog(), policies=fake_policies, actuators={}, runner=runner, clock=clock)
    first = spec_changed(site.spec, load_policies(folder / "policies.yaml", site), clock.now())
    with structlog.testing.capture_logs() as logged:
        async with runtime.running("test", first):
            watching = asyncio.create_task(watch_files(folder / "policies.yaml", site, runtime, first.digest))
            yield World(folder, runtime, logged)
            assert not watching.done(), watching
            await cancel([watching])


pytestmark = pytest.mark.looptime(idle_step=0.05)


async def test_an_untouched_file_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.looks()
        os.utime(there.path)
        await there.looks()
        assert (there.events(), there.maximum()) == ([], 3)


async def test_a_good_file_takes_effect(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.looks()
        write(there.path, 7)
        await there.looks()
        assert (there.events(), there.maximum()) == (["policies_reloaded"], 7)


async def test_a_file_that_is_replaced_with_one_of_the_same_size_and_time_takes_effect(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.looks()
        write(tmp_path / "new", 8)
        before = there.path.stat()
        os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "new", there.path)
        await there.looks()
        assert there.maximum() == 8


async def test_a_bad_file_is_told_once_and_changes_nothing_until_it_is_mended(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.looks()
        there.path.write_text("models: {chat: {min: many}}")
        await there.looks(8)
        assert (there.events(), there.maximum()) == (["policies_not_reloaded"], 3)
        told = next(line for line in there.logged if line["event"] == "policies_not_reloaded")
        assert "policies.yaml:1" in told["problem"]
        write(there.path, 5)
        await there.looks()
        assert there.maximum() == 5


async def test_a_deleted_file_is_told_and_what_is_in_force_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.looks()
        there.path.unlink()
        await there.looks(8)
        assert (there.events(), there.maximum()) == (["policies_not_reloaded"], 3)
        write(there.path, 6)
        await there.looks()
        assert there.maximum() == 6


async def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    """Half a file may be a valid one with fewer models, and what is missing from it would be drained."""
    async with world(tmp_path) as there:
        await there.looks()
        for size in range(5):
            there.path.write_text("models: {}\n" + "#" * size)
            await there.looks(1)
        write(there.path, 4)
        await there.looks()
        assert (there.events(), there.maximum()) == (["policies_reloaded"], 4)


async def test_there_and_back_again_ends_with_the_first_even_if_no_step_came_between(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await there.looks()
        write(there.path, 9)
        await there.looks()
        write(there.path, 3)
        await there.looks()
        assert there.events() == ["policies_reloaded"] * 2
        assert there.maximum() == 3


async def test_what_changed_between_the_start_and_the_first_look_is_seen(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        write(there.path, 2)
        await there.looks()
        assert there.maximum() == 2


async def test_an_empty_file_is_obeyed_and_told_with_how_many_replicas_it_drains(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        running = ObservedReplica("chat-0-g1", "chat", 1, ReplicaPhase.STARTING)
        there.runtime.offer(PoolSnapshot("local", 1e9, 1e9, True, (running,), 4))
        await there.looks()
        there.path.write_text("models: {}")
        await there.looks()
        warned = [line["replicas"] for line in there.logged if line["event"] == "models_removed"]
        assert (warned, there.events()) == ([{"chat": 1}], ["policies_reloaded"])


def test_a_broker_that_stood_by_begins_with_the_file_as_it_is_by_then(tmp_path: Path) -> None:
    """By what it had read when it began to stand by, it drained a model that had been added since."""
    site, path = declare(tmp_path), tmp_path / "policies.yaml"
    write(path, 3)
    read_before = load_policies(path, site)
    write(path, 5)
    assert [model.maximum for model in policies_by_now(path, site, read_before, BrokerState())] == [5]


def test_with_errors_in_the_file_by_then_it_begins_with_what_the_last_leader_had_in_force(tmp_path: Path) -> None:
    site, path = declare(tmp_path), tmp_path / "policies.yaml"
    write(path, 3)
    read_before = load_policies(path, site)
    path.write_text("models: [")
    assert policies_by_now(path, site, read_before, BrokerState()) == read_before
    in_force = model_spec("code")
    restored = BrokerState().with_changes(
        {
            ("control", ""): ControlState(site=site.spec),
            ("model", "code"): ModelState("code", in_force, target=1),
            ("model", "gone"): ModelState("gone", model_spec("gone"), target=0, retired=True),
        }
    )
    assert policies_by_now(path, site, read_before, restored) == (in_force,)
