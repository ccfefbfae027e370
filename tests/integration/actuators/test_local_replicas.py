"""How a replica is started, what it is told, and what is kept of it."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from actuators.local import procfs
from broker.model.errors import ActionRejected, TransientError
from broker.model.identity import endpoint_key
from broker.model.plan import Launch
from broker.model.replica import ReplicaPhase
from tests.support.actuator_worlds import (
    ENGINE,
    LocalWorld,
    launch_of,
    seen,
    stop_of,
    until,
    until_listening,
    until_phase,
)

pytestmark = pytest.mark.integration


def status_of(url: str, key: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_a_replica_answers_to_its_own_key_which_no_command_line_or_log_shows(world: LocalWorld) -> None:
    await world.actuator.start(launch_of(world.cluster))
    url = await until_listening(world, "chat-0-g1")
    key = endpoint_key(b"site", "chat-0-g1", 1)
    assert await asyncio.to_thread(status_of, url, key) == 200
    assert await asyncio.to_thread(status_of, url, "another") == 401
    (process,) = world.processes()
    assert key not in command_line(process.pid)
    assert key not in world.log_text("chat-0-g1")
    assert not any(key in path.read_text() for path in world.pool_dir.glob("*.*"))


async def test_five_replicas_started_at_once_have_five_ports(world: LocalWorld) -> None:
    launches = [launch_of(world.cluster, ordinal=ordinal, gpus=0) for ordinal in range(5)]
    await asyncio.gather(*(world.actuator.start(launch) for launch in launches))
    urls = [await until_listening(world, launch.replica_id) for launch in launches]
    assert len(set(urls)) == 5


async def test_named_devices_are_handed_out_and_taken_back(world: LocalWorld) -> None:
    world.options = {"gpu_ids": [4, "GPU-7f"]}
    world.renew()

    async def devices(ordinal: int, generation: int) -> str:
        launch = launch_of(world.cluster, ordinal=ordinal, generation=generation)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        environments = [procfs.environment(process.pid) for process in world.processes()]
        (found,) = [
            environ["CUDA_VISIBLE_DEVICES"]
            for environ in environments
            if environ["TIDEGATE_REPLICA_ID"] == launch.replica_id
        ]
        return found

    assert await devices(0, 1) == "4"
    assert await devices(1, 1) == "GPU-7f"
    world.crash("chat-0-g1")
    await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
    assert await devices(0, 2) == "4"


@pytest.mark.parametrize(
    ("script", "exit_code", "words"),
    [
        pytest.param("pass", 0, "exited by itself with code 0", id="an exit with 0, as vLLM's after an engine crash"),
        pytest.param("raise SystemExit(3)", 3, "code 3", id="an exit with 3"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -9, "signal 9", id="a signal that was not ours"),
    ],
)
async def test_a_replica_that_ends_unasked_has_failed_whatever_its_code(
    world: LocalWorld, script: str, exit_code: int, words: str
) -> None:
    await world.actuator.start(launch_of(world.cluster, engine=("{python}", "-c", script)))
    failed = await until_phase(world, "chat-0-g1", ReplicaPhase.FAILED)
    assert failed.exit_code == exit_code
    assert words in failed.detail


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        pytest.param(launch_of(engine=()), "empty", id="no command"),
        pytest.param(launch_of(engine=("/etc/passwd",)), "may not be executed", id="not executable"),
        pytest.param(launch_of(engine=("{python}", "a\0b")), "null byte", id="a NUL in an argument"),
        pytest.param(launch_of(environment={"A=B": "c"}), "environment", id="an environment that cannot be"),
    ],
)
async def test_a_launch_that_can_never_work_is_rejected_and_leaves_nothing(
    world: LocalWorld, launch: Launch, words: str
) -> None:
    world.cluster = "test"
    world.renew()
    with pytest.raises(ActionRejected, match=words):
        await world.actuator.start(launch)
    assert [path for path in world.pool_dir.iterdir() if path.is_file()] == []
    assert await seen(world, launch.replica_id) is None


async def test_a_launch_for_another_cluster_is_rejected(world: LocalWorld) -> None:
    with pytest.raises(ActionRejected, match="cluster elsewhere"):
        await world.actuator.start(launch_of("elsewhere"))


async def test_when_records_cannot_be_written_nothing_is_started_and_it_is_worth_trying_again(
    world: LocalWorld,
) -> None:
    world.break_listing()
    with pytest.raises(TransientError):
        await world.actuator.start(launch_of(world.cluster))
    with pytest.raises(TransientError):
        await world.actuator.stop(stop_of(launch_of(world.cluster)))
    assert world.processes() == []


async def test_a_replica_can_be_stopped_though_nothing_can_be_written(world: LocalWorld) -> None:
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    await until_listening(world, launch.replica_id)
    (world.pool_dir / f"{launch.action_id}.marks").mkdir()
    await world.actuator.stop(stop_of(launch))
    await until_phase(world, launch.replica_id, ReplicaPhase.GONE)


async def test_a_log_is_kept_to_its_limit_with_its_newest_lines(world: LocalWorld) -> None:
    world.log_limit_bytes = 20_000
    world.renew()
    await world.actuator.start(launch_of(world.cluster, engine=(*ENGINE, "--write-bytes", "100000")))
    await until_listening(world, "chat-0-g1")
    await world.actuator.observe()
    assert sum(path.stat().st_size for path in world.log_dir.iterdir()) <= 20_000
    tail = world.actuator.read_log("chat-0-g1", tail_lines=2)
    assert [line.split(" .")[0] for line in tail] == ["line 998", "line 999"]
    await world.actuator.stop(stop_of(launch_of(world.cluster)))
    await until_phase(world, "chat-0-g1", ReplicaPhase.GONE)
    assert world.actuator.read_log("chat-0-g1", tail_lines=1) == ["SIGTERM"]


async def test_a_log_that_cannot_be_trimmed_does_not_hide_the_replica(world: LocalWorld) -> None:
    world.log_limit_bytes = 10
    world.renew()
    await world.actuator.start(launch_of(world.cluster))
    (world.log_dir / "chat-0-g1.log").unlink()
    (world.log_dir / "chat-0-g1.log").mkdir()
    await until_listening(world, "chat-0-g1")


async def test_an_ended_replica_leaves_the_listing_after_an_hour_and_the_disk_after_a_week(world: LocalWorld) -> None:
    launch = launch_of(world.cluster)
    await world.actuator.start(launch)
    await until_listening(world, launch.replica_id)
    world.crash(launch.replica_id)
    await until_phase(world, launch.replica_id, ReplicaPhase.FAILED)

    world.clock.at += 3601
    assert await seen(world, launch.replica_id) is None
    await world.actuator.start(launch)
    assert await seen(world, launch.replica_id) is None
    assert world.actuator.read_log(launch.replica_id) == ["engine runs"]

    world.clock.at += 8 * 86400
    world.renew()
    assert await seen(world, launch.replica_id) is None
    assert world.actuator.read_log(launch.replica_id) == []
    assert list((world.pool_dir / "forgotten").iterdir()) == []
    assert world.processes() == []


async def test_a_replica_that_does_not_listen_yet_has_no_url(world: LocalWorld) -> None:
    await world.actuator.start(launch_of(world.cluster, engine=(*ENGINE, "--silent")))
    replica = await until(world, "chat-0-g1", lambda replica: "engine runs" in world.log_text("chat-0-g1"))
    assert (replica.phase, replica.url) == (ReplicaPhase.STARTING, None)
