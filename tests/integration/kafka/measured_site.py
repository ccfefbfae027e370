"""A site whose models are measured into a real Kafka, workers on it, and what their windows must then say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from aiokafka.structs import TopicPartition

from broker.app.runtime import cancel
from broker.clock import SystemClock
from broker.control.snapshots import SNAPSHOT_SLOTS
from broker.log.kafka.client import Connection, started
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import WireError
from broker.model.ports import StepRecord
from broker.model.signals import MetricSample, RequestSummary
from broker.model.snapshot import ModelSnapshot, WindowNeed
from broker.model.spec import EngineSpec, JsonValue, ModelSpec, PolicySpec
from broker.model.state import ControlState, ModelState
from policies.registry import cached
from signals.ingest.partitions import HINTS, LATE_MARGIN_S, Arrived, measurement
from signals.window import SignalWindow
from tests.faults.conftest import SEED
from tests.integration.kafka.sites import messages
from tests.support.builders import replica, site_spec
from tests.support.real_kafka import RealKafka
from tests.unit.signals.samples import histogram

MODELS = [f"m{number}" for number in range(6)]
PARTITIONS = 6
"""So that three workers have two each: of four, Faust left all to the first two where the third came after them."""
PATIENCE_S = 15.0
RULE: dict[str, JsonValue] = {"name": "up", "signal": "queue_age_s", "above": 2.5, "for_s": 20.0, "change": 1}
POLICY = PolicySpec("threshold", {"rules": [RULE]})


class Site:
    """A cluster's topics with models on record, of two replicas each, and a producer that measures them."""

    def __init__(self, kafka: RealKafka, name: str, folder: Path, models: Sequence[str] = MODELS) -> None:
        self.models = models
        self.connection = Connection((kafka.bootstrap_servers,))
        self.layout = Layout(f"tidegate.{name}", PARTITIONS)
        self.folder = folder
        (folder / "site.yaml").write_text(
            f"cluster: {name}\npools: {{local: {{kind: local, gpus: 8}}}}\n"
            f"log: {{kind: kafka, bootstrap_servers: '{kafka.bootstrap_servers}', partitions: {PARTITIONS}}}\n"
        )
        self.clock = SystemClock()
        self.declared_at = 0.0
        self._shuffler = random.Random(SEED)
        self._second = 0
        self._held_back: list[tuple[float, MetricSample | RequestSummary]] = []

    async def declare(self) -> None:
        log = KafkaLog(self.connection, self.layout)
        epoch = await log.acquire_leadership("test")
        self.declared_at = self.clock.now()
        changes: dict[Any, Any] = {("control", ""): ControlState(site=site_spec())}
        for model_id in self.models:
            spec = ModelSpec(model_id, EngineSpec(("serve",)), POLICY, maximum=8)
            changes["model", model_id] = ModelState(model_id, spec, target=2)
            for name in replicas_of(model_id):
                changes["replica", name] = replica(name, model_id, self.declared_at)
        await log.commit(StepRecord(1, epoch.number, self.declared_at, (), changes))
        await log.close()

    async def measure(self, producer: Any) -> None:
        """One second of all models: some of it comes late, or twice, or out of order."""
        for sample in self.samples():
            if (fate := self._shuffler.random()) < 0.1:
                self._held_back.append((sample.observed_at + self._shuffler.choice([3.0, 7.0, 20.0]), sample))
                continue
            for _ in range(2 if fate > 0.9 else 1):
                await self.send(producer, sample)
        now = self.clock.now()
        due = [held for held in self._held_back if held[0] <= now]
        self._held_back = [held for held in self._held_back if held[0] > now]
        for _, sample in due:
            await self.send(producer, sample)

    def samples(self) -> Iterator[MetricSample | RequestSummary]:
        """All of them, each time a little later in their course."""
        self._second += 1
        now, count = self.clock.now(), float(self._second)
        for model_id in self.models:
            for name in replicas_of(model_id):
                yield MetricSample(
                    model_id, name, now, now, count % 5, count % 3, 0.1, count * 31, count * 17, 0.0, count * 2,
                    histogram(count, count, count * 2, count * 2), histogram(count, count, count, count),
                    histogram(count, count, count, count),
                )  # fmt: skip
            yield RequestSummary(
                model_id, "gw", "boot", self._second, now, now, 1.0, arrived=3, finished=2, in_flight=4,
                waiting=self._second % 2, oldest_waiting_since=now - count % 4 if self._second % 2 else None,
            )  # fmt: skip

    async def send(self, producer: Any, sample: MetricSample | RequestSummary) -> None:
        topic = "signals" if isinstance(sample, MetricSample) else "requests"
        await producer.send(self.layout.name(topic), wire.dumps(sample).encode(), key=sample.model_id.encode())


async def opened(kafka: RealKafka, name: str, folder: Path, models: Sequence[str] = MODELS) -> Site:
    made = Site(kafka, name, folder, models)
    await initialised(made.connection, made.layout, alter=False, dry_run=False)
    await made.declare()
    return made


def replicas_of(model_id: str) -> tuple[str, ...]:
    return f"{model_id}-0-g1", f"{model_id}-1-g1"


def child(watchdog: subprocess.Popen[str]) -> psutil.Process:
    """The worker itself."""
    (found,) = psutil.Process(watchdog.pid).children()
    return found


def kill(watchdog: subprocess.Popen[str]) -> str:
    """As a machine that goes: the worker and its watchdog at once. The worker's process id."""
    killed = child(watchdog)
    watchdog.kill()
    killed.kill()
    return str(killed.pid)


class Told:
    """Which process told the latest snapshot of each model, and since when (monotonic) it is that one."""

    def __init__(self) -> None:
        self.by: dict[str, str] = {}
        self.since: dict[str, float] = {}

    async def listen(self, site: Site) -> None:
        async with started(site.connection, site.connection.consumer()) as consumer:
            topic = site.layout.name("model-snapshots")
            consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        model_id, worker_name = record.key.decode(), dict(record.headers)["worker"].decode()
                        if self.by.get(model_id) != (process := worker_name.rpartition("-")[2]):
                            self.by[model_id], self.since[model_id] = process, site.clock.monotonic()


@contextlib.asynccontextmanager
async def telling(site: Site, **producer: Any) -> AsyncIterator[tuple[Told, Any]]:
    """Who tells what, and a producer."""
    told = Told()
    listening = asyncio.create_task(told.listen(site))
    try:
        async with started(site.connection, site.connection.producer(**producer)) as opened_producer:
            yield told, opened_producer
    finally:
        await cancel([listening])


async def measured_for(site: Site, producer: Any, seconds: int) -> None:
    for _ in range(seconds):
        await site.measure(producer)
        await asyncio.sleep(1.0)


async def until(site: Site, producer: Any, holds: Any, what: str, limit_s: float = 60.0) -> None:
    """Measure on, second by second, until it holds."""
    deadline = site.clock.monotonic() + limit_s
    while not holds():
        assert site.clock.monotonic() < deadline, f"{what}: not within {limit_s:g} s"
        await measured_for(site, producer, 1)


class Recorded:
    """A model's measurements and snapshots as the log has them."""

    def __init__(self, site: Site, model_id: str, topics: Mapping[str, Sequence[Any]]) -> None:
        self.model_id = model_id
        self._declared_at = site.declared_at
        self._measured = {
            topic: [record for record in topics[topic] if record.key == model_id.encode()] for topic in HINTS
        }
        self._told = [record for record in topics["model-snapshots"] if record.key == model_id.encode()]
        self.snapshots: list[ModelSnapshot] = [wire.loads(ModelSnapshot, record.value) for record in self._told]

    def expect_as_recomputed(self) -> None:
        """Each snapshot is what a window says that nobody ever interrupted, of the messages that it says it rests
        on."""
        window, read_to = self._window(), dict.fromkeys(HINTS, 0)
        for record, snapshot in zip(self._told, self.snapshots, strict=True):
            for topic in HINTS:
                upto = self._rests_on(record, topic)
                for sample in self._in_time(topic, read_to[topic], upto):
                    window.observe(sample)
                read_to[topic] = max(read_to[topic], upto)
            self._expect(window, snapshot)

    def expect_last_as_undisturbed(self) -> None:
        """The last snapshot is what a window says to which each measurement that was in time came once and in order."""
        in_time = [one for topic in HINTS for one in self._in_time(topic, 0, self._rests_on(self._told[-1], topic))]
        window = self._window()
        for sample in sorted({_known_by(sample): sample for sample in in_time}.values(), key=_stands_at):
            window.observe(sample)
        self._expect(window, self.snapshots[-1])

    def _window(self) -> SignalWindow:
        needs: tuple[WindowNeed, ...] = tuple(cached()(POLICY).needs())
        phase_s = (zlib.crc32(self.model_id.encode()) % SNAPSHOT_SLOTS + 0.5) / SNAPSHOT_SLOTS
        window = SignalWindow(self.model_id, needs, PATIENCE_S, phase_s=phase_s)
        window.expect(replicas_of(self.model_id), self._declared_at)
        return window

    def _rests_on(self, record: Any, topic: str) -> int:
        return int(dict(record.headers)[topic])

    def _in_time(self, topic: str, first: int, upto: int) -> Iterator[MetricSample | RequestSummary]:
        """What can be read of the messages within the offsets."""
        for message in self._measured[topic]:
            if first <= message.offset < upto:
                at = message.timestamp / 1e3
                with contextlib.suppress(WireError):
                    sample = measurement(
                        Arrived(topic, message.partition, message.offset, at, message.key, message.value)
                    )
                    if at - sample.observed_at <= PATIENCE_S - LATE_MARGIN_S:
                        yield sample

    def _expect(self, window: SignalWindow, snapshot: ModelSnapshot) -> None:
        again = window.snapshot(snapshot.observed_at, snapshot.received_at)
        told, recomputed = ([*one.readings.items(), *one.windows, *one.replicas] for one in (snapshot, again))
        unlike = [pair for pair in itertools.zip_longest(told, recomputed) if pair[0] != pair[1]]
        assert not unlike, f"{self.model_id} at {snapshot.observed_at}, {snapshot.sequence}: {unlike}"


def _known_by(sample: MetricSample | RequestSummary) -> tuple[str, float]:
    if isinstance(sample, MetricSample):
        return sample.replica_id, sample.observed_at
    return sample.gateway_id, sample.sequence


def _stands_at(sample: MetricSample | RequestSummary) -> float:
    return min(sample.observed_at, sample.received_at)


async def recorded(site: Site) -> dict[str, Recorded]:
    topics = {topic: await messages(site.connection, site.layout, topic) for topic in (*HINTS, "model-snapshots")}
    return {model_id: Recorded(site, model_id, topics) for model_id in site.models}


async def expect_as_recomputed(site: Site) -> None:
    for model in (await recorded(site)).values():
        model.expect_as_recomputed()
