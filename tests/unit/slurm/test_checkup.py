"""What a cluster says of a pool, before anything is submitted to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actuators.slurm.checkup import findings, listing_finding
from actuators.slurm.client import PartitionFacts, ReservationFacts, SiteFacts
from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark
from broker.model.finding import Finding, Verdict
from broker.model.spec import PoolSpec

NOW = 1_700_000_000.0
GPU = PartitionFacts("gpu", up=True, nodes=4, max_time_s=86400.0, default_time_s=None, gpus=16)
FACTS = SiteFacts("24.11.5", "slurmrestd", "tide", (GPU,), (), clock_skew_s=0.1)
OPTIONS: dict[str, Any] = {
    "partition": "gpu",
    "time_limit_s": 14400.0,
    "job": {"broker_url": "http://login1:8600", "directory": "/scratch"},
}


def told(facts: SiteFacts = FACTS, **options: Any) -> list[Finding]:
    return [*findings(PoolSpec("shared", "slurm", 16, options=OPTIONS | options), facts, NOW)]


def test_a_pool_that_fits_its_cluster_has_nothing_to_mend() -> None:
    found = told()
    assert {finding.verdict for finding in found} == {Verdict.FINE}
    assert [finding.about for finding in found] == [
        "Slurm",
        "clock",
        "partition",
        "time_limit",
        "gpus",
        "job.broker_url",
    ]
    assert found[0].words == "24.11.5 by slurmrestd, as tide"


def test_only_jobs_that_live_in_the_pool_are_counted_as_the_pools() -> None:
    mark = Mark("hpc", "shared", "chat", 0, 1, 1)
    running = JobRecord(1, mark.job_name, "tide", mark.comment, "gpu", JobState.RUNNING)
    others = [replace(mark, cluster="other"), replace(mark, pool_id="other")]
    jobs = [
        running,
        replace(running, job_id=2, state=JobState.CANCELLED),
        replace(running, job_id=3, name="sleep", comment=""),
        *(replace(running, job_id=4, name=other.job_name, comment=other.comment) for other in others),
    ]
    found = listing_finding(jobs, "hpc", "shared", 0.25)
    assert found.words == "1 living jobs of this pool among 5 that Slurm lists for our user, in 0.25 s"


def test_accounting_that_keeps_comments_is_fine() -> None:
    found = {finding.about: finding.verdict for finding in told(replace(FACTS, accounted=("job_comment", "job_env")))}
    assert found["accounting"] is Verdict.FINE


MAINTENANCE = ReservationFacts("os_update", NOW + 7200, NOW + 14400, ("n1", "n2"), None, maintenance=True)


AT_HOME = {"broker_url": "http://127.0.0.1:8600", "directory": "/scratch"}
MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[Verdict, str, str]]] = {
    "a partition that is not there": (
        {},
        {},
        {"partition": "gpus"},
        (Verdict.MEND, "partition", "no gpus; known are gpu"),
    ),
    "a partition that is down": (
        {"up": False},
        {},
        {},
        (Verdict.MEND, "partition", "gpu is down"),
    ),
    "a limit over the partition's": (
        {},
        {},
        {"time_limit_s": 172800.0},
        (Verdict.LOOK, "time_limit", "2d is over the partition's 1d"),
    ),
    "more GPUs than the partition's": (
        {"gpus": 12},
        {},
        {},
        (Verdict.LOOK, "gpus", "16 are more than the partition's 12: jobs for the others would wait for ever"),
    ),
    "more GPUs than its nodes have by the pool's word": (
        {"gpus": None},
        {},
        {"gpus_per_node": 2},
        (Verdict.LOOK, "gpus", "16 are more than the partition's 8"),
    ),
    "GPUs that nobody counts": (
        {"gpus": None},
        {},
        {},
        (Verdict.LOOK, "gpus", "nobody says how many gpu has: give the pool gpus_per_node"),
    ),
    "an account it does not take": (
        {"accounts": ("hpc",)},
        {},
        {"account": "other"},
        (Verdict.MEND, "account", "does not take other; it takes hpc"),
    ),
    "no account where it takes some only": (
        {"accounts": ("hpc",)},
        {},
        {},
        (Verdict.LOOK, "account", "takes hpc only"),
    ),
    "a quality of service it does not take": (
        {"qos": ("short",)},
        {},
        {"qos": "long"},
        (Verdict.MEND, "qos", "does not take long"),
    ),
    "a clock that is a little off": (
        {},
        {"clock_skew_s": -5.0},
        {},
        (Verdict.LOOK, "clock", "5 s behind ours"),
    ),
    "a clock that is minutes off": (
        {},
        {"clock_skew_s": 300.0},
        {},
        (Verdict.MEND, "clock", "300 s ahead of ours"),
    ),
    "a clock that nobody tells": (
        {},
        {"clock_skew_s": None},
        {},
        (Verdict.LOOK, "clock", "does not tell"),
    ),
    "a token that lives for a moment": (
        {},
        {"token_life_s": 120.0},
        {},
        (Verdict.LOOK, "token", "each lives 2m and is renewed before its end; let what makes them ask for 10m or more"),
    ),
    "accounting that does not know ours": (
        {},
        {"accounted": ("job_env",)},
        {},
        (Verdict.LOOK, "accounting", "AccountingStoreFlags=job_comment"),
    ),
    "a maintenance ahead": (
        {},
        {"reservations": (MAINTENANCE,)},
        {},
        (Verdict.LOOK, "maintenance", "os_update takes 2 nodes"),
    ),
    "a broker that nodes cannot reach": (
        {},
        {},
        {"job": AT_HOME},
        (Verdict.LOOK, "job.broker_url", "from this machine alone"),
    ),
}
"""By its name: how the partition, the site and the pool differ, and the finding."""


@pytest.mark.parametrize(("partition", "site", "options", "finding"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_told_with_what_to_mend(
    partition: dict[str, Any], site: dict[str, Any], options: dict[str, Any], finding: tuple[Verdict, str, str]
) -> None:
    facts = replace(FACTS, partitions=(replace(GPU, **partition),), **site)
    verdict, about, words = finding
    found = [one for one in told(facts, **options) if one.verdict is not Verdict.FINE]
    assert [(one.verdict, one.about) for one in found] == [(verdict, about)]
    assert words in found[0].words


def test_a_maintenance_that_is_over_is_not_told() -> None:
    over = replace(MAINTENANCE, start_at=NOW - 200, end_at=NOW - 100)
    assert {finding.verdict for finding in told(replace(FACTS, reservations=(over,)))} == {Verdict.FINE}
