"""A day of 64 models with 16 replicas each and 50 requests/s in all, production core in the loop; takes minutes.

Replicas are scraped, gateways report and models are decided every 15 s, as a site of that size would set it (the
patience for signals three scrapes, as `tidegate check` asks for); what matters much is still decided at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.base import Measurement
from benchmarks.bench_engine_reference import PROFILE
from broker.app.steadiness import steady_steps
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.spec import EngineSpec, Limits, ModelSpec, PolicySpec, PoolSpec, SiteSpec
from policies.registry import cached
from simulator.demand import Demand
from simulator.report.summary import RunSummary
from simulator.simulation import Simulation, SimulationSettings, make_ready
from traces.blocks import BLOCK_ROWS, Names, RequestBlock, request_block
from traces.schema import Requests

MODELS, REPLICAS = 64, 16
RATE_PER_S = 50.0
DAY_S = 86_400.0
INTERVAL_S = 15.0
TARGET_S = 180.0
RULES = PolicySpec(
    "threshold",
    {
        "rules": [
            {"name": "queue", "signal": "queue_age_s", "above": 2.0, "for_s": 30.0, "change": 1},
            {"name": "cache", "signal": "kv_cache_use", "above": 0.85, "for_s": 30.0, "change": 1},
        ]
    },
)
NAMES = tuple(f"model-{number}" for number in range(MODELS))
FLEET = tuple(ModelSpec(name, EngineSpec(("serve",)), RULES, minimum=REPLICAS, maximum=REPLICAS + 4) for name in NAMES)
LIMITS = Limits(
    starts_per_minute=10_000, starts_per_hour=10_000, concurrent_loads=10_000, snapshot_interval_s=INTERVAL_S,
    signal_patience_s=3 * INTERVAL_S, gateway_session_s=3 * INTERVAL_S,
)  # fmt: skip
SITE = SiteSpec("bench", (PoolSpec("pool", "simulated", gpus=MODELS * (REPLICAS + 4)),), limits=LIMITS)


def fleet_blocks(seconds: float, seed: int) -> Iterator[RequestBlock]:
    """Poisson arrivals whose rate follows the hour (half to one and a half times the mean, from which it rises first),
    lognormal lengths; the models' shares fall as 1/rank, so that the first has a fifth of all and the last a request
    each six seconds."""
    generator = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, MODELS + 1)
    shares /= shares.sum()
    last_s = 0.0
    while last_s < seconds:
        steps = np.cumsum(generator.exponential(1.0 / (1.5 * RATE_PER_S), BLOCK_ROWS))
        arrival_s = last_s + steps
        last_s = float(arrival_s[-1])
        rate = 1.0 + 0.5 * np.sin(2.0 * np.pi * arrival_s / DAY_S)
        kept = (generator.uniform(0.0, 1.5, BLOCK_ROWS) < rate) & (arrival_s < seconds)
        arrival_s = arrival_s[kept]
        count = len(arrival_s)
        if not count:
            continue
        prompts = np.clip(generator.lognormal(np.log(512), 0.9, count), 1, 8000)
        outputs = np.clip(generator.lognormal(np.log(90), 0.95, count), 1, 2000)
        yield request_block(arrival_s, prompts, outputs, model=generator.choice(MODELS, count, p=shares))


def simulate(seconds: float) -> RunSummary:
    settings = SimulationSettings(
        tail_s=60.0, warm_up_s=120.0, scrape_interval_s=INTERVAL_S, summary_interval_s=INTERVAL_S
    )
    simulation = Simulation(
        SITE, FLEET, log=MemoryLog(MemoryStore(keeps_steps=False)), policies=cached(), settings=settings,
        profile_of=lambda launch: PROFILE,
    )  # fmt: skip
    requests = Requests(lambda: fleet_blocks(seconds, seed=1), models=Names("models", NAMES))
    summary = simulation.run(Demand(requests))
    assert summary.requests.finished == summary.requests.sent
    return summary


def run() -> list[Measurement]:
    """``TIDEGATE_FLEET_HOURS`` (24): another span; the figure is then named after it and its target is its share."""
    make_ready()
    hours = float(os.environ.get("TIDEGATE_FLEET_HOURS", "24"))
    with steady_steps():  # as `tidegate simulate` does
        began = time.process_time()
        summary = simulate(hours * 3600.0)
        took_s = time.process_time() - began
    details = {
        "requests": summary.requests.sent,
        "models": MODELS,
        "replicas": MODELS * REPLICAS,
        "simulated_s": round(summary.duration_s),
        "seconds_a_second": round(summary.duration_s / took_s),
        "requests_per_s": round(summary.requests.sent / took_s),
    }
    name = "sim_fleet_day" if hours == 24.0 else f"sim_fleet_{hours:g}_hours"
    return [Measurement(name, round(took_s, 1), "s", TARGET_S * hours / 24.0, details=details)]
