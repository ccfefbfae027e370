"""Topics as others left them: with foreign messages, or more partitions, or led by brokers of another cluster."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from broker.log.kafka.client import started, translated
from broker.log.kafka.topics import KEPT_BY_LEADER
from broker.model.errors import LogError
from cli.output import Exit
from tests.faults.cluster import load
from tests.faults.conftest import Note
from tests.faults.kafka.cluster import KafkaCluster, kafka_cluster
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually


@pytest.mark.integration
@pytest.mark.slow
async def test_messages_of_others_in_our_topics_are_left_out_and_told_of(
    kafka: RealKafka, tmp_path: Path, note: Note
) -> None:
    async with kafka_cluster(kafka, tmp_path) as running, load(running) as streams:
        with pytest.raises(LogError, match="too large"):
            await _send(running, "state", secrets.token_bytes(10 * 2**20))
        for topic in KEPT_BY_LEADER:
            await _send(running, topic, b"\xff not ours")
        await _send(running, "state", None, key=b"replica/chat-0-g1")
        await scaled_and_taken_over(running)
        assert (await running.get("/v1/decisions", model="chat"))["decisions"]
        told = running.logged("foreign_messages_left_out")
        assert running.layout.name("state") in {row["topic"] for row in told}, "which is read whole at a start"
        note(str(told[0]))
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()


async def scaled_and_taken_over(running: KafkaCluster) -> None:
    """By the next in line, with all as it should be."""
    await running.scale(2)
    await running.settled(2)
    await running.kill_broker()
    await running.start_broker()
    await running.settled(2)
    await running.no_orphan_no_double()


@pytest.mark.faults
async def test_topics_with_more_partitions_than_they_should_have_are_told_of_and_used(
    kafka: RealKafka, tmp_path: Path, note: Note
) -> None:
    unlike = {"endpoints": 3, "control": 2, "signals": 9}
    async with kafka_cluster(kafka, tmp_path, partitions=unlike) as running, load(running) as streams:
        await scaled_and_taken_over(running)
        told = running.logged("topic_partitions_differ")
        assert {row["topic"]: row["partitions"] for row in told} == {
            running.layout.name(topic): count for topic, count in unlike.items()
        }
        note(str(told[0]))
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()


@pytest.mark.faults
async def test_a_broker_of_another_cluster_on_the_same_topics_never_acts(
    kafka: RealKafka, tmp_path: Path, note: Note
) -> None:
    async with kafka_cluster(kafka, tmp_path, ready=2) as running, load(running) as streams:
        other = running.foreign_broker()
        await eventually(lambda: len(running.logged("standing_by")) == 2, "the other cluster's stands by")
        before = running.processes()
        await running.kill_broker()
        assert await asyncio.to_thread(other.wait, 40) == Exit.USAGE
        (words,) = [line for line in running.broker_log().splitlines() if "is another, but the log is of" in line]
        note(words)
        await running.start_broker()
        assert running.processes() == before
        await running.settled(2)
        await running.no_orphan_no_double()
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()


async def _send(running: KafkaCluster, topic: str, value: bytes | None, key: bytes = b"\xfe") -> None:
    """As somebody else."""
    async with started(running.connection, running.connection.producer(max_request_size=2**24)) as producer:
        with translated(running.connection):
            await producer.send_and_wait(
                running.layout.name(topic), value, key, partition=0, headers=[("part", b"\xff")]
            )
