"""Workers on a real Kafka: they share the models, take over from each other, and lose or invent nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.app.measurements import Workers
from broker.app.runtime import cancel
from broker.log.kafka.client import started
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.standing import GroupWatch
from broker.model import wire
from broker.model.observation import Observation
from broker.model.signals import MetricSample, RequestSummary, Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState
from broker.model.window_state import DeadLetter
from tests.integration.kafka.measured_site import (
    MODELS,
    PATIENCE_S,
    Site,
    expect_as_recomputed,
    kill,
    measured_for,
    opened,
    replicas_of,
    telling,
    until,
)
from tests.integration.kafka.sites import messages, worker
from tests.support.builders import model_snapshot
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually, until_answered

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
async def site(kafka: RealKafka, kafka_cluster: str, tmp_path: Path) -> Site:
    return await opened(kafka, kafka_cluster, tmp_path)


async def test_a_workers_models_are_taken_over_and_their_windows_are_those_of_the_log_to_the_event(site: Site) -> None:
    async with telling(site, linger_ms=5) as (told, producer):
        with worker(site.folder) as first, worker(site.folder) as second:
            await until(site, producer, lambda: len(set(told.by.values())) == 2, "both workers own models")
            await measured_for(site, producer, 12)  # the last settled past of each model is some seconds old
            killed = kill(first)
            await until(
                site, producer,
                lambda: told.by.keys() == set(MODELS) and killed not in told.by.values(), "all is taken over",
            )  # fmt: skip
            await measured_for(site, producer, 5)
            second.terminate()
            assert second.wait(30) == 0
    await expect_as_recomputed(site)


async def test_what_nobody_can_read_goes_to_the_dead_letters_and_stops_nothing(site: Site) -> None:
    poison = {
        "not JSON": (b"{", b"m1"),
        "its key is": (wire.dumps(RequestSummary("m1", "gw", "boot", 1, 1.0, 1.0, 1.0)).encode(), b"m2"),
        "where a 'request_summary' is expected": (wire.dumps(MetricSample("m1", "r", 1.0, 1.0)).encode(), b"m1"),
        "is empty": (None, b"m1"),
    }
    async with telling(site) as (told, producer):
        with worker(site.folder):
            await until(site, producer, lambda: told.by.keys() == set(MODELS), "all models are told")
            for value, key in poison.values():
                await producer.send_and_wait(site.layout.name("requests"), value, key=key)
            told.by.clear()
            await until(site, producer, lambda: told.by.keys() == set(MODELS), "all models are told again")
            letters = await until_answered(
                lambda: dead_letters(site), lambda found: len(found) >= len(poison), "all are told"
            )
        await producer.send_and_wait(site.layout.name("requests"), b"[", key=b"m1")  # while nobody reads
        with worker(site.folder):
            later = await until_answered(
                lambda: dead_letters(site), lambda found: len(found) > len(poison), "it is told afterwards", 60.0
            )
    assert [letter.message for letter in later[len(letters) :]] == ["["]
    assert {letter.topic for letter in letters} == {site.layout.name("requests")}
    for words in poison:
        assert [letter for letter in letters if words in letter.reason], f"{words}: {letters}"


async def dead_letters(site: Site) -> list[DeadLetter]:
    return [
        wire.loads(DeadLetter, record.value) for record in await messages(site.connection, site.layout, "dead-letters")
    ]


async def test_a_worker_that_has_read_all_is_left_alive_where_the_log_ends_with_a_transactions_mark(site: Site) -> None:
    async with telling(site, transactional_id=f"{site.layout.prefix}.sender") as (told, producer):
        with worker(site.folder, "--silent", "6s"):
            await eventually(lambda: told.by.keys() == set(MODELS), "all models are told")
            first = set(told.by.values())
            async with producer.transaction():
                await site.measure(producer)
            await asyncio.sleep(10.0)
            told.by.clear()
            await eventually(lambda: told.by.keys() == set(MODELS), "all models are told again")
            assert set(told.by.values()) == first


async def test_what_a_worker_took_in_by_the_handful_is_committed_to_the_last_message(site: Site) -> None:
    watch = GroupWatch(site.connection, site.layout)
    async with telling(site, linger_ms=50) as (told, producer):
        with worker(site.folder):
            await until(site, producer, lambda: told.by.keys() == set(MODELS), "all models are told")
            for _ in range(60):
                await site.measure(producer)
            await producer.flush()
            watching = asyncio.create_task(watch.run())
            try:
                await eventually(
                    lambda: watch.latest is not None and not any(watch.latest.lag.values()),
                    "no message is left to read",
                )
            finally:
                await cancel([watching])


async def test_what_a_broker_measures_comes_back_as_snapshots(site: Site) -> None:
    workers, offered = Workers(site.connection, site.layout, PATIENCE_S), list[Observation]()
    feed = workers.snapshots(site.clock, offered.append, BrokerState())
    loops = [asyncio.create_task(loop()) for loop in (workers.outbox.run, feed.run)]
    second = 0
    try:
        with worker(site.folder):
            while not any(running_of(snapshot) == 14.0 for snapshot in offered):
                second += 1
                assert second < 300, "no snapshot of it within a minute"
                for name in replicas_of("m1"):
                    now = site.clock.now()
                    workers.outbox.send(MetricSample("m1", name, now, now, 7.0, 0.0, 0.1, 1.0, 1.0, 0.0, 1.0))
                await asyncio.sleep(0.2)
    finally:
        await cancel(loops)
    assert workers.outbox.dropped == 0


async def test_a_broker_that_takes_over_goes_on_with_what_no_step_has_taken_in(site: Site) -> None:
    log = KafkaLog(site.connection, site.layout)
    restored = (await log.load()).state
    await log.close()
    taken_in = replace(restored.models["m1"], snapshot=model_snapshot("m1", 2, site.clock.now()))
    offered = list[Observation]()
    feed = Workers(site.connection, site.layout, PATIENCE_S).snapshots(
        site.clock, offered.append, restored.with_changes({("model", "m1"): taken_in})
    )
    async with started(site.connection, site.connection.producer()) as producer:
        for told in (model_snapshot("m1", 2), model_snapshot("m2", 7), model_snapshot("m2", 8)):
            await tell(site, producer, told)
        reading = asyncio.create_task(feed.run())
        try:
            await eventually(lambda: offered, "what was told before the start is offered")
            await tell(site, producer, model_snapshot("m1", 3))
            await eventually(lambda: len(offered) == 2, "what is told later is offered")
        finally:
            await cancel([reading])
    assert [(one.model_id, one.sequence) for one in offered if isinstance(one, ModelSnapshot)] == [("m2", 8), ("m1", 3)]


async def tell(site: Site, producer: Any, snapshot: ModelSnapshot) -> None:
    """As a worker does."""
    topic, key = site.layout.name("model-snapshots"), snapshot.model_id.encode()
    await producer.send_and_wait(topic, wire.dumps(snapshot).encode(), key=key)


def running_of(observation: Observation) -> float | None:
    """The requests that run, as a snapshot of model m1 tells."""
    if not isinstance(observation, ModelSnapshot) or observation.model_id != "m1":
        return None
    return observation.reading(Signal.REQUESTS_RUNNING).current
