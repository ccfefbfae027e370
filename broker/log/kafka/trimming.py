"""Forgetting what is old, but nothing that a replay from the newest older checkpoint needs."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from broker.log.kafka.client import Connection, started, translated
from broker.log.kafka.messages import timestamp_ms
from broker.log.kafka.reader import Reader
from broker.log.kafka.topics import RECORDS, Layout


async def trim(connection: Connection, layout: Layout, reader: Reader, before: float) -> None:
    """Have Kafka delete the messages before the time ``before``. Compacted topics forget by themselves. Raises
    ``LogError``."""
    cuts: dict[TopicPartition, RecordsToDelete] = {}

    async def cut_before(topic: str, partition: int, at_ms: int, step: int) -> None:
        """What was written before ``step``, which is of time ``at_ms``."""
        first = await reader.since(topic, at_ms, partition)
        cut = end = await reader.end(topic, partition)
        if first is not None:
            async for found in reader.forwards(topic, partition, first=first, end=end):
                if found.step is None or found.step >= step:
                    cut = found.offset
                    break
        if cut > await reader.begin(topic, partition):
            cuts[TopicPartition(layout.name(topic), partition)] = RecordsToDelete(before_offset=cut)

    before_ms = timestamp_ms(before)
    older = await reader.newest_before("observations", before_ms)
    if older is not None:
        for topic in RECORDS:
            for partition in range(await reader.partitions(topic)):
                await cut_before(topic, partition, older.at_ms, older.step or 0)
    base = await reader.newest_before("checkpoints", before_ms)
    if base is not None:
        await cut_before("checkpoints", 0, base.at_ms, base.step or 0)
        for topic in ("observations", "decisions"):
            await cut_before(topic, 0, base.at_ms, (base.step or 0) + 1)
    await _delete(connection, cuts)


async def empty(connection: Connection, layout: Layout, reader: Reader) -> None:
    """Have Kafka delete every step, checkpoint and decision. Raises ``LogError``."""
    places = {topic: TopicPartition(layout.name(topic), 0) for topic in ("checkpoints", "observations", "decisions")}
    await _delete(connection, {at: RecordsToDelete(await reader.end(topic)) for topic, at in places.items()})


async def _delete(connection: Connection, cuts: Mapping[TopicPartition, RecordsToDelete]) -> None:
    if cuts:
        async with started(connection, connection.admin()) as admin:
            with translated(connection):
                await admin.delete_records(cuts)
