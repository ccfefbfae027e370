"""When the whole listing is asked for, beyond what a pool of jobs shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from actuators.slurm.fake import FakeSlurm
from actuators.slurm.job import COMMENT_MARK, JobRecord, JobSpec
from actuators.slurm.polling import Listings
from tests.support.actuator_worlds import SetClock

POLL_S = 5.0


class BlindOnce(FakeSlurm):
    """Its first listing after ``blind`` was set lacks every job."""

    blind = False

    async def jobs(self) -> tuple[JobRecord, ...]:
        blind, self.blind = self.blind, False
        return () if blind else await super().jobs()


async def test_a_living_job_that_one_listing_lacks_is_looked_for_in_the_next() -> None:
    """The states of the others would confirm a bad listing: a healthy replica was given up for vanished."""
    clock = SetClock()
    slurm = BlindOnce(clock.now)
    slurm.tells_states = True
    listings = Listings(slurm, clock, POLL_S)
    await slurm.submit(JobSpec("one", COMMENT_MARK, "#!/bin/sh\n", "gpu", 600.0, "/dev/null", "/"))
    await listings.polled()
    slurm.blind = True
    await listings.fresh()
    assert not listings.jobs
    clock.at += POLL_S
    await listings.polled()
    assert [job.name for job in listings.jobs] == ["one"]


class Hanging(FakeSlurm):
    """Tells no states, and not that it does not."""

    async def unchanged(self, jobs: Sequence[JobRecord]) -> bool | None:
        self.looks += 1
        return await asyncio.Future[bool]()


@pytest.mark.looptime
async def test_states_that_hang_are_given_up_for_a_listing_and_left_alone_for_a_while() -> None:
    clock = SetClock()
    slurm = Hanging(clock.now)
    listings = Listings(slurm, clock, POLL_S)
    await listings.polled()
    for poll in range(2, 5):
        clock.at += POLL_S
        await listings.polled()
        assert (slurm.listings, slurm.looks) == (poll, 1)
