"""Slurm's commands over SSH, where the connection is what matters."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import psutil
import pytest

from actuators.slurm.commands import CommandClient
from actuators.slurm.job import JobSpec
from actuators.slurm.runner import Unfinished
from actuators.slurm.ssh import SshRunner
from broker.clock import SystemClock
from broker.model.errors import ActionRejected, TransientError
from tests.support import real_slurm, real_sshd
from tests.support.real_slurm import RealSlurm
from tests.support.real_sshd import RealSshd
from tests.support.shared_data import REPOSITORY
from tests.support.slurm_worlds import OPTIONS, PARTITIONS, CommandWorld, RestWorld, SshWorld
from tests.support.waiting import until

GATE = REPOSITORY / "deploy" / "slurm" / "tidegate-slurm-gate"

pytestmark = pytest.mark.integration


@pytest.fixture
def sshd() -> Iterator[RealSshd]:
    if (reason := real_sshd.why_not()) is not None:
        pytest.skip(reason)
    with RealSshd({}) as sshd:
        yield sshd


async def test_a_command_gets_its_arguments_and_its_input_whole(sshd: RealSshd) -> None:
    runner = SshRunner(sshd.login)
    done = await runner.run(
        ("sh", "-c", 'printf "%s|" "$@"; cat; exit 3', "-", "a b", "it's", "$HOME"), "ä\n", timeout_s=10
    )
    assert (done.status, done.output) == (3, "a b|it's|$HOME|ä\n")
    await runner.close()


async def test_one_connection_serves_many_commands_at_once(sshd: RealSshd) -> None:
    runner = SshRunner(sshd.login)
    await asyncio.gather(*(runner.run(("true",), timeout_s=10) for _ in range(30)))
    done = await runner.run(("sh", "-c", "echo $SSH_CONNECTION"), timeout_s=10)
    again = await runner.run(("sh", "-c", "echo $SSH_CONNECTION"), timeout_s=10)
    assert done.output == again.output
    await runner.close()


async def test_a_command_that_does_not_end_is_ended_over_there(sshd: RealSshd, tmp_path: Path) -> None:
    runner = SshRunner(sshd.login)
    told = tmp_path / "pid"
    with pytest.raises(Unfinished, match="did not end within 1 s"):
        await runner.run(("sh", "-c", f"echo $$ > {told}; exec sleep 60"), timeout_s=1.0)
    assert not psutil.pid_exists(int(told.read_text()))
    await runner.close()


async def test_a_lost_connection_is_opened_again_by_the_next_command(sshd: RealSshd) -> None:
    runner = SshRunner(sshd.login)
    await runner.run(("true",), timeout_s=10)
    sshd.stop()
    with pytest.raises(TransientError):
        await runner.run(("true",), timeout_s=10)
    with pytest.raises(TransientError, match="cannot be reached"):
        await runner.run(("true",), timeout_s=10)
    sshd.start()
    assert (await runner.run(("true",), timeout_s=10)).status == 0
    await runner.close()


async def test_a_connection_lost_in_a_command_leaves_its_end_unknown(sshd: RealSshd, tmp_path: Path) -> None:
    runner = SshRunner(sshd.login)
    began = tmp_path / "began"
    running = asyncio.create_task(runner.run(("sh", "-c", f"touch {began}; sleep 30"), timeout_s=60))
    await asyncio.to_thread(until, began.exists, "the command runs")
    sshd.stop()
    with pytest.raises(Unfinished):
        await running
    await runner.close()


async def test_a_host_with_another_key_gets_nothing(sshd: RealSshd, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {key}", encoding="ascii")
    with pytest.raises(ActionRejected, match="nothing was sent"):
        await SshRunner(replace(sshd.login, known_hosts=known)).run(("true",), timeout_s=10)


async def test_a_host_whose_key_is_not_known_gets_nothing(sshd: RealSshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("", encoding="ascii")
    with pytest.raises(ActionRejected, match="nothing was sent"):
        await SshRunner(replace(sshd.login, known_hosts=tmp_path / "known_hosts")).run(("true",), timeout_s=10)
    with pytest.raises(ActionRejected, match="ssh-keyscan"):
        await SshRunner(replace(sshd.login, known_hosts=tmp_path / "absent")).run(("true",), timeout_s=10)


async def test_a_key_that_is_not_let_in_is_told(sshd: RealSshd, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "mine")
    with pytest.raises(ActionRejected, match="authorized_keys"):
        await SshRunner(replace(sshd.login, keys=(tmp_path / "mine",))).run(("true",), timeout_s=10)
    with pytest.raises(ActionRejected, match="private key"):
        await SshRunner(replace(sshd.login, keys=(tmp_path / "absent",))).run(("true",), timeout_s=10)


async def test_a_command_that_is_not_over_there_is_told(sshd: RealSshd) -> None:
    runner = SshRunner(sshd.login)
    with pytest.raises(ActionRejected, match="non-interactive"):
        await runner.run(("no-such-command",), timeout_s=10)
    await runner.close()


async def test_a_locked_down_account_can_do_all_that_is_needed_and_nothing_else() -> None:
    reason = real_slurm.why_not() or real_sshd.why_not()
    if reason is not None:
        pytest.skip(reason)
    with (
        RealSlurm(1, ["PartitionName=batch Nodes=ALL Default=YES"], OPTIONS) as slurm,
        RealSshd({"SLURM_CONF": slurm.environment["SLURM_CONF"]}, forced=f"{sys.executable} {GATE}") as sshd,
    ):
        client = CommandClient(SshRunner(sshd.login), SystemClock())
        job = JobSpec("tg-a", "tidegate:c1", "#!/bin/sh\nsleep 60\n", "batch", 60.0, "/dev/null", "/")
        job_id = await client.submit(job)
        assert [record.job_id for record in await client.jobs()] == [job_id]
        assert [partition.name for partition in (await client.facts()).partitions] == ["batch"]
        await client.signal(999, "USR1")
        await client.cancel(job_id)
        runner = SshRunner(sshd.login)
        with pytest.raises(ActionRejected, match="not allowed"):
            await runner.run(("sinfo",), timeout_s=10)
        await runner.close()
        await client.close()


async def test_a_cluster_on_which_nothing_was_submitted_is_known_to_be_empty() -> None:
    reason = real_slurm.why_not(rest=True) or real_sshd.why_not()
    if reason is not None:
        pytest.skip(reason)
    with (
        RealSlurm(2, PARTITIONS, OPTIONS, rest=True) as slurm,
        RealSshd({"SLURM_CONF": slurm.environment["SLURM_CONF"]}) as sshd,
    ):
        for world in (CommandWorld(slurm), RestWorld(slurm), SshWorld(slurm, sshd)):
            assert await world.client.jobs() == ()
            await world.client.close()
