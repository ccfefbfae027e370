"""Sites whose log is in a Kafka of these tests, what commands say of them, and what others do to that Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.admin import CreateAclsRequest
from aiokafka.structs import TopicPartition

from broker.log.kafka.client import Connection, started
from broker.log.kafka.topics import TOPICS, Layout
from tests.support.command_line import start, tidegate
from tests.support.real_kafka import GUEST, RealKafka

TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5
READ, WRITE, DELETE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 6, 8, 10
"""Kafka's numbers of what rights are about, and of rights."""


def write_site(folder: Path, cluster: str, **log: Any) -> None:
    """JSON is YAML."""
    site = {"cluster": cluster, "pools": {"here": {"kind": "local", "gpus": 1}}, "log": {"kind": "kafka", **log}}
    (folder / "site.yaml").write_text(json.dumps(site))


@contextlib.contextmanager
def worker(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """``tidegate worker`` of the site in ``folder``: the watchdog, whose child is the worker. Both add to the
    ``worker.log`` there."""
    with (
        (folder / "worker.log").open("a") as errors,
        start("worker", *options, folder=folder, environment=environment, errors=errors.fileno()) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def told(folder: Path, *words: str, password: str = "") -> tuple[int, Any]:
    """A command's exit status, and its document."""
    environment = {"TIDEGATE_KAFKA_PASSWORD": password}
    result = tidegate(*words, "--json", "--site", folder / "site.yaml", environment=environment)
    return result.exit_code, json.loads(result.stdout)


def found(folder: Path, *words: str, password: str = "") -> tuple[int, dict[str, tuple[str, str]]]:
    """A doctor's exit status, and what it found: verdict and words, by what they are about."""
    status, document = told(folder, "doctor", "kafka", *words, password=password)
    return status, {one["about"]: (one["verdict"], one["words"]) for one in document["kafka"]}


def asked(kafka: RealKafka, ask: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
    """What Kafka answers to somebody else than us."""

    async def answered() -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        try:
            return await ask(admin)
        finally:
            await admin.close()

    return asyncio.run(answered())


def make(kafka: RealKafka, *topics: NewTopic) -> None:
    answer = asked(kafka, lambda admin: admin.create_topics(list(topics)))
    assert not [error for error in answer.topic_errors if error[1]]


def allow(kafka: RealKafka, kind: int, prefix: str, *operations: int) -> None:
    """Give the guest rights on all that begin so."""

    async def given(admin: Any) -> None:
        for operation in operations:
            await admin._send_request(CreateAclsRequest(kind, prefix, 4, f"User:{GUEST}", "*", operation, 3))

    asked(kafka, given)


async def messages(connection: Connection, layout: Layout, topic: str) -> list[Any]:
    """All of a topic, partition by partition."""
    found = []
    async with started(connection, connection.consumer()) as consumer:
        for number in range(TOPICS[topic].partitions(layout)):
            place = TopicPartition(layout.name(topic), number)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                found += (await consumer.getmany(place, timeout_ms=200)).get(place, [])
    return found
