"""What the pretended Slurm can do beyond the contract, for tests of what is built on it."""

from __future__ import annotations

import pytest

from actuators.slurm.client import SubmitUnclear
from actuators.slurm.fake import FakeSlurm
from actuators.slurm.job import COMPLETING, JobRecord, JobState
from broker.model.errors import TransientError
from tests.unit.slurm.test_pitfalls import JOB


class World:
    def __init__(self, **options: float) -> None:
        self.now = 1000.0
        self.slurm = FakeSlurm(lambda: self.now, **options)  # type: ignore[arg-type]

    async def only(self) -> JobRecord:
        (record,) = await self.slurm.jobs()
        return record


async def test_a_lost_answer_leaves_a_job_behind() -> None:
    world = World()
    world.slurm.lose_next_answer()
    with pytest.raises(SubmitUnclear):
        await world.slurm.submit(JOB)
    assert (await world.only()).name == JOB.name


async def test_a_failing_call_has_no_effect() -> None:
    world = World()
    world.slurm.fail_next("submit", TransientError("busy"))
    with pytest.raises(TransientError, match="busy"):
        await world.slurm.submit(JOB)
    assert await world.slurm.jobs() == ()
    await world.slurm.submit(JOB)


async def test_a_job_runs_to_its_limit_is_completing_and_is_forgotten() -> None:
    world = World(pending_s=10.0, completing_s=5.0, min_job_age_s=300.0)
    await world.slurm.submit(JOB)
    world.now += 10.0
    assert (await world.only()).end_at == 1010.0 + 3600.0
    world.now = 4610.0
    ended = await world.only()
    assert (ended.state, ended.flags, ended.gone) == (JobState.TIMEOUT, frozenset({COMPLETING}), False)
    world.now += 5.0
    assert (await world.only()).gone
    world.now = 4910.0
    assert await world.slurm.jobs() == ()


async def test_an_end_can_be_moved_and_a_reason_holds_a_job_back() -> None:
    world = World(pending_s=1.0)
    job_id = await world.slurm.submit(JOB)
    world.slurm.explain(job_id, "QOSMaxJobsPerUserLimit")
    world.now += 100.0
    waiting = await world.only()
    assert (waiting.state, waiting.reason) == (JobState.PENDING, "QOSMaxJobsPerUserLimit")
    world.slurm.release(job_id)
    world.now += 1.0
    assert (await world.only()).state is JobState.RUNNING
    world.slurm.move_end(job_id, world.now + 20.0)
    world.now += 20.0
    assert (await world.only()).state is JobState.TIMEOUT


async def test_jobs_of_others_are_not_listed() -> None:
    world = World()
    world.slurm.run_foreign(JOB, "somebody")
    assert await world.slurm.jobs() == ()
