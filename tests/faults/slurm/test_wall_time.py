"""A job ends at its wall time under load: what its users lose is what could not have been finished."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import aiohttp
import psutil
import pytest

from cli.demo.load import LoadPlayer
from simulator.report.summary import Outcome, RequestOutcome
from tests.faults.cluster import MODEL_ID, policies_yaml
from tests.faults.conftest import Note
from tests.faults.slurm.cluster import Slurm, SlurmCluster, slurm_cluster, submit
from traces.schema import TraceRequest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

OUTPUT_TOKENS = (40, 150, 300, 600, 1200)
"""Of one request after the other, at some 30 a second: from a second to more than half a minute."""
REQUESTS_PER_S = 1.0
FIRST_PROMPT = 20
"""The n-th request has a prompt so many tokens longer, by which its outcome is known."""


def output_tokens(number: int) -> int:
    return OUTPUT_TOKENS[number % len(OUTPUT_TOKENS)]


def requests_until(over: asyncio.Event) -> Iterator[TraceRequest]:
    for number in itertools.count():
        if over.is_set():
            return
        yield TraceRequest(number / REQUESTS_PER_S, FIRST_PROMPT + number, output_tokens(number))


@contextmanager
def a_full_cluster(slurm: Slurm) -> Iterator[None]:
    """Others take every GPU that is left."""
    jobs = [submit(slurm.real, "urgent", "--nodelist", "n1", "--gres", "gpu:1"),
            submit(slurm.real, "urgent", "--nodelist", "n2", "--gres", "gpu:2")]  # fmt: skip
    try:
        yield
    finally:
        slurm.real.command("scancel", *map(str, jobs))


@contextmanager
def a_free_cluster(slurm: Slurm) -> Iterator[None]:
    yield


async def watched(running: SlurmCluster) -> tuple[float, float]:
    """When the one replica was withdrawn, and when its engine was gone."""
    replica_id, job = await running.a_victim()
    engine = running.engine_of(job)
    withdrawn = await running.until(
        lambda replicas: next((r for r in replicas if r["replica_id"] == replica_id and r["drain"]), None), 180.0
    )
    await asyncio.to_thread(psutil.wait_procs, [engine], 120.0)
    return withdrawn["drain"]["began_at"], time.time()


@pytest.mark.parametrize("successor", ["in time", "pending at the end"])
async def test_every_request_that_fits_between_notice_and_kill_finishes_with_its_successor(
    successor: str, slurm: Slurm, tmp_path: Path, note: Note
) -> None:
    policies = policies_yaml(drain_limit="20s").replace("drain_limit: 20s", "drain_limit: 20s\n    stop_grace: 10s")
    opened = slurm_cluster(slurm, tmp_path, policies=policies, ready=1, time_limit="2m", notice="50s")
    cluster_is = a_full_cluster if successor == "pending at the end" else a_free_cluster
    async with opened as running, aiohttp.ClientSession(trust_env=False) as session:
        with cluster_is(slurm):
            player = LoadPlayer(session, running.stack.gateway_url, MODEL_ID)
            over = asyncio.Event()
            playing = asyncio.create_task(player.play(requests_until(over), time.time))
            withdrawn_at, killed_at = await watched(running)
            over.set()  # or long ones would be cut at the wall time of the successor
            second = next(r for r in await running.replicas() if r["replica_id"] == "chat-1-g2")
            assert (second["ready_at"] is None) == (successor == "pending at the end")
            await running.settled(1, 60.0)
            await playing
        await running.no_orphan_no_double()
        assert running.told("agent_reports", "wall_time")
        ended = await running.has_ended("chat-0-g1")
    running.no_traceback()
    note(f"withdrawn {killed_at - withdrawn_at:.0f} s before its end, {ended['in_flight_at_stop']} open at its stop")
    lost = [outcome for outcome in player.outcomes if outcome.status is not Outcome.FINISHED]
    gap_s = quantiles((gap for each in player.outcomes for gap in each.token_gaps_s), n=100)[94]
    span = withdrawn_at - player.began_at, killed_at - player.began_at
    fitting = [each for each in player.outcomes if fits(each, gap_s, *span)]
    note(f"{len(fitting)} of {player.sent} requests had to finish by the old one; lost: {len(lost)}")
    assert len(fitting) > 20
    assert not [(each.prompt_tokens, each.output_tokens) for each in fitting if each in lost], player.problems
    assert not [each for each in lost if each.arrival_s > span[0] + 1.0], player.problems


def fits(each: RequestOutcome, gap_s: float, withdrawn_s: float, killed_s: float) -> bool:
    """Whether it was sent before the withdrawal and could be finished before the kill, all in the load's seconds."""
    needs_s = output_tokens(each.prompt_tokens - FIRST_PROMPT) * gap_s
    return each.arrival_s < withdrawn_s and each.arrival_s + needs_s < killed_s - 1.0
