"""Requests simulated per second with the production core in the loop, from a trace to its summary, on one core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.base import Measurement
from benchmarks.bench_engine_reference import PROFILE
from broker.app.steadiness import steady_steps
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.spec import EngineSpec, Limits, ModelSpec, PolicySpec, PoolSpec, SiteSpec
from policies.registry import cached
from simulator.demand import demand_of
from simulator.report.summary import RunSummary
from simulator.simulation import Simulation, SimulationSettings, make_ready
from traces.blocks import BLOCK_ROWS, RequestBlock, request_block
from traces.schema import Requests

RATE_PER_S = 80.0
REPLICAS = 16
REQUESTS = 400_000
RUNS = 3
RULES = PolicySpec(
    "threshold",
    {
        "rules": [
            {"name": "queue", "signal": "queue_age_s", "above": 2.0, "for_s": 10.0, "change": 1},
            {"name": "cache", "signal": "kv_cache_use", "above": 0.85, "for_s": 10.0, "change": 1},
        ]
    },
)
MODEL = ModelSpec("chat", EngineSpec(("serve",)), RULES, minimum=REPLICAS, maximum=REPLICAS + 4)
SITE = SiteSpec("bench", (PoolSpec("pool", "simulated", gpus=REPLICAS + 4),))


def poisson_blocks(requests: int, seed: int) -> Iterator[RequestBlock]:
    """Poisson arrivals, lognormal lengths: mean 763 tokens in, 141 out."""
    generator = np.random.default_rng(seed)
    last_s = 0.0
    for begin in range(0, requests, BLOCK_ROWS):
        count = min(BLOCK_ROWS, requests - begin)
        arrival_s = last_s + np.cumsum(generator.exponential(1 / RATE_PER_S, count))
        prompts = np.clip(generator.lognormal(np.log(512), 0.9, count), 1, 8000)
        outputs = np.clip(generator.lognormal(np.log(90), 0.95, count), 1, 2000)
        last_s = float(arrival_s[-1])
        yield request_block(arrival_s, prompts, outputs)


def simulate(requests: int, interval_s: float = 1.0) -> RunSummary:
    """Replicas are scraped every 5 s; each ``interval_s`` the gateway reports and the model is decided."""
    settings = SimulationSettings(tail_s=60.0, warm_up_s=120.0, scrape_interval_s=5.0, summary_interval_s=interval_s)
    limits = Limits(snapshot_interval_s=interval_s, gateway_session_s=max(5.0, 3.0 * interval_s))
    simulation = Simulation(
        replace(SITE, limits=limits), (MODEL,), log=MemoryLog(MemoryStore(keeps_steps=False)), policies=cached(),
        settings=settings, profile_of=lambda launch: PROFILE,
    )  # fmt: skip
    summary = simulation.run(demand_of("chat", Requests(lambda: poisson_blocks(requests, seed=1))))
    assert summary.requests.finished == requests
    return summary


def run() -> list[Measurement]:
    """As a broker with its defaults; and with everything as slow as the scrapes."""
    make_ready()
    return [_measured("sim_end_to_end", 1.0), _measured("sim_end_to_end_5_s", 5.0)]


def _measured(name: str, interval_s: float) -> Measurement:
    times = []
    for _ in range(RUNS):
        with steady_steps():  # as `tidegate simulate` does
            began = time.process_time()
            summary = simulate(REQUESTS, interval_s)
            times.append(time.process_time() - began)
    details = {
        "requests": REQUESTS,
        "replicas": REPLICAS,
        "peak_ready": summary.peak_ready,
        "simulated_s": round(summary.duration_s),
        "seconds_a_second": round(summary.duration_s / min(times)),
    }
    return Measurement(name, round(REQUESTS / min(times)), "requests/s", 200_000, True, details)
