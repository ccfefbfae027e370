"""A real slurmdbd: what Slurm's controller has forgotten, and what a profile is fitted to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actuators.slurm.commands import CommandClient
from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark, mark_of_job
from actuators.slurm.runner import LocalRunner
from broker.clock import SystemClock
from tests.support.real_accounting import AccountedSlurm, why_no_accounting
from tests.support.real_slurm import GPU_PARTITION, QUICK, RealSlurm
from tests.support.waiting import until
from traces.batch.sacct import COMMAND, Counted, SacctOptions, sacct_jobs
from traces.schema import ReadStatistics

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(why_no_accounting() is not None, reason=why_no_accounting() or "there is accounting"),
]

MARK = Mark("hpc", "shared", "chat", 0, 1, 1)
FORGETFUL = ["MinJobAge=2", *QUICK]


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with AccountedSlurm(1, [GPU_PARTITION], FORGETFUL, gpus_per_node=2) as slurm:
        yield slurm


def submit(slurm: RealSlurm, name: str, comment: str, script: str) -> None:
    words = ("--gres=gpu:1", "--time=10", "--output=/dev/null", "--chdir=/tmp")
    slurm.command("sbatch", f"--job-name={name}", f"--comment={comment}", *words, "--wrap", script)


async def ended(slurm: RealSlurm) -> dict[str, JobRecord]:
    client = CommandClient(LocalRunner(slurm.environment), SystemClock())
    return {job.name: job for job in await client.ended(3600.0)}


def test_a_job_that_the_controller_has_forgotten_is_told_with_its_state_and_exit_code(slurm: RealSlurm) -> None:
    submit(slurm, MARK.job_name, MARK.comment, "exit 3")
    until(lambda: MARK.job_name not in slurm.command("squeue", "-h", "-t", "all", "-o", "%j"), "it is forgotten", 90)
    job = until(lambda: asyncio.run(ended(slurm)).get(MARK.job_name), "accounting has it", 30)
    assert (job.state, job.exit_code, job.user, job.gone) == (JobState.FAILED, 3, "root", True)
    assert mark_of_job(job) == MARK
    assert job.nodes == ("n1",)
    assert job.end_at == pytest.approx(time.time(), abs=300)


def test_the_doctor_is_told_that_comments_are_kept(slurm: RealSlurm) -> None:
    client = CommandClient(LocalRunner(slurm.environment), SystemClock())
    assert asyncio.run(client.facts()).accounted == ("job_comment",)


def test_the_documented_command_prints_what_a_profile_is_fitted_to(slurm: RealSlurm) -> None:
    submit(slurm, "a|b", "somebody's", "sleep 2")
    submit(slurm, MARK.job_name, MARK.comment, "exit 0")

    def read() -> list[tuple[int | None, float | None]]:
        printed = slurm.command("env", *COMMAND.split()).encode().splitlines(keepends=True)
        jobs = sacct_jobs(printed, Path("sacct"), SacctOptions(Counted.GPUS, "gpu"), ReadStatistics())
        return [(job.processors, job.requested_s) for job in jobs]

    until(lambda: read() == [(1, 600.0)], "the other's job is there, and ours is not", 30)
