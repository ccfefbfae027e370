"""Requests and seconds simulated per second of processor time: a generated trace through the whole core, one core."""

from __future__ import annotations

import time

from benchmarks.base import Measurement
from broker.log.memory import MemoryLog
from broker.model.spec import EngineSpec, ModelSpec, PolicySpec, PoolSpec, SiteSpec
from policies.registry import cached
from simulator.demand import demand_of
from simulator.simulation import Simulation, make_ready
from traces.generate import generate
from traces.profiles import load_profile
from traces.rates import RateCurve

CURVE = RateCurve((0.0, 400.0, 500.0, 800.0, 1200.0), (2.0, 5.0, 12.0, 5.0, 3.0))
RULES = PolicySpec(
    "threshold",
    {
        "rules": [
            {"name": "queue", "signal": "queue_age_s", "above": 2.0, "for_s": 5.0, "change": 1},
            {"name": "calm", "signal": "requests_per_replica", "below": 8.0, "for_s": 60.0, "change": -1},
        ]
    },
)
MODEL = ModelSpec("chat", EngineSpec(("serve",)), RULES, minimum=2, maximum=12)
SITE = SiteSpec("bench", (PoolSpec("pool", "simulated", gpus=16),))


def run() -> list[Measurement]:
    requests = list(generate(load_profile("azure2023_conv"), CURVE, seed=1))
    simulation = Simulation(SITE, (MODEL,), log=MemoryLog(), policies=cached())
    make_ready()
    began = time.process_time()
    summary = simulation.run(demand_of("chat", requests))
    cpu_s = time.process_time() - began
    details = {
        "requests": len(requests),
        "unfinished": summary.requests.unfinished,
        "peak_ready": summary.peak_ready,
        "simulated_s": round(summary.duration_s),
    }
    return [
        Measurement("simulate_requests", round(len(requests) / cpu_s), "requests/s", 1000, True, details),
        Measurement("simulate_time", round(summary.duration_s / cpu_s), "simulated s/s", 200, True, details),
    ]
