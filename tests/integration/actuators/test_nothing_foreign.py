"""Whose process, whose port: what is not provably ours is neither listed, nor believed, nor touched."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actuators.local import procfs
from actuators.local.census import require_own_records
from actuators.local.records import LocalRecord
from broker.model import wire
from broker.model.errors import CapacityUnavailable, ConfigError
from broker.model.observation import Outcome
from broker.model.replica import ReplicaPhase, StopMode
from tests.support.actuator_worlds import (
    ENGINE,
    REPLICA_SERVER,
    LocalWorld,
    launch_of,
    seen,
    stop_of,
    until,
    until_listening,
    until_phase,
)

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def foreign_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that looks like a replica and is none of ours."""
    command = [sys.executable, "-S", str(REPLICA_SERVER), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "engine runs\n"
            yield process
        finally:
            process.kill()


def record_of(world: LocalWorld, port: int = 1) -> LocalRecord:
    launch = launch_of(world.cluster)
    return LocalRecord(
        launch.action_id, world.cluster, "pool", launch.replica_id, "chat", 1, 1, (), "127.0.0.1", port, 0.0
    )


def write_claim(world: LocalWorld, text: str) -> None:
    world.pool_dir.mkdir(parents=True, exist_ok=True)
    (world.pool_dir / f"{launch_of(world.cluster).action_id}.claim").write_text(text)


async def test_a_claim_whose_pid_has_come_back_as_somebody_else_touches_nobody(world: LocalWorld) -> None:
    with foreign_process("--silent") as foreign:
        boot = procfs.boot_id()
        process = procfs.read_process(foreign.pid, boot)
        assert process is not None
        write_claim(world, f"{wire.dumps(record_of(world))}\n{boot} {foreign.pid} {process.identity.start_ticks - 1}\n")
        await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
        for mode in StopMode:
            receipt = await world.actuator.stop(stop_of(launch_of(world.cluster), mode))
            assert receipt.outcome is Outcome.ACCEPTED
        await world.pass_time()
        assert foreign.poll() is None


async def test_a_claim_from_before_a_reboot_touches_nobody(world: LocalWorld) -> None:
    with foreign_process("--silent") as foreign:
        process = procfs.read_process(foreign.pid, "")
        assert process is not None
        write_claim(
            world, f"{wire.dumps(record_of(world))}\nanother-boot {foreign.pid} {process.identity.start_ticks}\n"
        )
        await world.actuator.stop(stop_of(launch_of(world.cluster), StopMode.KILL))
        await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
        assert foreign.poll() is None


async def test_a_process_with_the_same_command_line_is_not_listed_and_not_touched(world: LocalWorld) -> None:
    launch = launch_of(world.cluster)
    with foreign_process("--host", "127.0.0.1", "--port", "0", "--model", "chat") as foreign:
        assert (await world.actuator.observe()).replicas == ()
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        await world.actuator.stop(stop_of(launch, StopMode.KILL))
        await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
        assert foreign.poll() is None


@pytest.fixture
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    """Another cluster on the same machine, with replicas of the same names."""
    neighbour = LocalWorld(tmp_path_factory.mktemp("neighbour"))
    yield neighbour
    neighbour.end()


async def test_a_replica_of_another_cluster_on_this_machine_is_not_ours(
    world: LocalWorld, neighbour: LocalWorld
) -> None:
    await neighbour.actuator.start(launch_of(neighbour.cluster))
    await until_listening(neighbour, "chat-0-g1")
    assert await seen(world, "chat-0-g1") is None
    await world.actuator.stop(stop_of(launch_of(world.cluster), StopMode.KILL))
    await until_phase(neighbour, "chat-0-g1", ReplicaPhase.STARTING)


async def test_a_broker_of_the_same_names_with_records_of_its_own_is_told_apart_and_refused(
    world: LocalWorld, neighbour: LocalWorld
) -> None:
    namesake = LocalWorld(neighbour.directory, cluster=world.cluster)
    require_own_records(world.cluster, "pool", namesake.state_dir)
    await world.actuator.start(launch_of(world.cluster))
    await until_listening(world, "chat-0-g1")
    assert await seen(namesake, "chat-0-g1") is None
    await namesake.actuator.stop(stop_of(launch_of(world.cluster), StopMode.KILL))
    await until_phase(world, "chat-0-g1", ReplicaPhase.STARTING)
    require_own_records(world.cluster, "pool", world.state_dir)
    with pytest.raises(ConfigError, match=rf"chat-0-g1 .* its record is in {world.pool_dir}: .* another cluster"):
        require_own_records(world.cluster, "pool", namesake.state_dir)


async def test_replicas_are_found_though_their_records_have_moved(world: LocalWorld, tmp_path: Path) -> None:
    await world.actuator.start(launch_of(world.cluster))
    url = await until_listening(world, "chat-0-g1")
    moved = LocalWorld(tmp_path / "moved", cluster=world.cluster)
    moved.directory.mkdir()
    world.state_dir.rename(moved.state_dir)
    require_own_records(moved.cluster, "pool", moved.state_dir)
    assert await until_listening(moved, "chat-0-g1") == url


async def test_a_port_stolen_between_choice_and_bind_is_never_reported_and_the_replica_fails(
    world: LocalWorld,
) -> None:
    thief = socket.socket()

    def steal(name: str) -> None:
        if name == "intent_written":
            (intent,) = world.pool_dir.glob("*.intent")
            record = wire.loads(LocalRecord, intent.read_text())
            thief.bind(("127.0.0.1", record.port))
            thief.listen()

    with thief:
        world.actuator = world.make(steal)
        await world.actuator.start(launch_of(world.cluster))
        failed = await until(
            world,
            "chat-0-g1",
            lambda replica: replica is not None and (replica.phase is ReplicaPhase.FAILED or replica.url is not None),
        )
    assert failed.url is None
    assert failed.exit_code == 1
    assert "Address already in use" in world.log_text("chat-0-g1")


async def test_a_port_that_a_stranger_shares_is_not_reported(world: LocalWorld) -> None:
    await world.actuator.start(launch_of(world.cluster, engine=(*ENGINE, "--share-port")))
    url = await until_listening(world, "chat-0-g1")
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", int(url.rpartition(":")[2])))
        stranger.listen()
        replica = await until(world, "chat-0-g1", lambda replica: replica is not None and replica.url is None)
        assert "another process listens" in replica.detail
    assert await until_listening(world, "chat-0-g1") == url


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: "", id="emptied"),
        pytest.param(lambda text: text[: len(text) // 2], id="cut in the middle"),
        pytest.param(lambda text: text[:-8], id="cut in the last line"),
        pytest.param(lambda text: "\0\xff" * 50, id="garbage"),
    ],
)
async def test_a_replica_whose_claim_is_damaged_is_found_by_its_environment(
    world: LocalWorld, damage: Callable[[str], str]
) -> None:
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    url = await until_listening(world, launch.replica_id)
    (claim,) = world.pool_dir.glob("*.claim")
    write_claim(world, damage(claim.read_text()))
    world.renew()
    assert await until_listening(world, launch.replica_id) == url
    await world.actuator.start(launch)
    await world.actuator.stop(stop_of(launch))
    await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
    assert world.runs(launch.replica_id) == 1


async def test_a_damaged_claim_without_a_process_bars_a_second_start_and_is_not_listed(world: LocalWorld) -> None:
    write_claim(world, "garbage")
    assert (await world.actuator.observe()).known
    receipt = await world.actuator.start(launch_of(world.cluster))
    assert receipt.outcome is Outcome.ACCEPTED
    assert await seen(world, "chat-0-g1") is None
    assert world.processes() == []


async def test_replicas_are_found_though_all_records_were_deleted(world: LocalWorld) -> None:
    await world.actuator.start(launch_of(world.cluster))
    url = await until_listening(world, "chat-0-g1")
    for path in world.pool_dir.glob("*.*"):
        path.unlink()
    world.renew()
    assert await until_listening(world, "chat-0-g1") == url


async def test_what_a_killed_replica_leaves_behind_is_ended(world: LocalWorld) -> None:
    await world.actuator.start(launch_of(world.cluster, engine=(*ENGINE, "--helper")))
    await until_listening(world, "chat-0-g1")
    main, helper = sorted(world.processes(), key=lambda process: process.identity.start_ticks)
    world.crash("chat-0-g1")
    await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
    while process := procfs.read_process(helper.pid, helper.identity.boot_id):
        if process.ended:
            break
        await world.pass_time()
    assert procfs.read_process(main.pid, main.identity.boot_id) is None


def take_exit_status(pid: int) -> None:
    """After this nothing is left of our child, not even a zombie."""
    os.waitpid(pid, 0)


async def test_a_leftover_that_cannot_be_proven_ours_is_left_alone(world: LocalWorld) -> None:
    """Its environment is bare and this broker never saw it beside its session's first process."""
    await world.actuator.start(launch_of(world.cluster, engine=(*ENGINE, "--helper")))
    await until_listening(world, "chat-0-g1")
    main, helper = sorted(world.processes(), key=lambda process: process.identity.start_ticks)
    world.crash("chat-0-g1")
    take_exit_status(main.pid)
    world.renew()
    try:
        await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
        left = procfs.read_process(helper.pid, helper.identity.boot_id)
        assert left is not None
        assert left.identity == helper.identity
        assert not left.ended
    finally:
        procfs.send_signal(helper.identity, signal.SIGKILL)


async def test_with_a_port_range_each_replica_has_its_own_until_none_is_left(world: LocalWorld) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1]
    world.options = {"ports": [first, first]}
    world.renew()
    await world.actuator.start(launch_of(world.cluster, engine=(*ENGINE, "--silent")))
    with pytest.raises(CapacityUnavailable, match=f"no free port in {first}-{first}"):
        await world.actuator.start(launch_of(world.cluster, ordinal=1))
