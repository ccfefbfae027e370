"""From a sample that makes a rule fire to the actuator's start, through Kafka: 100 models, 2,000 replicas, one worker.

One real node on this machine, one real worker process, and the production runtime on a log in that Kafka: a sample of a
replica's metrics is sent to its topic, Faust hands it to the window, the worker tells a snapshot, the broker reads it,
decides, commits a transaction, and ``FakeActuator.start`` is called. Beside it each replica's metrics come in once in
ten seconds (200 samples a second), and each model's snapshot once a second.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

import structlog

from benchmarks import control_world as world
from benchmarks.base import Measurement
from benchmarks.bench_window_scrape import scraped
from benchmarks.kafka_worker import worker_process
from benchmarks.timed_actions import filled_pool, write_state
from broker.app.measurements import Workers
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime, cancel
from broker.app.steadiness import steady_steps
from broker.clock import SystemClock
from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.model.observation import Observation
from broker.model.signals import MetricSample, Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import JsonValue, Limits, ModelSpec, PolicySpec
from broker.model.state import BrokerState
from policies.registry import cached
from tests.support.real_kafka import RealKafka

MODELS = 100
SCRAPES_PER_S = 200
TARGETS_MS = {50: 150.0, 99: 500.0}
"""By percentile."""
QUEUE = 50.0
SETTLE_S = 15.0
"""By then each replica has been scraped, and what its first word set off is over."""
TICK_S = 0.01

_RULE: dict[str, JsonValue] = {
    "name": "queue",
    "signal": Signal.REQUESTS_WAITING.value,
    "above": QUEUE / 2,
    "change": 1,
}
_RULES = PolicySpec("threshold", {"rules": [_RULE]})


def run() -> list[Measurement]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        with RealKafka(heap_mib=512) as kafka:
            return asyncio.run(_measure(Connection((kafka.bootstrap_servers,)), Layout("tidegate.action")))
    finally:
        structlog.reset_defaults()


async def _measure(connection: Connection, layout: Layout) -> list[Measurement]:
    await initialised(connection, layout, alter=False, dry_run=False)
    models = world.model_specs(replace(world.shipped_model(), policy=_RULES), spare=5)[:MODELS]
    clock, log = SystemClock(), KafkaLog(connection, layout)
    workers = Workers(connection, layout, Limits().signal_patience_s)
    try:
        await write_state(log, models)
        actuator = await filled_pool(models, clock)
        pools = {world.POOL: actuator}
        runner = AsyncRunner(pools, clock, timeout_s=10.0, concurrency=16, may_act=log.may_act)
        runtime = Runtime(
            log=log, policies=cached(), actuators=pools, runner=runner, clock=clock, measured=workers.outbox.send
        )
        scrapes = Scrapes(runtime, models, actuator.waited_for)
        async with worker_process(connection, layout) as worker, runtime.running("benchmark"):
            await worker.opened(layout)
            loops = (workers.outbox.run(), workers.snapshots(clock, scrapes.offer, BrokerState()).run(), scrapes.run())
            tasks = [asyncio.create_task(loop) for loop in loops]
            with steady_steps():
                try:
                    await asyncio.sleep(SETTLE_S)
                    broker, busy, began = time.process_time(), worker.cpu_s(), time.perf_counter()
                    waits_ms = await actuator.timed(models, scrapes.fire)
                    took_s = time.perf_counter() - began
                finally:
                    await cancel(tasks)
            figures = {percent: round(world.quantile(waits_ms, percent / 100), 1) for percent in TARGETS_MS}
            details = {
                "actions": len(waits_ms),
                "p90_ms": round(world.quantile(waits_ms, 0.9), 1),
                "max_ms": round(max(waits_ms), 1),
                "p50_ms_to_snapshot": round(world.quantile(scrapes.told_ms, 0.5), 1),
                "p99_ms_to_snapshot": round(world.quantile(scrapes.told_ms, 0.99), 1),
                "broker_cores": round((time.process_time() - broker) / took_s, 2),
                "worker_cores": round((worker.cpu_s() - busy) / took_s, 2),
            }
    finally:
        await log.close()
    return [
        Measurement(f"kafka_sample_to_action_p{percent}", figures[percent], "ms", target, details=details)
        for percent, target in TARGETS_MS.items()
    ]


class Scrapes:
    """All replicas' metrics, spread evenly. At the models in ``hot``, a live view, requests wait. ``told_ms`` has when
    the snapshots came that say so."""

    def __init__(self, runtime: Runtime, models: tuple[ModelSpec, ...], hot: Mapping[str, float]) -> None:
        self.told_ms: list[float] = []
        self._runtime = runtime
        self._names = [(model.model_id, name) for model in models for name in world.names_of(model.model_id)]
        self._hot = hot
        self._told: set[str] = set()
        self._count = itertools.count()

    async def run(self) -> None:
        """For ever; first each replica once, since the first word of each is urgent news."""
        for model_id, name in self._names:
            self._runtime.observe(self._sample(model_id, name))
        began, done = time.perf_counter(), 0
        while True:
            for _ in range(int((time.perf_counter() - began) * SCRAPES_PER_S) - done):
                self._runtime.observe(self._sample(*self._names[done % len(self._names)]))
                done += 1
            await asyncio.sleep(TICK_S)

    def fire(self, model_id: str) -> None:
        self._runtime.observe(self._sample(model_id, world.names_of(model_id)[0]))

    def offer(self, observation: Observation) -> None:
        assert isinstance(observation, ModelSnapshot)
        model_id, waiting = observation.model_id, observation.reading(Signal.REQUESTS_WAITING).current
        if waiting and model_id in self._hot and model_id not in self._told:
            self._told.add(model_id)
            self.told_ms.append(1e3 * (time.perf_counter() - self._hot[model_id]))
        self._runtime.offer(observation)

    def _sample(self, model_id: str, replica_id: str) -> MetricSample:
        waiting = QUEUE if model_id in self._hot else 0.0
        return scraped(model_id, replica_id, self._runtime.clock.now(), float(next(self._count)), waiting)
