"""Two brokers with logs of their own under one cluster's name on one real Slurm: the second keeps its hands off."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.demo.stack import Stack
from cli.output import Exit
from tests.support.calm_model import POLICIES
from tests.support.command_line import run
from tests.support.real_slurm import RealSlurm, why_not
from tests.support.slurm_stack import slurm_environment, slurm_stack
from tests.support.waiting import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or "there is a Slurm"),
]

PARTITION = "PartitionName=gpu Nodes=ALL Default=YES MaxTime=120 State=UP"
LOOKS_S = 6.0
"""Some polls of the second broker, in which it could do something."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with RealSlurm(1, [PARTITION], ["SchedulerParameters=sched_min_interval=100000"], gpus_per_node=2) as slurm:
        yield slurm


def phases(stack: Stack) -> list[str]:
    with stack.client() as client:
        return [replica["phase"] for replica in stack.replicas(client, "chat")]


def jobs(slurm: RealSlurm) -> list[str]:
    return slurm.command("squeue", "-h", "-o", "%i %j %T %k").splitlines()


def told(stack: Stack) -> list[str]:
    lines = [json.loads(line) for line in (stack.folder / "broker.log").read_text().splitlines()]
    return [line["problem"] for line in lines if line["event"] == "pool_unknown"]


@pytest.mark.timeout(300)
def test_a_second_broker_of_the_same_name_says_so_once_and_starts_and_stops_nothing(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    cluster = f"twice-{os.getpid()}"
    nothing = "models: {}\n"
    with (
        slurm_stack(slurm, tmp_path / "second", cluster, policies=nothing) as second,
        slurm_stack(slurm, tmp_path / "first", cluster) as first,
    ):
        until(lambda: phases(first) == ["ready"], "one job serves", 60)
        before = jobs(slurm)
        (second.folder / "policies.yaml").write_text(POLICIES)
        until(lambda: told(second), "it has seen the other's job")
        time.sleep(LOOKS_S)
        (problem,) = told(second)
        assert "are of another broker that calls its cluster" in problem
        assert "`tidegate adopt`" in problem
        assert (phases(second), phases(first), jobs(slurm)) == ([], ["ready"], before)

        (first.folder / "policies.yaml").write_text(nothing)
        until(lambda: phases(second) == ["ready"], "it goes on once the other's jobs have ended", 90)


@pytest.mark.timeout(300)
def test_a_broker_without_a_log_is_refused_beside_the_jobs_of_another_which_serve_on(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    """Started unattended after the log was lost, it would have given gateways an empty registry."""
    cluster = f"lost-{os.getpid()}"
    with slurm_stack(slurm, tmp_path, cluster) as stack:
        until(lambda: phases(stack) == ["ready"], "one job serves", 60)
        before = jobs(slurm)
        stack.stop_process(stack.broker, kill=True)
        for path in tmp_path.glob("tidegate.sqlite*"):
            path.unlink()
        status, _, said = run("run", folder=tmp_path, environment={**slurm_environment(slurm), **stack.secrets})
        assert (status, "`tidegate adopt`" in said, "Traceback" in said) == (Exit.REFUSED, True, False), said
        assert jobs(slurm) == before
