"""Transactions whose end Kafka forgot: readers wait behind them, and what the leader does about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka.structs import TopicPartition

from broker.clock import SystemClock
from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.probe import examined
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.log.kafka.writer import INTERRUPTED_S, Terms
from broker.model.errors import LogUnreachable
from broker.model.finding import Verdict
from tests.support.builders import step_record
from tests.support.needs import needs_kafka
from tests.support.real_kafka import RealKafka
from tests.support.waiting import until_answered

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    needs_kafka,
]

FORGOTTEN = ("decisions", "endpoints", "observations")
TERMS = Terms(lease_s=60.0, patience_s=5.0)
"""Renewed seldom: nothing but what a test writes is written."""


@pytest.fixture(scope="module")
def kafka() -> Iterator[RealKafka]:
    """One that takes messages of a transaction into partitions that the transaction does not know of."""
    with RealKafka(options=["transaction.partition.verification.enable=false"]) as kafka:
        yield kafka


@pytest.fixture
def layout(kafka_cluster: str) -> Layout:
    return Layout(kafka_cluster, partitions=1)


@pytest.fixture
async def log(kafka: RealKafka, layout: Layout) -> AsyncIterator[KafkaLog]:
    """Its second step is committed, but three of its topics were never told so."""
    connection = Connection((kafka.bootstrap_servers,))
    await initialised(connection, layout, alter=False, dry_run=False)
    log = KafkaLog(connection, layout, terms=TERMS)
    await log.acquire_leadership("a")
    await log.commit(step_record(1))
    await log.append("usage", [{"gpu_s": 0}])  # begins once Kafka has marked the first step's end in all of its topics
    assert log._leading is not None
    log._leading[1]._interrupted = False  # a cold Kafka may take a second for the first step: as after an interruption
    log._leading[1]._producer._txn_manager._txn_partitions |= {
        TopicPartition(layout.name(topic), 0) for topic in FORGOTTEN
    }
    await log.commit(step_record(2))
    yield log
    await log.close()


async def steps(log: KafkaLog) -> list[int]:
    return [step.number async for step in log.steps()]


async def steps_of_a_reader(log: KafkaLog) -> list[int]:
    reader = log.reader()
    try:
        return await steps(reader)
    finally:
        await reader.close()


async def test_what_is_held_back_is_told_by_the_leaders_reader_and_by_the_doctor(
    log: KafkaLog, kafka: RealKafka, layout: Layout
) -> None:
    with pytest.raises(LogUnreachable, match=r"holds back .*\.observations from offset [0-9]+ on.*doctor kafka"):
        await steps(log)
    assert await steps_of_a_reader(log) == [1]
    found = await examined(Connection((kafka.bootstrap_servers,)), layout, SystemClock())
    (held_back,) = [finding for finding in found if finding.about == "open transactions"]
    assert held_back.verdict is Verdict.MEND
    assert ", ".join(layout.name(topic) for topic in FORGOTTEN) in held_back.words


async def test_who_leads_next_ends_it_as_it_was_decided(log: KafkaLog, kafka: RealKafka, layout: Layout) -> None:
    await log.close()
    successor = KafkaLog(Connection((kafka.bootstrap_servers,)), layout, terms=TERMS)
    await successor.acquire_leadership("b")
    assert await steps(successor) == [1, 2]
    await until_answered(lambda: steps_of_a_reader(successor), lambda found: found == [1, 2], "others see it too")
    assert [decision.now for decision in await successor.decisions()] == [step_record(2).now, step_record(1).now]
    found = await examined(Connection((kafka.bootstrap_servers,)), layout, SystemClock())
    assert [finding.verdict for finding in found if finding.about == "open transactions"] == [Verdict.FINE]
    await successor.close()


async def test_a_leader_that_kafka_kept_waiting_ends_it_with_its_next_transaction(
    log: KafkaLog, kafka: RealKafka
) -> None:
    """aiokafka may outlast a start of Kafka without telling."""
    kafka.pause(1)
    writing = asyncio.create_task(log.append("usage", [{"gpu_s": 1}]))
    await asyncio.sleep(1.5 * INTERRUPTED_S)
    kafka.resume(1)
    await writing
    assert await steps_of_a_reader(log) == [1]
    await log.append("usage", [{"gpu_s": 2}])
    await until_answered(lambda: steps_of_a_reader(log), lambda found: found == [1, 2], "it is ended")
    assert [record async for record in log.records("usage")] == [{"gpu_s": 0}, {"gpu_s": 1}, {"gpu_s": 2}]
