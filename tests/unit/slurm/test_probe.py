"""What a node says of itself, and a probe that never gets there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actuators.slurm.fake import FakeSlurm
from actuators.slurm.marks import mark_of_job
from actuators.slurm.options import ContainerOptions, JobOptions
from actuators.slurm.probe import NodeReport, node_findings, probed
from broker.model.errors import TransientError
from broker.model.finding import Finding, Verdict
from broker.model.spec import PoolSpec
from tests.support.actuator_worlds import SetClock

JOB = {"broker_url": "http://login1:8600", "directory": "/scratch"}
POOL = PoolSpec("shared", "slurm", 16, options={"partition": "gpu", "time_limit_s": 3600.0, "job": {**JOB}})
REPORT = NodeReport("n1", "10.0.0.1", "3.9.2", "", "", gpus=1, devices=1, launch_problem="", now=0.0)
OPTIONS = JobOptions(broker_url="http://login1:8600", weights="/models")


def test_a_node_that_fits_has_nothing_to_mend() -> None:
    found = [*node_findings(REPORT, OPTIONS)]
    assert [(one.about, one.verdict) for one in found] == [
        (about, Verdict.FINE) for about in ("job.python", "launcher", "job.weights", "GRES", "broker")
    ]


NODES: dict[str, tuple[dict[str, Any], tuple[Verdict, str, str]]] = {
    "a GPU that its driver does not show": ({"devices": 0}, (Verdict.MEND, "GRES", "its driver shows none")),
    "a GPU that the job is not told of": ({"gpus": None}, (Verdict.LOOK, "GRES", "let gres.conf name the devices")),
    "more GPUs than were asked for": ({"gpus": 4}, (Verdict.MEND, "GRES", "is told of 4")),
    "a container that does not start": (
        {"launch_problem": "FATAL: no such image"},
        (Verdict.MEND, "launcher", "a command in chat.sif does not run on n1: FATAL: no such image"),
    ),
    "a broker that does not run now": (
        {"broker_problem": "refused"},
        (Verdict.LOOK, "broker", "where nothing listens now"),
    ),
    "a broker behind a wall": (
        {"broker_problem": "timed out"},
        (Verdict.MEND, "broker", "n1 does not reach http://login1:8600: timed out; open the way"),
    ),
}
"""By its name: what the node tells otherwise, and the finding."""


@pytest.mark.parametrize(("told", "finding"), NODES.values(), ids=NODES)
def test_what_a_node_lacks_is_told_with_what_to_mend(told: dict[str, Any], finding: tuple[Verdict, str, str]) -> None:
    options = replace(OPTIONS, container=ContainerOptions("chat.sif"))
    (found,) = [one for one in node_findings(replace(REPORT, **told), options) if one.verdict is not Verdict.FINE]
    verdict, about, words = finding
    assert (found.verdict, found.about, words in found.words) == (verdict, about, True), found


async def probe(slurm: FakeSlurm, clock: SetClock, pool: PoolSpec = POOL) -> Finding:
    (found,) = await probed(slurm, pool, await slurm.facts(), clock, 5.0)
    return found


async def test_a_probe_that_does_not_start_is_cancelled_and_is_nobodys_replica() -> None:
    clock = SetClock()
    slurm = FakeSlurm(clock.now, pending_s=3600.0)
    found = await probe(slurm, clock)
    assert (found.verdict, "did not start within 5s and is cancelled" in found.words) == (Verdict.LOOK, True), found
    (job,) = slurm.everything()
    assert slurm.cancelled == [job.job_id]
    assert mark_of_job(job) is None


async def test_a_probe_that_slurm_refuses_is_told_by_slurms_words() -> None:
    clock = SetClock()
    pool = replace(POOL, options={**POOL.options, "gpu_type": "a100"})
    found = await probe(FakeSlurm(clock.now), clock, pool)
    assert (found.verdict, found.about, "gpu:a100:1" in found.words) == (Verdict.MEND, "probe", True), found


async def test_a_probe_is_ended_when_slurm_stops_answering() -> None:
    clock = SetClock()
    slurm = FakeSlurm(clock.now)
    slurm.fail_next("jobs", TransientError("slurmctld is away"))
    found = await probe(slurm, clock)
    assert (found.verdict, "was lost sight of: slurmctld is away" in found.words) == (Verdict.MEND, True), found
    assert slurm.cancelled == [1]
