"""A worker on Kafka: samples a second, how long it takes over 1,000 models' windows of ten minutes, its memory.

One real node on this machine and one real worker process. What the worker takes is told by its processor time, which
other processes on the machine do not change; the time on the clock goes along.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.structs import TopicPartition

from benchmarks.base import Measurement
from benchmarks.bench_window_scrape import scraped
from benchmarks.kafka_worker import LIMIT_S, worker_process
from broker.log.kafka.client import Connection, started
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.topics import TOPICS, Layout
from broker.model import wire
from broker.model.ports import StepRecord
from broker.model.signals import Signal
from broker.model.spec import EngineSpec, JsonValue, ModelSpec, PolicySpec
from broker.model.state import ControlState, ModelState
from broker.model.window_state import Expectation, LastGood, WindowState
from tests.support.builders import replica, site_spec
from tests.support.real_kafka import RealKafka

MODELS = 1000
WINDOW_S = 600
PATIENCE_S = 15.0
HISTORY_S = 90
"""What is settled ends a patience before the last checkpoint, that was seconds before the end, that was noticed after
seconds; before it lies the retention of 60 s."""
BUSY_MODELS = 50
BUSY_SAMPLES = 40_000
RULE: dict[str, JsonValue] = {
    "name": "up",
    "signal": "queue_age_s",
    "above": 2.5,
    "for_s": float(WINDOW_S),
    "change": 1,
}


def run() -> list[Measurement]:
    with RealKafka(heap_mib=512) as kafka:
        return [
            *asyncio.run(_taken_over(Connection((kafka.bootstrap_servers,)))),
            *asyncio.run(_throughput(Connection((kafka.bootstrap_servers,)))),
        ]


async def _taken_over(connection: Connection) -> list[Measurement]:
    layout = Layout("tidegate.takeover")
    await _make_topics(connection, layout)
    now = time.time()
    await _declare(connection, layout, MODELS, now - HISTORY_S)
    async with started(connection, connection.producer(linger_ms=20, max_batch_size=2**18)) as producer:
        for model in range(MODELS):
            text = wire.dumps(_settled(_name(model), now - HISTORY_S + 70.0))
            await producer.send(layout.name("window-state"), text.encode(), key=_name(model).encode())
        for second in range(HISTORY_S):
            await _measure(producer, layout, MODELS, MODELS, second, now - HISTORY_S + second)
    async with worker_process(connection, layout) as worker:
        opened = await worker.opened(layout)
        cpu_s = worker.cpu_s()
        samples = sum(line["replayed"] for line in opened)
        took_s = max(line["took_s"] for line in opened)
        for _ in range(5):
            await asyncio.sleep(1.0)
        mb = worker.memory_mb()
    details = {"models": MODELS, "window_s": WINDOW_S, "samples": samples}
    return [
        Measurement("window_takeover", took_s, "s", 10.0, details=details | {"cpu_s_since_its_start": cpu_s}),
        Measurement("worker_memory", mb, "MB", 300.0, details=details),
    ]


async def _throughput(connection: Connection) -> list[Measurement]:
    layout = Layout("tidegate.throughput")
    await _make_topics(connection, layout)
    await _declare(connection, layout, BUSY_MODELS, time.time())
    async with worker_process(connection, layout) as worker:
        await worker.opened(layout)
        await asyncio.sleep(2.0)
        async with started(connection, connection.producer(linger_ms=20, max_batch_size=2**18)) as producer:
            before, began = worker.cpu_s(), time.perf_counter()
            for batch in range(BUSY_SAMPLES // 1000):
                await _measure(producer, layout, 1000, BUSY_MODELS, batch, time.time())
            await producer.flush()
            await _caught_up(connection, layout)
            took_s, cpu_s = time.perf_counter() - began, worker.cpu_s() - before
    return [
        Measurement(
            "signals_throughput",
            round(BUSY_SAMPLES / cpu_s),
            "samples/s",
            4_000,
            higher_is_better=True,
            details={"of": "processor time", "by_the_clock": round(BUSY_SAMPLES / took_s), "models": BUSY_MODELS},
        )
    ]


async def _make_topics(connection: Connection, layout: Layout) -> None:
    """Stamped by whoever writes, so that a minute of history need not take a minute."""
    new = [
        NewTopic(
            layout.name(topic.name), topic.partitions(layout), 1,
            topic_configs=topic.configs(layout) | {"message.timestamp.type": "CreateTime"},
        )
        for topic in TOPICS.values()
    ]  # fmt: skip
    async with started(connection, connection.admin()) as admin:
        await admin.create_topics(new)


async def _declare(connection: Connection, layout: Layout, models: int, at: float) -> None:
    changes: dict[Any, Any] = {("control", ""): ControlState(site=site_spec())}
    for model in range(models):
        name = _name(model)
        spec = ModelSpec(name, EngineSpec(("serve",)), PolicySpec("threshold", {"rules": [RULE]}))
        changes["model", name] = ModelState(name, spec, target=1)
        changes["replica", f"{name}-0-g1"] = replica(f"{name}-0-g1", name, at)
    log = KafkaLog(connection, layout)
    epoch = await log.acquire_leadership("benchmark")
    await log.commit(StepRecord(1, epoch.number, at, (), changes))
    await log.close()


def _settled(name: str, at: float) -> WindowState:
    values = struct.pack(f"<{WINDOW_S}d", *(1.0 + tick % 7 / 3 for tick in range(WINDOW_S)))
    tick = int(at)
    return WindowState(
        name, 1000, at, tick - WINDOW_S + 1, {Signal.QUEUE_AGE: values},
        {signal: LastGood(1.0, tick) for signal in Signal}, (Expectation(at - WINDOW_S, (f"{name}-0-g1",)),),
    )  # fmt: skip


def _name(model: int) -> str:
    return f"model-{model:04}"


async def _measure(producer: Any, layout: Layout, samples: int, models: int, second: int, at: float) -> None:
    for number in range(samples):
        name = _name(number % models)
        sample = scraped(name, f"{name}-{number // models}-g1", at, float(second))
        await producer.send(
            layout.name("signals"), wire.dumps(sample).encode(), key=name.encode(), timestamp_ms=int(at * 1e3)
        )


async def _caught_up(connection: Connection, layout: Layout) -> None:
    """Until snapshots say that they rest on all that was measured."""
    signals = [TopicPartition(layout.name("signals"), number) for number in range(layout.partitions)]
    told = [TopicPartition(layout.name("model-snapshots"), number) for number in range(layout.partitions)]
    read_to: dict[int, int] = {}
    async with started(connection, connection.consumer()) as consumer:
        consumer.assign([*signals, *told])
        consumer.pause(*signals)
        await consumer.seek_to_end(*told)
        ends = {place.partition: end for place, end in (await consumer.end_offsets(signals)).items()}
        deadline = time.monotonic() + LIMIT_S
        while any(read_to.get(number, 0) < end for number, end in ends.items() if end):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker is at {read_to}, the log at {ends}")
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                read_to[place.partition] = int(dict(records[-1].headers)["signals"])
