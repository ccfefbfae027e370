"""The broker's state is lost while jobs serve: `tidegate adopt` takes them back and no stream is cut."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cli.demo.load import LoadPlayer
from cli.demo.stack import Stack
from cli.output import Exit
from simulator.report.summary import Outcome
from tests.support.command_line import run
from tests.support.real_slurm import GPU_PARTITION, QUICK, RealSlurm, why_not
from tests.support.slurm_stack import slurm_stack
from tests.support.waiting import until
from traces.schema import TraceRequest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or "there is a Slurm"),
]

ALIKE = "tidegate: cluster={cluster} pool=shared model=chat ordinal=7 generation=70 gpus=1"
LOADED_AT_MOST_S = 150


@pytest.fixture(scope="module")
def slurm() -> Iterator[RealSlurm]:
    with RealSlurm(3, [GPU_PARTITION], QUICK, gpus_per_node=2) as slurm:
        yield slurm


def names(slurm: RealSlurm) -> set[str]:
    return set(slurm.command("squeue", "-h", "-o", "%j").split())


def ready(stack: Stack) -> list[str]:
    with stack.client() as client:
        return sorted(found["replica_id"] for found in stack.replicas(client, "chat") if found["phase"] == "ready")


def all_gone(stack: Stack) -> list[dict[str, Any]]:
    """The records of all replicas, once none is anything else."""
    with stack.client() as client:
        found = stack.replicas(client, "chat")
    return found if {replica["phase"] for replica in found} == {"gone"} else []


class Streams:
    """Two requests a second, each of two seconds or so, from ``play`` until ``over`` is set."""

    def __init__(self) -> None:
        self.several = threading.Event()
        """Some are open."""
        self.over = threading.Event()

    def play(self, stack: Stack) -> LoadPlayer:
        return asyncio.run(self._play(stack))

    async def _play(self, stack: Stack) -> LoadPlayer:
        async with aiohttp.ClientSession(trust_env=False) as session:
            player = LoadPlayer(session, stack.gateway_url, "chat")
            await player.play(self._requests(), time.time)
            return player

    def _requests(self) -> Iterator[TraceRequest]:
        for number in range(2 * LOADED_AT_MOST_S):
            if number == 6:
                self.several.set()
            if self.over.is_set():
                return
            yield TraceRequest(number / 2, 20, 60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("older_backup", [False, True], ids=["state deleted", "older backup"])
def test_jobs_are_taken_back_after_the_state_was_lost_and_serve_on(
    slurm: RealSlurm, tmp_path: Path, older_backup: bool
) -> None:
    cluster = f"adopted-{os.getpid()}-{older_backup:d}"
    with slurm_stack(slurm, tmp_path, cluster) as stack, ThreadPoolExecutor(1) as beside:
        environment = {"SLURM_CONF": slurm.environment["SLURM_CONF"], **stack.secrets}

        def tidegate(*words: str) -> tuple[int, str, str]:
            return run(*words, folder=tmp_path, environment=environment)

        until(lambda: ready(stack), "one job serves", 60)
        status, _, said = tidegate("state", "export", "backup.jsonl")
        assert status == Exit.OK, said
        policies = tmp_path / "policies.yaml"
        policies.write_text(policies.read_text().replace("min: 1", "min: 2"))
        until(lambda: len(ready(stack)) == 2, "two jobs serve", 60)
        before = names(slurm)
        foreign = ("--job-name", "launch-0123456789abcdef", "--comment", ALIKE.format(cluster=cluster))
        slurm.command("sbatch", "--output", "/dev/null", "--chdir", "/tmp", *foreign, "--wrap", "sleep 600")

        streams = Streams()
        load = beside.submit(streams.play, stack)
        assert streams.several.wait(timeout=30)
        stack.stop_process(stack.broker, kill=True)
        for path in tmp_path.glob("tidegate.sqlite*"):
            path.unlink()
        if older_backup:
            status, _, said = tidegate("state", "import", "backup.jsonl")
            assert status == Exit.OK, said

        status, shown, said = tidegate("adopt", "--json")
        verdicts = {job["replica_id"]: job["verdict"] for job in json.loads(shown)["jobs"]}
        known = "on record" if older_backup else "take back"
        assert verdicts == {"chat-0-g1": known, "chat-1-g2": "take back", None: "leave alone"}, said
        status, shown, said = tidegate("adopt", "--yes", "--json")
        assert status == Exit.OK, said
        taken = {replica["replica_id"]: replica["phase"] for replica in json.loads(shown)["replicas"]}
        assert taken == {job: "ready" for job, verdict in verdicts.items() if verdict == "take back"}

        stack.start_broker()
        assert ready(stack) == ["chat-0-g1", "chat-1-g2"], "they are published from the broker's first moment"
        assert not load.done(), "streams went on meanwhile"
        streams.over.set()
        player = load.result(timeout=120)
        assert {outcome.status for outcome in player.outcomes} == {Outcome.FINISHED}, player.problems
        assert len(player.outcomes) == player.sent > 10
        assert names(slurm) == before | {"launch-0123456789abcdef"}, "none is doubled, none is lost"

        policies.write_text("models: {}\n")
        until(lambda: names(slurm) == {"launch-0123456789abcdef"}, "only the other's job is left", 60)
        ended = until(lambda: all_gone(stack), "the broker knows that they are", 30)
        assert {replica["in_flight_at_stop"] for replica in ended} == {0}
        slurm.command("scancel", "--name", "launch-0123456789abcdef")
