"""Requests simulated per second by the engine models behind the ``Engine`` contract, driven one event at a time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

import numpy as np

from benchmarks.base import Measurement
from simulator.engine.profile import EngineProfile
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import Engine, EngineRequest
from simulator.engine.single import CompiledEngine

PROFILE = EngineProfile(
    name="bench",
    base_s=0.0165,
    s_per_prefill_token=80e-6,
    s_per_decode_sequence=30e-6,
    s_per_kv_token=60e-9,
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    block_size=16,
    num_blocks=8192,
    load_time_s=0.0,
    front_end_s=0.0,
    provenance="Chosen: an engine of middling size, as the peers were measured with.",
)


def workload(count: int, rate_per_s: float, seed: int = 1) -> list[EngineRequest]:
    """Poisson arrivals, lognormal lengths: mean about 750 tokens in, 140 out."""
    generator = np.random.default_rng(seed)
    prompts = np.clip(generator.lognormal(np.log(500), 0.9, count), 1, 8000).astype(int).tolist()
    outputs = np.clip(generator.lognormal(np.log(90), 0.95, count), 1, 2000).astype(int).tolist()
    arrivals = np.cumsum(generator.exponential(1 / rate_per_s, count)).tolist()
    return [
        EngineRequest(str(number), arrival, prompt, output)
        for number, (arrival, prompt, output) in enumerate(zip(arrivals, prompts, outputs, strict=True))
    ]


def simulate(make: Callable[[EngineProfile], Engine], requests: list[EngineRequest], replicas: int) -> float:
    """Drive ``replicas`` engines from an event heap, each request to the least loaded; CPU seconds."""
    engines = [make(PROFILE) for _ in range(replicas)]
    in_flight = [0] * replicas
    due: list[tuple[float, int]] = []
    began = time.process_time()

    def advance_one(index: int, now: float) -> None:
        engine = engines[index]
        engine.advance(now)
        in_flight[index] = engine.running + engine.waiting
        at = engine.next_event_at()
        if at is not None:
            heapq.heappush(due, (at, index))

    for request in requests:
        now = request.arrival_at
        while due and due[0][0] <= now:
            at, index = heapq.heappop(due)
            if at == engines[index].next_event_at():
                advance_one(index, at)
        least = in_flight.index(min(in_flight))
        engines[least].advance(now)
        engines[least].add(request)
        advance_one(least, now)
    for engine in engines:
        engine.advance(float("inf"))
    assert sum(engine.counters.finished for engine in engines) == len(requests)
    return time.process_time() - began


def run() -> list[Measurement]:
    measurements = []
    for replicas in (1, 8):
        requests = workload(20_000, 5.0 * replicas)
        cpu_s = simulate(CompiledEngine, requests, replicas)
        measurements.append(
            Measurement(
                f"engine_compiled_{replicas}_replicas",
                round(len(requests) / cpu_s),
                "requests/s",
                10_000,
                higher_is_better=True,
                details={"requests": len(requests), "mean_output_tokens": 140},
            )
        )
    requests = workload(2_000, 5.0)
    cpu_s = simulate(ReferenceEngine, requests, 1)
    measurements.append(
        Measurement("engine_per_iteration", round(len(requests) / cpu_s), "requests/s", 300, higher_is_better=True)
    )
    return measurements
