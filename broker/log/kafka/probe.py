"""Whether a Kafka cluster serves a broker as it needs: ``tidegate doctor kafka``.

What a broker does is tried in transactions that are given up, under a transactional id of our own: no reader sees
anything of them, and a broker that leads is not deposed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka import __version__ as client_release
from aiokafka import errors as kafka_errors
from aiokafka.admin import RecordsToDelete

from broker.log.kafka.admin import KafkaAdmin, opened
from broker.log.kafka.checkup import (
    ClusterFacts,
    held_back_finding,
    release_finding,
    servers_finding,
    topics_findings,
    transaction_finding,
)
from broker.log.kafka.client import Connection, started, translate, translated
from broker.log.kafka.topics import KEPT_BY_LEADER, LED, TOPICS, Layout
from broker.model.addresses import is_loopback
from broker.model.errors import LeadershipRefused, LogError
from broker.model.finding import Finding, Verdict, clock_finding
from broker.model.ports import Clock

TRIED_WITHIN_S = 30.0
_GIVEN_UP_AFTER_MS = 5_000
"""By Kafka, should we be killed amid a transaction: until then it holds up who reads behind it."""
_READ_MS = 20
_OPEN_FOR_S = 2.0
"""A leader's transaction takes some milliseconds; Kafka marks its end in each partition a moment later."""
_BY_THE_SERVER = 1
"""The kind of a message's timestamp."""
_ENVELOPE_BYTES = 1024
"""What Kafka and compression may add to a message."""


async def examined(connection: Connection, layout: Layout, clock: Clock) -> list[Finding]:
    """A cluster that does not answer, or refuses us, is a finding too."""
    try:
        async with opened(connection) as admin:
            facts = await admin.facts([layout.name(topic) for topic in TOPICS])
            found = [
                release_finding(await admin.requests(), _reached(connection, facts)),
                _encryption(connection),
                servers_finding(layout, facts.servers),
                *topics_findings(layout, facts),
                await _brokers(admin, layout),
            ]
    except LogError as error:
        return [Finding(Verdict.MEND, "Kafka", str(error))]
    if any(layout.name(topic) not in facts.topics for topic in LED):
        return [*found, Finding(Verdict.LOOK, "rights", "not tried before all topics are there")]
    return [*found, *await _tried(connection, layout, clock)]


def _reached(connection: Connection, facts: ClusterFacts) -> str:
    user = "without a user" if connection.sasl is None else f"as {connection.sasl.user} ({connection.sasl.mechanism})"
    return f"cluster {facts.cluster_id}, {user}, by aiokafka {client_release}"


def _encryption(connection: Connection) -> Finding:
    if connection.tls is not None:
        authority = connection.tls.authority or "one of the system's authorities"
        return Finding(Verdict.FINE, "TLS", f"the servers' certificates are signed by {authority}")
    if all(is_loopback(server.rpartition(":")[0]) for server in connection.servers):
        return Finding(Verdict.FINE, "TLS", "none, on this machine alone")
    return Finding(Verdict.LOOK, "TLS", "none: what is written can be read on the network; set log.tls")


async def _brokers(admin: KafkaAdmin, layout: Layout) -> Finding:
    try:
        members = await admin.members(layout.control_group)
    except LogError as error:
        return Finding(Verdict.MEND, "brokers", str(error))
    return Finding(Verdict.FINE, "brokers", ", ".join(members) or "none runs")


async def _tried(connection: Connection, layout: Layout, clock: Clock) -> list[Finding]:
    """What only those who do it know."""
    producer = connection.producer(
        transactional_id=f"{layout.prefix}.doctor", transaction_timeout_ms=_GIVEN_UP_AFTER_MS,
        max_request_size=2 * layout.message_bytes,
    )  # fmt: skip
    try:
        with translated(connection):
            async with (
                asyncio.timeout(TRIED_WITHIN_S),
                started(connection, connection.admin()) as admin,
                started(connection, producer),
            ):
                return await _Trial(connection, layout, producer, admin, clock).findings()
    except LeadershipRefused:
        return [Finding(Verdict.LOOK, "transaction", "another doctor has begun on this log; wait for what it finds")]
    except LogError as error:
        return [Finding(Verdict.MEND, "transaction", str(error))]


@dataclass(frozen=True, slots=True)
class _Trial:
    connection: Connection
    layout: Layout
    producer: Any
    admin: Any
    clock: Clock

    async def findings(self) -> list[Finding]:
        if lacking := await self.lacking_rights():
            return [Finding(Verdict.MEND, "rights", f"give the user {'; '.join(lacking)}")]
        ours = f"topics, group and transactional ids of {self.layout.prefix} are ours to use"
        return [
            Finding(Verdict.FINE, "rights", ours),
            await self.open_transactions(),
            await self.clock_apart(),
            await self.transaction(),
            await self.message_size(),
        ]

    async def lacking_rights(self) -> list[str]:
        topics = [self.layout.name(topic) for topic in LED]
        trimmed = [self.layout.name(topic) for topic in LED if not TOPICS[topic].compacted]
        lacking = {
            "Write": [topic for topic in topics if not await _allowed(self._write([topic]))],
            "Read": [] if await _allowed(self._read(topics)) else await self._unread(topics),
            "Delete": [topic for topic in trimmed if not await _allowed(self._delete_nothing(topic))],
        }
        found = [f"{right} on {', '.join(refused)}" for right, refused in lacking.items() if refused]
        if not await _allowed(self._commit_offsets()):
            found.append(f"Read on the group {self.layout.control_group}")
        return found

    async def open_transactions(self) -> Finding:
        held = await self._held_back()
        if held:
            await asyncio.sleep(_OPEN_FOR_S)
            held = dict(held.items() & (await self._held_back()).items())
        return held_back_finding(sorted(held))

    async def clock_apart(self) -> Finding:
        began_at = self.clock.now()
        (written,) = await self._write([self._control])
        at = (began_at + self.clock.now()) / 2
        if written.timestamp_type != _BY_THE_SERVER:
            words = "unknown, since messages to topic control do not bear the servers'; see what is said of that topic"
            return Finding(Verdict.LOOK, "clock", words)
        return clock_finding("clock", "the servers'", written.timestamp / 1e3 - at)

    async def transaction(self) -> Finding:
        began = self.clock.monotonic()
        await self._write([self.layout.name(topic) for topic in LED])
        return transaction_finding(self.clock.monotonic() - began)

    async def message_size(self) -> Finding:
        size = self.layout.message_bytes
        words = f"{size >> 10} KiB"
        try:
            await self._write([self._control], os.urandom(size - _ENVELOPE_BYTES))
        except kafka_errors.KafkaError as error:
            return Finding(Verdict.MEND, "message size", str(translate(self.connection, error)))
        return Finding(Verdict.FINE, "message size", f"{words} are taken; what is larger is cut")

    @property
    def _control(self) -> str:
        return self.layout.name("control")

    async def _write(self, topics: list[str], value: bytes = b"") -> list[Any]:
        """What Kafka says of a message to each topic."""
        async with self._transaction():
            sent = [await self.producer.send(topic, value, key=b"doctor", partition=0) for topic in topics]
            return [await one for one in sent]

    async def _commit_offsets(self) -> None:
        async with self._transaction():
            offsets = {TopicPartition(self._control, 0): 0}
            await self.producer.send_offsets_to_transaction(offsets, self.layout.control_group)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """One that is given up."""
        await self.producer.begin_transaction()
        try:
            yield
        except kafka_errors.KafkaError:
            # aiokafka keeps the error for a commit too, and complains where none comes to be told.
            ended = self.producer._txn_manager.wait_for_transaction_end()
            if ended.done():
                ended.exception()
            raise
        finally:
            await self.producer.abort_transaction()

    async def _unread(self, topics: list[str]) -> list[str]:
        return [topic for topic in topics if not await _allowed(self._read([topic]))]

    async def _read(self, topics: list[str]) -> None:
        """Until their leaders have answered, or one refuses."""
        partitions = [TopicPartition(topic, 0) for topic in topics]
        async with started(self.connection, self.connection.consumer(fetch_max_wait_ms=_READ_MS)) as consumer:
            consumer.assign(partitions)
            await consumer.seek_to_end()
            while any(consumer.highwater(partition) is None for partition in partitions):
                await consumer.getmany(timeout_ms=_READ_MS)

    async def _held_back(self) -> dict[str, int]:
        """The offsets up to which topics can be read that have more behind."""
        ends = await self._ends("read_uncommitted")
        return {topic: end for topic, end in (await self._ends("read_committed")).items() if end < ends[topic]}

    async def _ends(self, isolation_level: str) -> dict[str, int]:
        partitions = [TopicPartition(self.layout.name(topic), 0) for topic in KEPT_BY_LEADER]
        async with started(self.connection, self.connection.consumer(isolation_level=isolation_level)) as consumer:
            return {at.topic: end for at, end in (await consumer.end_offsets(partitions)).items()}

    async def _delete_nothing(self, topic: str) -> None:
        """Of what is older than all that there ever was."""
        await self.admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=0)})


async def _allowed(tried: Awaitable[object]) -> bool:
    try:
        await tried
    except (kafka_errors.TopicAuthorizationFailedError, kafka_errors.GroupAuthorizationFailedError):
        return False
    return True
