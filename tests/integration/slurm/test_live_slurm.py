"""The main job on a real Slurm: replicas as jobs, renewed before their wall time, found again, and none left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import aiohttp
import pytest

from cli.demo.load import LoadPlayer
from cli.demo.stack import Stack
from simulator.report.summary import Outcome
from tests.support import real_sshd
from tests.support.calm_model import POLICIES
from tests.support.command_line import run
from tests.support.real_slurm import GPU_PARTITION, QUICK, RealSlurm, why_not
from tests.support.real_sshd import RealSshd
from tests.support.slurm_stack import slurm_stack
from tests.support.waiting import until
from tests.support.weights import evict, write_weights
from traces.schema import TraceRequest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(why_not(rest=True) is not None, reason=why_not(rest=True) or "there is a Slurm"),
]

READER = """sh, -c, 'cat "$0"/* > /dev/null && exec "$@"'"""
"""The emulator has no weights to read."""
FOREIGN = "tidegate: cluster=other pool=shared model=chat ordinal=0 generation=1 gpus=1"


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with RealSlurm(3, [GPU_PARTITION], QUICK, rest=True, gpus_per_node=2) as slurm:
        yield slurm


@pytest.fixture(params=["commands", "slurmrestd", "ssh"])
def transport(request: pytest.FixtureRequest, slurm: RealSlurm) -> Iterator[str]:
    """The section of ``site.yaml``."""
    match request.param:
        case "commands":
            yield "{kind: commands}"
        case "slurmrestd":
            yield f"{{kind: slurmrestd, url: {slurm.rest_url}}}"
        case _:
            if (reason := real_sshd.why_not()) is not None:
                pytest.skip(reason)
            with RealSshd({"SLURM_CONF": slurm.environment["SLURM_CONF"]}) as sshd:
                at, (key,) = sshd.login, sshd.login.keys
                yield (
                    f"{{kind: ssh, host: {at.host}, user: {at.user}, port: {at.port}, known_hosts: {at.known_hosts}, "
                    f"keys: [{key}]}}"
                )


_serial = count(1)


def named(purpose: str) -> str:
    """A cluster's name of its own: slurmrestd lists ended jobs too, and those of another transport's test are none of
    this one's."""
    return f"{purpose}-{os.getpid()}-{next(_serial)}"


def jobs(slurm: RealSlurm) -> dict[str, str]:
    """The state of each job that waits or runs, by its name."""
    lines = slurm.command("squeue", "-h", "-o", "%j %T").splitlines()
    return dict(line.split() for line in lines)


def replicas(stack: Stack) -> dict[str, str]:
    with stack.client() as client:
        return {replica["replica_id"]: replica["phase"] for replica in stack.replicas(client, "chat")}


def ready(stack: Stack) -> list[str]:
    return [replica_id for replica_id, phase in replicas(stack).items() if phase == "ready"]


def scale(stack: Stack, target: int) -> None:
    body = {"model_id": "chat", "target": target, "for_s": 600.0, "author": "ada", "because": "a test"}
    with stack.client() as client:
        client.post("/v1/overrides", json=body).raise_for_status()


def places(folder: Path) -> list[tuple[str, bool]]:
    """Of each start that the broker has learned from: the class of its node, and whether that had the weights."""
    status, out, err = run("state", "waits", "--json", folder=folder)
    assert status == 0, err
    learned = [start["place"] for starts in json.loads(out)["starts"] for start in starts["latest"]]
    return [(place["node_class"], place["weights_cached"]) for place in learned]


def streams(stack: Stack, *, for_s: float) -> LoadPlayer:
    """Two requests a second, each of two seconds or so."""

    async def play() -> LoadPlayer:
        async with aiohttp.ClientSession(trust_env=False) as session:
            player = LoadPlayer(session, stack.gateway_url, "chat")
            requests = [TraceRequest(n / 2, 20, 60) for n in range(int(2 * for_s))]
            await player.play(requests, time.time)
            return player

    return asyncio.run(play())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "transport",
    ["commands", pytest.param("slurmrestd", marks=pytest.mark.repeats), pytest.param("ssh", marks=pytest.mark.repeats)],
    indirect=True,
)
def test_replicas_are_jobs_that_are_succeeded_before_their_wall_time_and_no_stream_is_cut(
    slurm: RealSlurm, tmp_path: Path, transport: str
) -> None:
    with slurm_stack(slurm, tmp_path, named("renewal"), transport=transport, time_limit="2m", notice="20s") as stack:
        until(lambda: ready(stack), "one job serves", 60)
        player = streams(stack, for_s=110)
        assert {outcome.status for outcome in player.outcomes} == {Outcome.FINISHED}, player.problems
        assert len(player.outcomes) == 220
        with stack.client() as client:
            first = next(r for r in stack.replicas(client, "chat") if r["replica_id"] == "chat-0-g1")
        assert (first["phase"], first["in_flight_at_stop"]) == ("gone", 0)
        assert first["detail"] == "expiry"
        assert ready(stack) == ["chat-1-g2"]
        assert list(jobs(slurm).values()) == ["RUNNING"]


def test_the_doctor_finds_nothing_to_mend_in_a_site_that_fits(slurm: RealSlurm, tmp_path: Path, transport: str) -> None:
    with slurm_stack(slurm, tmp_path, named("doctor"), transport=transport, mode="observe"):
        environment = {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
        status, out, err = run("doctor", "slurm", "--json", folder=tmp_path, environment=environment)
    found = {finding["about"]: finding for finding in json.loads(out)["pools"]["shared"]}
    assert (status, {finding["verdict"] for finding in found.values()} - {"look"}) == (0, {"fine"}), err
    assert found["Slurm"]["words"].startswith(slurm.release)
    assert "3 nodes" in found["partition"]["words"]


def test_a_broker_that_observes_logs_the_script_that_it_would_submit_and_submits_nothing(
    slurm: RealSlurm, tmp_path: Path
) -> None:
    def lines() -> list[str]:
        return (tmp_path / "broker.log").read_text().splitlines()

    with slurm_stack(slurm, tmp_path, named("observe"), mode="observe") as stack:
        told = until(lambda: [line for line in lines() if "would_start" in line], "the rehearsal is in the log")
        script = json.loads(told[0])["text"]
        assert "#SBATCH --partition=gpu" in script
        assert re.search(r"#SBATCH --comment=.* log=[0-9a-f]+", script), "as the job would say of itself"
        assert "simulator.emulator" in script
        assert stack.secrets["TIDEGATE_SITE_SECRET"] not in script
        assert (jobs(slurm), replicas(stack)) == ({}, {})


def test_jobs_come_and_go_with_the_target_and_outlive_the_broker(
    slurm: RealSlurm, tmp_path: Path, transport: str
) -> None:
    weights = write_weights(tmp_path / "weights" / "model.safetensors")
    evicted = evict(weights)
    policies = POLICIES.replace('command: ["{python}"', f'command: [{READER}, {weights.parent}, "{{python}}"')
    slurm.command(
        "sbatch", "--output", "/dev/null", "--comment", FOREIGN, "--job-name", "foreign", "--wrap", "sleep 600"
    )
    try:
        with slurm_stack(slurm, tmp_path, named("target"), transport=transport, policies=policies) as stack:
            until(lambda: ready(stack), "one job serves", 60)
            scale(stack, 2)
            until(lambda: len(ready(stack)) == 2, "two jobs serve", 60)
            assert places(tmp_path) == [("gpu", not evicted), ("gpu", True)]
            before = jobs(slurm)
            stack.stop_process(stack.broker, kill=True)
            stack.start_broker()
            streams(stack, for_s=5)
            assert (sorted(ready(stack)), jobs(slurm)) == (["chat-0-g1", "chat-1-g2"], before)
            (tmp_path / "policies.yaml").write_text("models: {}\n")
            until(lambda: set(jobs(slurm)) == {"foreign"}, "only the other's job is left", 60)
            until(lambda: set(replicas(stack).values()) <= {"gone"}, "the broker knows", 30)
            assert jobs(slurm) == {"foreign": "RUNNING"}
    finally:
        slurm.command("scancel", "--name", "foreign")
