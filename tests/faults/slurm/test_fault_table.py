"""What happens to Slurm and to jobs, one at a time, with streams under way: afterwards all is as it should be."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.cluster import ENDED, policies_yaml
from tests.faults.conftest import SEED, Note
from tests.faults.slurm.cluster import Slurm, SlurmCluster, slurm_cluster, submit, survived

IN_CI = 1
"""So many of the quick ones a default run takes, chosen by the seed, beside what it always takes."""


Strike = Callable[[SlurmCluster], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """``strike`` does it to two serving replicas and returns when it is over and felt. The broker's log then has a line
    ``event`` with ``words``. ``cuts``: it takes an engine away without notice, so that streams are cut."""

    name: str
    strike: Strike
    event: str
    words: str
    cuts: bool = False
    quick: bool = True
    always: bool = False
    policies: str | None = None

    def marks(self, chosen: bool) -> list[pytest.MarkDecorator]:
        mark = pytest.mark.integration if chosen or self.always else pytest.mark.faults
        return [mark, pytest.mark.slow, pytest.mark.timeout(400)]


# Slurm itself.


def slurmctld_away(for_s: float) -> Strike:
    async def strike(running: SlurmCluster) -> None:
        """What was ordered meanwhile is done afterwards, and until then nothing is."""
        before = running.processes()
        with running.slurm.daemons.away("slurmctld"):
            await asyncio.sleep(for_s / 2)
            await running.scale(3)
            await asyncio.sleep(for_s / 2)
            assert running.processes() == before
            assert len((await running.get("/v1/endpoints"))["endpoints"]) == 2
        await three_and_two_again(running)

    return strike


async def slurmctld_frozen(running: SlurmCluster) -> None:
    """It takes every connection and answers them all half a minute later: what was sent may be done then."""
    with running.slurm.daemons.frozen("slurmctld"):
        await running.scale(3)
        await asyncio.sleep(30)
        assert len((await running.get("/v1/endpoints"))["endpoints"]) == 2
    await three_and_two_again(running)


async def three_and_two_again(running: SlurmCluster) -> None:
    await running.scale(3)
    await running.settled(3, 90.0)
    await running.no_orphan_no_double()
    await running.scale(2)


async def a_second_broker(running: SlurmCluster) -> None:
    before = running.our_jobs()
    second = await running.second_broker()
    assert (second.returncode, "Traceback" in second.stderr) == (4, False), second.stderr
    assert running.stack.broker is not None
    assert f"pid {running.stack.broker.pid}" in second.stderr
    assert running.our_jobs() == before


# Listings.


def a_record_damaged(name_of: Callable[[SlurmCluster], str], *, known: bool) -> Strike:
    """squeue shows one record with a state that does not exist. ``known``: the other jobs can still be told from it."""

    async def strike(running: SlurmCluster) -> None:
        squeue = running.bin / "squeue"
        running.bin.mkdir()
        squeue.write_text(
            f"#!/bin/sh\n{shutil.which('squeue')} \"$@\" | sed '/{name_of(running)}/s/RUNNING/R@NN!NG/'\n"
        )
        squeue.chmod(0o755)
        try:
            await running.hears("foreign_jobs_unreadable" if known else "pool_unknown", "R@NN!NG")
            await running.scale(3)
            if known:
                await running.settled(3)
            else:
                await asyncio.sleep(5)
                assert len(running.our_jobs()) == 2
        finally:
            shutil.rmtree(running.bin)
        await three_and_two_again(running)

    return strike


# Jobs.


async def scancel_by_someone_else(running: SlurmCluster) -> None:
    replica_id, job = await running.a_victim()
    await running.command("scancel", str(job.job_id))
    await running.has_ended(replica_id)


async def requeued_by_hand(running: SlurmCluster) -> None:
    replica_id, job = await running.a_victim()
    await running.command("scontrol", "update", f"jobid={job.job_id}", "requeue=1")
    await running.command("scontrol", "requeue", str(job.job_id))
    await running.has_ended(replica_id)


def preempted(grace_s: int) -> Strike:
    async def strike(running: SlurmCluster) -> None:
        """By a job that needs a GPU of a full node."""
        await running.command("scontrol", "update", "partitionname=gpu", f"gracetime={grace_s}")
        await running.scale(3)
        await running.settled(3)
        job = next(job for job in running.our_jobs() if job.node == "n1")
        urgent = submit(running.slurm.real, "urgent", "--nodelist", job.node, "--gres", "gpu:1")
        try:
            await running.until(lambda replicas: sum(r["phase"] in ENDED for r in replicas), 90.0)
            await running.settled(3, 60.0)
        finally:
            await running.command("scancel", str(urgent))
        await running.scale(2)

    return strike


async def engine_core_killed(running: SlurmCluster) -> None:
    replica_id, job = await running.a_victim()
    running.engine_of(job).kill()
    await running.has_ended(replica_id)


async def node_set_down(running: SlurmCluster) -> None:
    """Its slurmd ends the jobs, says that it is there, and the node is up again."""
    replica_id, job = await running.a_victim()
    await running.command("scontrol", "update", f"nodename={job.node}", "state=down", "reason=a test")
    await running.has_ended(replica_id)


async def node_set_down_whose_slurmd_is_dead(running: SlurmCluster) -> None:
    """Nobody on the node ends the engines of jobs that Slurm calls ended."""
    replica_id, job = await running.a_victim()
    with running.slurm.daemons.away("slurmd", job.node, kill=True):
        await running.command("scontrol", "update", f"nodename={job.node}", "state=down", "reason=a test")
        await running.has_ended(replica_id)
        await running.settled(2, 60.0)
        await running.no_orphan_no_double()


CORE = """"$@" & core=$!; trap 'kill $core' TERM; wait $core; wait $core; exit 0"""
"""A server that exits with 0 when its engine core was killed, as vLLM's does."""
WITH_A_CORE = policies_yaml().replace('["{python}"', f'["sh", "-c", {json.dumps(CORE)}, "engine", "{{python}}"')

TABLE = [
    Fault("slurmctld is stopped for 20 s", slurmctld_away(20), "pool_unknown", "slurmctld", always=True),
    Fault("slurmctld is stopped for 2 minutes", slurmctld_away(120), "pool_unknown", "slurmctld", quick=False),
    Fault("slurmctld answers after 30 s", slurmctld_frozen, "pool_unknown", "has not answered", quick=False),
    Fault("a second broker is started", a_second_broker, "broker_ready", "http"),
    Fault(
        "a foreign job's record is corrupt", a_record_damaged(lambda running: "plain", known=True),
        "foreign_jobs_unreadable", "R@NN!NG",
    ),
    Fault(
        "our own job's record is corrupt", a_record_damaged(lambda running: f"cluster={running.name} ", known=False),
        "pool_unknown", "R@NN!NG",
    ),
    Fault("somebody else cancels a job", scancel_by_someone_else, "job_ended", "CANCELLED: somebody cancelled the job"),
    Fault("a job is requeued by hand", requeued_by_hand, "job_requeued", "cancelled, replaced", cuts=True),
    Fault("a job is preempted with a grace of 20 s", preempted(20), "job_shortened", "preempted", quick=False),
    Fault("a job is preempted at once", preempted(0), "job_ended", "PREEMPTED: another job took its nodes", cuts=True),
    Fault(
        "an engine's core is killed", engine_core_killed, "job_ended", "crashed: it exited with code 0", cuts=True,
        policies=WITH_A_CORE,
    ),
    Fault("a node is set DOWN", node_set_down, "job_ended", "NODE_FAIL: its node went down", cuts=True),
    Fault(
        "a node is set DOWN whose slurmd is dead", node_set_down_whose_slurmd_is_dead, "job_ended",
        "NODE_FAIL: its node went down",
    ),
]  # fmt: skip
CHOSEN = random.Random(SEED).sample([fault.name for fault in TABLE if fault.quick and not fault.always], IN_CI)


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, id=fault.name, marks=fault.marks(fault.name in CHOSEN)) for fault in TABLE]
)
async def test_without_orphan_or_double_it_goes_on_when(fault: Fault, slurm: Slurm, tmp_path: Path, note: Note) -> None:
    opened = slurm_cluster(slurm, tmp_path, policies=fault.policies)
    async with survived(opened, fault.event, fault.words, note, cuts=fault.cuts) as running:
        await fault.strike(running)
