"""Topics of which only what comes, and a moment before it, matters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka.structs import TopicPartition

from broker.log.kafka.client import Connection, started, translated
from broker.log.kafka.messages import timestamp_ms
from broker.log.kafka.topics import TOPICS, Layout

_POLL_MS = 1000


async def follow(
    connection: Connection, layout: Layout, topics: Sequence[str], take: Callable[[Sequence[Any]], Awaitable[None]],
    since: float,
) -> None:  # fmt: skip
    """For ever: give ``take`` the messages (aiokafka's ``ConsumerRecord``) that Kafka got at ``since`` or later, as
    many of a partition at a time as there are. Raises ``LogError``."""
    places = [
        TopicPartition(layout.name(topic), number)
        for topic in topics
        for number in range(TOPICS[topic].partitions(layout))
    ]
    async with started(connection, connection.consumer()) as consumer:
        with translated(connection):
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            first = await consumer.offsets_for_times(dict.fromkeys(places, timestamp_ms(since)))
            for place in places:
                consumer.seek(place, ends[place] if first[place] is None else first[place].offset)
        while True:
            with translated(connection):
                page = await consumer.getmany(timeout_ms=_POLL_MS)
            for records in page.values():
                await take(records)
