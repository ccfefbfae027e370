"""The broker is killed -9 around every point of a start and of a stop: one process, no orphan, no second signal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actuators.local.actuator import LAUNCHER
from broker.model.replica import ReplicaPhase
from tests.support.actuator_worlds import LocalWorld, launch_of, stop_of, until_listening, until_phase
from tests.support.shared_data import REPOSITORY

pytestmark = pytest.mark.integration


def let_a_broker_die(world: LocalWorld, point: str) -> None:
    arguments = [sys.executable, "-m", "tests.support.dying_broker", str(world.directory), world.cluster, point]
    done = subprocess.run(arguments, cwd=REPOSITORY, timeout=60, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", ["intent_written", "spawned", "started"])
@pytest.mark.parametrize("time", [1, 2, 3])
async def test_killed_in_a_start_and_asked_again_there_is_exactly_one_process(
    world: LocalWorld, point: str, time: int
) -> None:
    let_a_broker_die(world, point)
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    await until_listening(world, launch.replica_id)
    assert world.runs(launch.replica_id) == 1
    assert len(world.processes()) == 1


@pytest.mark.parametrize("point", ["stop_marked", "stop_sent"])
async def test_killed_in_a_stop_and_asked_again_the_replica_is_gone_not_failed(world: LocalWorld, point: str) -> None:
    let_a_broker_die(world, point)
    launch = launch_of(world.cluster)
    await world.actuator.stop(stop_of(launch))
    await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
    assert world.processes() == []


async def test_what_a_dead_broker_started_and_never_asked_for_again_is_listed(world: LocalWorld) -> None:
    let_a_broker_die(world, "spawned")
    await until_listening(world, "chat-0-g1")


async def test_an_exit_code_that_only_the_dead_broker_could_have_known_is_unknown(world: LocalWorld) -> None:
    let_a_broker_die(world, "started")
    await until_listening(world, "chat-0-g1")
    world.crash("chat-0-g1")
    failed = await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
    assert failed.exit_code is None
    assert "not known" in failed.detail


async def test_two_brokers_that_start_the_same_launch_at_once_make_one_process(world: LocalWorld) -> None:
    launch = launch_of(world.cluster)
    brokers = [world.make() for _ in range(4)]
    await asyncio.gather(*(broker.start(launch) for broker in brokers))
    await until_listening(world, launch.replica_id)
    for broker in brokers:
        await broker.observe()
    assert world.runs(launch.replica_id) == 1
    assert len(world.processes()) == 1


def test_of_many_launchers_for_one_action_one_becomes_the_engine(tmp_path: Path) -> None:
    claim = tmp_path / "action.claim"
    launchers = []
    for number in range(6):
        intent = tmp_path / f"{number}.intent"
        intent.write_text("{}\n")
        arguments = [sys.executable, "-I", "-S", str(LAUNCHER), str(intent), str(claim)]
        launchers.append(subprocess.Popen([*arguments, "/bin/sh", "sh", "-c", "exit 7"], stderr=subprocess.DEVNULL))
    codes = sorted(launcher.wait(timeout=30) for launcher in launchers)
    assert codes == [7, 124, 124, 124, 124, 124]
    assert [path.name for path in tmp_path.iterdir()] == ["action.claim"]


async def test_a_launcher_that_cannot_claim_is_a_failed_replica(world: LocalWorld) -> None:
    launch = launch_of(world.cluster)

    def lose_the_intent(name: str) -> None:
        if name == "intent_written":
            for intent in world.pool_dir.glob("*.intent"):
                intent.unlink()

    world.actuator = world.make(lose_the_intent)
    await world.actuator.start(launch)
    failed = await until_phase(world, launch.replica_id, ReplicaPhase.FAILED)
    assert failed.exit_code == 125
    assert "cannot claim" in world.log_text(launch.replica_id)
    assert world.runs(launch.replica_id) == 0


def open_files(pid: int) -> dict[int, str]:
    return {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}


async def test_a_replica_shares_neither_session_nor_terminal_nor_pipes_with_its_broker(world: LocalWorld) -> None:
    launch = launch_of(world.cluster)
    inherited, kept = os.pipe()
    os.set_inheritable(inherited, True)
    try:
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        (process,) = world.processes()
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        targets = open_files(process.pid)
        log = str(world.log_dir / "chat-0-g1.log")
        assert (targets[0], targets[1], targets[2]) == ("/dev/null", log, log)
        assert not any(target.startswith("pipe:") for target in targets.values())
    finally:
        os.close(inherited)
        os.close(kept)


async def test_a_graceful_stop_asked_twice_signals_once(world: LocalWorld) -> None:
    launch = launch_of(world.cluster, engine=(*launch_of().model.engine.command, "--exit-s", "1"))
    await world.actuator.start(launch)
    await until_listening(world, launch.replica_id)
    await world.actuator.stop(stop_of(launch))
    world.renew()
    await world.actuator.stop(stop_of(launch))
    await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
    assert world.log_text(launch.replica_id).count("SIGTERM") == 1
