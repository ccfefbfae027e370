"""Requests simulated per second by the compiled engine on one core, and what twice the replicas cost."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.base import Measurement
from benchmarks.bench_engine_reference import PROFILE
from simulator.engine.fleet import EngineFleet, make_ready

RATE_PER_REPLICA_S = 5.0
REPLICAS = 16
REQUESTS = 400_000
BATCH = 16_384
RUNS = 12


@dataclass(frozen=True, slots=True)
class Workload:
    """One value for each request, in order of arrival: seconds, and tokens."""

    arrivals: npt.NDArray[np.float64]
    prompts: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.int64]


def draw(replicas: int, requests: int, seed: int = 1) -> Workload:
    """Poisson arrivals, lognormal lengths: mean 763 tokens in, 141 out."""
    generator = np.random.default_rng(seed)
    prompts = np.clip(generator.lognormal(np.log(512), 0.9, requests), 1, 8000).astype(np.int64)
    outputs = np.clip(generator.lognormal(np.log(90), 0.95, requests), 1, 2000).astype(np.int64)
    arrivals = np.cumsum(generator.exponential(1 / (RATE_PER_REPLICA_S * replicas), requests))
    return Workload(arrivals, prompts, outputs)


def fleet_of(replicas: int) -> EngineFleet:
    fleet = EngineFleet()
    fleet.route(0, [fleet.start(PROFILE) for _ in range(replicas)])
    return fleet


def simulate(replicas: int, requests: int, seed: int = 1) -> float:
    """CPU seconds from arrays of requests, in batches, to arrays of their times."""
    load = draw(replicas, requests, seed)
    numbers = np.arange(requests)
    fleet = fleet_of(replicas)
    latencies_s = np.zeros(requests)
    began = time.process_time()
    for first in range(0, requests, BATCH):
        batch = slice(first, first + BATCH)
        fleet.submit(load.arrivals[batch], load.prompts[batch], load.outputs[batch], numbers[batch])
        fleet.run_until(float(load.arrivals[batch][-1]))
        take_latencies(fleet, latencies_s)
    fleet.run_until(math.inf)
    take_latencies(fleet, latencies_s)
    cpu_s = time.process_time() - began
    assert np.all(latencies_s > 0)
    return cpu_s


def take_latencies(fleet: EngineFleet, latencies_s: npt.NDArray[np.float64]) -> None:
    fleet.take_first_tokens()
    done = fleet.take_completions()
    latencies_s[done.request] = done.at - done.arrival_at


def run() -> list[Measurement]:
    began = time.process_time()
    compiled = make_ready()
    ready_s = time.process_time() - began
    # In turn, so that a busy machine is busy for both; the least of each is the time that the work takes.
    times = [(simulate(REPLICAS, REQUESTS), simulate(2 * REPLICAS, 2 * REQUESTS)) for _ in range(RUNS)]
    once, twice = (min(column) for column in zip(*times, strict=True))
    details = {
        "requests": REQUESTS,
        "replicas": REPLICAS,
        "ready_s": round(ready_s, 2),
        "compiled": compiled,
    }
    return [
        Measurement("sim_engine", round(REQUESTS / once), "requests/s", 1_000_000, True, details),
        Measurement("sim_scaling", round(twice / once, 3), "times as long for twice the replicas", 2.2),
    ]
