"""A job's script and its agent under a real slurmd: how signals come, what a death leaves, who sees the token."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from actuators.slurm.job import JobSpec
from actuators.slurm.script import job_spec
from broker.model.agents import AgentPhase, AgentReport, DrainCause, EndCause
from broker.model.plan import Launch
from broker.model.replica import Tier
from broker.model.spec import EngineSpec, JsonValue, ModelSpec, PolicySpec, PoolSpec
from tests.support.agent_world import (
    ACTION,
    EMULATOR,
    TOKEN,
    ServedBroker,
    command_line,
    served_broker,
)
from tests.support.real_slurm import GPU_PARTITION, RealSlurm, why_no_limits, why_not
from tests.support.shared_data import REPOSITORY
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or "there is a Slurm"),
]

CORE_GROWS = f"""\
"$@" & server=$!
until [ -e grow ]; do sleep 0.1; done
{sys.executable} -c 'bytearray(2**30)'
kill $server; wait $server; exit 0
"""
"""An engine whose core takes a GiB once it may, and whose server exits with 0 when its core is gone, as vLLM's does."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with RealSlurm(1, [GPU_PARTITION]) as slurm:
        yield slurm


def rendered(broker: ServedBroker, slurm: RealSlurm, command: Sequence[str] = EMULATOR) -> JobSpec:
    engine = EngineSpec(tuple(command), {"PYTHONPATH": str(REPOSITORY)})
    model = ModelSpec("chat", engine, PolicySpec("threshold"), gpus=0, stop_grace_s=10.0, drain_limit_s=60.0)
    launch = Launch(ACTION, "demo", "chat-0-g1", model, "shared", 0, 1, Tier.ELASTIC)
    job: dict[str, JsonValue] = {
        "broker_url": broker.url, "directory": str(slurm.folder), "python": sys.executable,
    }  # fmt: skip
    options: dict[str, JsonValue] = {"partition": "gpu", "time_limit_s": 3600.0, "job": job}
    return job_spec(launch, PoolSpec("shared", "slurm", 8, options=options), token=TOKEN)


async def submitted(
    broker: ServedBroker, slurm: RealSlurm, *asked: str, command: Sequence[str] = EMULATOR
) -> tuple[int, AgentReport]:
    """A job submitted by hand, by its ``#SBATCH`` lines and what is ``asked``, once its agent is ready."""
    script = slurm.folder / "job.sh"
    await asyncio.to_thread(script.write_text, rendered(broker, slurm, command).script)
    told = await asyncio.to_thread(slurm.command, "sbatch", "--parsable", "--export=NIL", *asked, str(script))
    return int(told), await broker.hears_phase(AgentPhase.READY)


async def gone(slurm: RealSlurm) -> None:
    await asyncio.to_thread(slurm.wait_until_empty, 40.0)


async def told_by(slurm: RealSlurm, *words: str) -> str:
    return await asyncio.to_thread(slurm.command, *words)


async def test_the_job_is_named_and_marked_and_shows_its_token_to_nobody(slurm: RealSlurm) -> None:
    async with served_broker() as broker:
        job_id, ready = await submitted(broker, slurm)
        assert ready.job_id == job_id
        spec = rendered(broker, slurm)
        listed = await told_by(slurm, "squeue", "-h", "-o", "%j|%k|%P")
        assert listed.strip() == f"{spec.name}|{spec.comment}|gpu"
        shown = await told_by(slurm, "scontrol", "show", "job", str(job_id))
        assert TOKEN not in shown + listed
        assert "Requeue=0" in shown
        await told_by(slurm, "scancel", str(job_id))
        ended = await broker.hears_phase(AgentPhase.ENDED)
        assert ended.end is not None
        assert ended.end.cause is EndCause.STOPPED
        await gone(slurm)


async def test_a_signal_to_the_script_alone_is_the_agents_notice(slurm: RealSlurm) -> None:
    async with served_broker() as broker:
        job_id, _ = await submitted(broker, slurm)
        await told_by(slurm, "scancel", "--batch", "--signal=USR1", str(job_id))
        draining = await broker.hears_phase(AgentPhase.DRAINING)
        assert draining.drain is not None
        assert draining.drain.cause in (DrainCause.WALL_TIME, DrainCause.PREEMPTION)
        await told_by(slurm, "scancel", "--batch", "--signal=TERM", str(job_id))
        ended = await broker.hears_phase(AgentPhase.ENDED)
        assert ended.end is not None
        assert ended.end.exit_code == 0
        await gone(slurm)


async def test_nothing_is_left_of_a_job_whose_agent_was_killed(slurm: RealSlurm) -> None:
    async with served_broker() as broker:
        job_id, _ = await submitted(broker, slurm)
        agent_and_engine = named_emulator(slurm.folder)
        assert len(agent_and_engine) == 2
        await told_by(slurm, "scancel", "--batch", "--signal=KILL", str(job_id))
        await gone(slurm)
        await eventually(lambda: not any(map(command_line, agent_and_engine)), "both are gone")


@pytest.mark.skipif(why_no_limits() is not None, reason=why_no_limits() or "the kernel limits memory")
async def test_an_engine_whose_core_the_kernel_ended_ran_out_of_memory_though_it_exits_with_0() -> None:
    with RealSlurm(1, [GPU_PARTITION], memory_limits=True) as slurm:
        async with served_broker() as broker:
            job_id, _ = await submitted(
                broker, slurm, "--mem=400M", command=["bash", "-c", CORE_GROWS, "engine", *EMULATOR]
            )
            (slurm.folder / "grow").touch()
            ended = await broker.hears_phase(AgentPhase.ENDED)
            assert ended.end is not None
            assert (ended.end.cause, ended.end.exit_code) == (EndCause.OUT_OF_MEMORY, 0)
            await gone(slurm)
            assert "JobState=OUT_OF_MEMORY" in await told_by(slurm, "scontrol", "show", "job", str(job_id))


def named_emulator(folder: Path) -> list[int]:
    """Processes in this folder with the emulator in their command: the agent has its engine's command in its own."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                found += [int(process.name)] if "simulator.emulator" in command_line(int(process.name)) else []
    return found
