"""From the end of a draining replica's last stream to the end of its job, on a real Slurm."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx

from benchmarks.base import Measurement
from benchmarks.slurm_replicas import Site, site
from cli.demo.load import LoadPlayer
from signals.ingest.vllm_metrics import parse_metrics
from simulator.report.summary import Outcome
from tests.support.waiting import until
from traces.schema import TraceRequest

TARGET_S = 3.0
ROUNDS = 2
STREAMS = 4
TOKENS = 250
"""Some eight seconds: the streams outlast what it takes to withdraw a replica."""


def run() -> list[Measurement]:
    with site() as running:
        times_s = [_gone_after_s(running) for _ in range(ROUNDS)]
    details = {"all_s": [round(taken_s, 2) for taken_s in times_s]}
    return [Measurement("slurm_drain", round(max(times_s), 2), "s", TARGET_S, details=details)]


def _gone_after_s(running: Site) -> float:
    """Two replicas with streams, of which one is told to go: which one, its engine's end tells."""
    running.scale(2)
    until(lambda: len(running.ready()) == 2, "two replicas are ready", 60)
    engines = running.engines()
    with ThreadPoolExecutor(1) as pool:
        streams = pool.submit(asyncio.run, _streams(running.stack.gateway_url))
        until(lambda: all(_open_requests(url) for url in engines.values()), "both have streams")
        running.scale(1)
        idle_since: dict[int, float] = {}

        def one_is_gone() -> bool:
            for pid, url in engines.items():
                if pid not in idle_since and not _open_requests(url):
                    idle_since[pid] = time.perf_counter()
            return len(running.jobs()) == 1

        until(one_is_gone, "one replica's job is gone", 60)
        gone_at = time.perf_counter()
        assert set(streams.result()) == {Outcome.FINISHED}
    (drained,) = engines.keys() - running.engines().keys()
    return gone_at - idle_since[drained]


async def _streams(gateway_url: str) -> list[Outcome]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        player = LoadPlayer(session, gateway_url, "chat")
        await player.play([TraceRequest(0.0, 20, TOKENS)] * STREAMS, time.time)
        return [outcome.status for outcome in player.outcomes]


def _open_requests(url: str) -> float:
    """By the engine's own gauge; none of one that is gone."""
    try:
        page = httpx.get(f"{url}/metrics", trust_env=False).text
    except httpx.HTTPError:
        return 0.0
    return parse_metrics(page, "chat", "", 0.0, 0.0).requests_running or 0.0
