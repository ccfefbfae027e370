"""Each transport under the one contract; all but the pretended one on a real Slurm of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from actuators.slurm.job import JobState, WarningSignal
from tests.contracts.slurm_client_contract import SlurmClientContract
from tests.support import real_slurm, real_sshd
from tests.support.real_slurm import RealSlurm
from tests.support.real_sshd import RealSshd
from tests.support.slurm_worlds import (
    OPTIONS,
    PARTITIONS,
    CommandWorld,
    FakeWorld,
    RealWorld,
    RestWorld,
    SlurmWorld,
    SshWorld,
    eventually,
    record_of,
    until,
)


class TestFakeSlurm(SlurmClientContract):
    @pytest.fixture
    def world(self) -> SlurmWorld:
        return FakeWorld()


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    if (reason := real_slurm.why_not(rest=True)) is not None:
        pytest.skip(reason)
    with RealSlurm(2, PARTITIONS, OPTIONS, rest=True) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def sshd(slurm: RealSlurm) -> Iterator[RealSshd]:
    if (reason := real_sshd.why_not()) is not None:
        pytest.skip(reason)
    with RealSshd({"SLURM_CONF": slurm.environment["SLURM_CONF"]}) as sshd:
        yield sshd


@pytest.mark.integration
class RealSlurmContract(SlurmClientContract):
    """What can only be seen where jobs run, through the transport whose world is ``made``."""

    @pytest.fixture
    async def world(self, made: RealWorld) -> AsyncIterator[RealWorld]:
        yield made
        await made.client.close()

    async def test_a_job_has_its_environment_and_nothing_of_ours(self, world: RealWorld) -> None:
        job_id = await world.client.submit(world.job())
        await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        environment = await eventually(world, lambda: _told(world, job_id))
        assert 'GREETING=it\'s $HOME, "quoted"\nand on two lines\n' in environment
        names = {line.partition("=")[0] for line in environment.splitlines() if "=" in line}
        assert "PATH" in names
        assert not {name for name in names if name.startswith(("TIDEGATE_", "PYTEST_", "SLURM_JWT", "SLURM_TIME"))}
        await world.client.cancel(job_id)

    async def test_slurm_does_not_requeue_a_job_of_ours(self, world: RealWorld) -> None:
        job_id = await world.client.submit(world.job())
        assert "Requeue=0" in world.slurm.command("scontrol", "show", "job", str(job_id)).split()
        await world.client.cancel(job_id)

    async def test_a_job_gets_the_nodes_cores_and_limit_that_it_asks_for(self, world: RealWorld) -> None:
        job_id = await world.client.submit(world.job(nodes=2, cpus=3, memory_mib=200, time_limit_s=90.0))
        shown = world.slurm.command("scontrol", "show", "job", str(job_id)).split()
        assert {"CPUs/Task=3", "MinMemoryNode=200M", "TimeLimit=00:02:00"} <= set(shown)
        running = await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        assert running.nodes == ("n1", "n2")
        await world.client.cancel(job_id)
        job_id = await world.client.submit(world.job(exclude=("n1",)))
        running = await until(world, job_id, lambda record: record.state is JobState.RUNNING)
        assert running.nodes == ("n2",)
        await world.client.cancel(job_id)

    async def test_a_job_of_another_user_is_not_listed(self, world: RealWorld) -> None:
        told = world.slurm.command(
            "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
            "sbatch", "--parsable", "--chdir=/", "--output=/dev/null", "--wrap=sleep 60",
        )  # fmt: skip
        assert await record_of(world, int(told)) is None
        world.slurm.command("scancel", told.strip())

    async def test_a_job_warned_before_its_end_gets_the_signal(self, world: RealWorld) -> None:
        job_id = await world.client.submit(world.job(time_limit_s=60.0, warning=WarningSignal("USR1", 59)))

        async def warned() -> list[str] | None:
            return world.signals(job_id) or None

        assert set(await eventually(world, warned)) == {"USR1"}
        await world.client.cancel(job_id)


async def _told(world: RealWorld, job_id: int) -> str | None:
    return world.environment(job_id)


class TestCommands(RealSlurmContract):
    @pytest.fixture
    def made(self, slurm: RealSlurm) -> RealWorld:
        return CommandWorld(slurm)


class TestRest(RealSlurmContract):
    @pytest.fixture
    def made(self, slurm: RealSlurm) -> RealWorld:
        return RestWorld(slurm)


class TestCommandsOverSsh(RealSlurmContract):
    @pytest.fixture
    def made(self, slurm: RealSlurm, sshd: RealSshd) -> RealWorld:
        return SshWorld(slurm, sshd)
