"""From an engine's first 200 of /health to its replica in the registry, as jobs of a real Slurm."""

from __future__ import annotations

import time

import httpx

from benchmarks.base import Measurement
from benchmarks.slurm_replicas import Site, site
from tests.support.waiting import until

TARGET_S = 2.0
TARGETS = (2, 3)


def run() -> list[Measurement]:
    with site() as running:
        times_s = [_ready_after_s(running, target) for target in TARGETS]
    details = {"all_s": [round(taken_s, 2) for taken_s in times_s]}
    return [Measurement("slurm_ready", round(max(times_s), 2), "s", TARGET_S, details=details)]


def _ready_after_s(running: Site, target: int) -> float:
    before, known = running.engines(), running.ready()
    running.scale(target)
    (url,) = until(lambda: [url for pid, url in running.engines().items() if pid not in before], "an engine starts")
    until(lambda: _healthy(url), "it is healthy")
    began = time.perf_counter()
    until(lambda: running.ready() - known, "its replica is in the registry")
    return time.perf_counter() - began


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
