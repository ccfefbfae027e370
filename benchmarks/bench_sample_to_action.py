"""From a measurement that makes a rule fire to the actuator's start: runtime, SQLite log, 500 models, 10,000 replicas.

The production runtime on a real event loop, embedded: a gateway's report is taken in, a snapshot made of it, a step
decided and committed with fsync, the launch handed to the runner, and ``FakeActuator.start`` called. Beside it, a
gateway reports each second for each model (500 reports a second) and replicas' metrics come in, already parsed: reading
10,000 pages a second takes two cores by itself (``scrape_parse``), whichever process they are in.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from benchmarks import control_world as world
from benchmarks.base import Measurement
from benchmarks.timed_actions import TimedActuator, filled_pool, write_state
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime, cancel
from broker.app.steadiness import steady_steps
from broker.clock import SystemClock
from broker.log.sqlite import SqliteLog
from broker.model.signals import Histogram, MetricSample, RequestSummary
from broker.model.sketch import Sketch
from broker.model.spec import ModelSpec, PolicySpec
from policies.registry import cached

TARGET_MS = 50.0
SETTLE_S = 5.0
TICK_S = 0.01
SCRAPES_PER_S = (0, 1000)
"""The figure that is held against the target is the first with scrapes."""

_RULES = PolicySpec("threshold", {"rules": [{"name": "queue", "signal": "queue_age_s", "above": 2.0, "change": 1}]})
_TOKENS = Sketch.of((120.0, 800.0, 2000.0))
_SECONDS = Sketch.of((0.2, 0.3, 0.5))
_HISTOGRAM = Histogram((*(0.05 * 1.4**n for n in range(20)), float("inf")), tuple(map(float, range(21))), 90.0)


def run() -> list[Measurement]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        return [asyncio.run(_measure(rate)) for rate in SCRAPES_PER_S]
    finally:
        structlog.reset_defaults()


async def _measure(scrapes_per_s: int) -> Measurement:
    example = replace(world.shipped_model(), policy=_RULES)
    models = world.model_specs(example, spare=5)
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        log = SqliteLog(Path(folder) / "log.db")
        try:
            await write_state(log, models)
            actuator = await filled_pool(models, clock)
            pools = {world.POOL: actuator}
            runner = AsyncRunner(pools, clock, timeout_s=10.0, concurrency=16, may_act=lambda: True)
            runtime = Runtime(log=log, policies=cached(), actuators=pools, runner=runner, clock=clock)
            async with runtime.running("benchmark"):
                with steady_steps():
                    return await _fire(runtime, actuator, models, scrapes_per_s)
        finally:
            await log.close()


async def _fire(
    runtime: Runtime, actuator: TimedActuator, models: tuple[ModelSpec, ...], scrapes_per_s: int
) -> Measurement:
    traffic = Traffic(runtime, models, actuator.waited_for)
    if scrapes_per_s:
        traffic.scrape_all()
    background = asyncio.create_task(traffic.run(scrapes_per_s))
    try:
        await asyncio.sleep(SETTLE_S)
        cpu, began = time.process_time(), time.perf_counter()
        waits_ms = await actuator.timed(models, lambda model_id: runtime.observe(traffic.report(model_id)))
        busy = (time.process_time() - cpu) / (time.perf_counter() - began)
    finally:
        await cancel([background])
    details = {
        "actions": len(waits_ms),
        "p50_ms": round(world.quantile(waits_ms, 0.5), 1),
        "p90_ms": round(world.quantile(waits_ms, 0.9), 1),
        "max_ms": round(max(waits_ms), 1),
        "reports_per_s": world.MODELS,
        "scrapes_per_s": scrapes_per_s,
        "fed": round(traffic.fed_share, 2),
        "cores_busy": round(busy, 2),
    }
    suffix = "" if scrapes_per_s == SCRAPES_PER_S[1] else f"_{scrapes_per_s}_scrapes"
    return Measurement(
        f"sample_to_action{suffix}", round(world.quantile(waits_ms, 0.99), 1), "ms", TARGET_MS, details=details
    )


class Traffic:
    """One gateway's reports and all replicas' metrics, spread evenly over the second. Somebody has waited for five
    seconds for each of the models in ``hot``, a live view."""

    def __init__(self, runtime: Runtime, models: tuple[ModelSpec, ...], hot: Mapping[str, float]) -> None:
        self._hot = hot
        self._runtime = runtime
        self._models = [model.model_id for model in models]
        self._names = [(model_id, name) for model_id in self._models for name in world.names_of(model_id)]
        self._sequence = itertools.count(1)
        self.fed_share = 0.0

    async def run(self, scrapes_per_s: int) -> None:
        """For ever; ``fed_share`` tells how much of what was due was fed."""
        began = time.perf_counter()
        reported = scraped = 0
        while True:
            elapsed_s = time.perf_counter() - began
            for _ in range(int(elapsed_s * world.MODELS) - reported):
                self._runtime.observe(self.report(self._models[reported % world.MODELS]))
                reported += 1
            for _ in range(int(elapsed_s * scrapes_per_s) - scraped):
                self._runtime.observe(self._sample(*self._names[scraped * 7 % world.REPLICAS], scraped))
                scraped += 1
            self.fed_share = reported / max(1.0, elapsed_s * world.MODELS)
            await asyncio.sleep(TICK_S)

    def scrape_all(self) -> None:
        """Each replica once: the first word of each is urgent news."""
        for number, (model_id, name) in enumerate(self._names):
            self._runtime.observe(self._sample(model_id, name, number))

    def report(self, model_id: str) -> RequestSummary:
        now = self._runtime.clock.now()
        hot = model_id in self._hot
        return RequestSummary(
            model_id, "gw-1", "boot-1", next(self._sequence), now, now, 1.0, arrived=20, finished=20, in_flight=60,
            waiting=int(hot), oldest_waiting_since=now - 5.0 if hot else None,
            time_to_first_token=_SECONDS, inter_token=_SECONDS, prompt_tokens=_TOKENS, output_tokens=_TOKENS,
        )  # fmt: skip

    def _sample(self, model_id: str, replica_id: str, count: int) -> MetricSample:
        now, total = self._runtime.clock.now(), float(count)
        return MetricSample(
            model_id, replica_id, now, now, 12.0, 0.0, 0.5, total, total, 0.0, total, _HISTOGRAM, _HISTOGRAM, _HISTOGRAM
        )
