"""Seconds of processor time for the lower bound of a week in steps of a minute, with start, wall time and misses;
then with a deadline besides."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.base import Measurement
from simulator.oracle.bound import OraclePool, lower_bound
from simulator.oracle.demand import Demand, fluid_demand

WEEK_S = 7 * 86400.0
POOL = OraclePool("h100", 60, start_s=300.0, wall_time_s=4 * 3600.0)


def week(deadline_s: float, requests: int = 600_000, seed: int = 1) -> Demand:
    """Days and nights of lognormal requests, eight replicas' worth of work on average."""
    generator = np.random.default_rng(seed)
    arrival_s = generator.uniform(0, WEEK_S, requests)
    kept = generator.random(requests) < (1 + 0.7 * np.sin(2 * np.pi * arrival_s / 86400)) / 1.7
    work_s = generator.lognormal(2.0, 1.0, requests)
    return fluid_demand(arrival_s[kept], work_s[kept], step_s=60.0, horizon_s=WEEK_S, deadline_s=deadline_s)


def run() -> list[Measurement]:
    measurements = []
    for name, deadline_s in (("oracle_week", 0.0), ("oracle_week_deadline", 30.0)):
        demand = week(deadline_s)
        began = time.process_time()
        bound = lower_bound(demand, [POOL])
        taken_s = time.process_time() - began
        details = {"requests": demand.requests, "steps": demand.steps, "gpu_hours": round(bound.gpu_hours, 1)}
        measurements.append(Measurement(name, round(taken_s, 1), "s", 60.0, details=details))
    return measurements
