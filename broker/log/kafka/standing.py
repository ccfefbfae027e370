"""How those who share a site's topics get on, by what Kafka says of their groups."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.log.kafka.admin import KafkaAdmin, Shares, opened
from broker.log.kafka.client import Connection
from broker.log.kafka.dead_letters import DEAD_LETTERS, SOURCES, letter_from
from broker.log.kafka.reader import Reader
from broker.log.kafka.retrying import retried
from broker.log.kafka.topics import Layout

ASKED_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Standing:
    """``lag``: messages that workers have still to read, by topic. ``members``: how many each group has."""

    lag: Mapping[str, int]
    members: Mapping[str, int]


class GroupWatch:
    """``latest`` is None while Kafka does not tell. Since the watch began, ``rebalances`` counts, by group, how often
    its partitions were found shared otherwise than before, and ``dead_letters`` those that came."""

    def __init__(self, connection: Connection, layout: Layout) -> None:
        self.latest: Standing | None = None
        self.rebalances: Final = Counter[str]()
        self.dead_letters = 0
        self._connection = connection
        self._layout = layout
        self._groups = {"brokers": layout.control_group, "workers": layout.workers_group}
        self._shares: dict[str, Shares] = {}
        self._letters_read_to: int | None = None

    async def run(self) -> None:
        """For ever."""
        await retried("groups_not_asked", self._watch)

    async def _watch(self) -> None:
        reader = Reader(self._connection, self._layout)
        try:
            async with opened(self._connection) as admin:
                while True:
                    self.latest = await self._asked(admin, reader)
                    await self._count_letters(reader)
                    await asyncio.sleep(ASKED_EVERY_S)
        finally:
            self.latest = None
            await reader.close()

    async def _asked(self, admin: KafkaAdmin, reader: Reader) -> Standing:
        for name, group in self._groups.items():
            shares = await admin.shares(group)
            if shares is not None:
                self.rebalances[name] += self._shares.get(name, shares) != shares
                self._shares[name] = shares
        read_to = await admin.read_to(self._layout.workers_group)
        lag = {topic: await self._lag(reader, topic, read_to) for topic in SOURCES}
        members = {name: len(shares) for name, shares in self._shares.items()}
        return Standing(lag, members)

    async def _count_letters(self, reader: Reader) -> None:
        end = await reader.end(DEAD_LETTERS)
        first = end if self._letters_read_to is None else self._letters_read_to
        async for record in reader.forwards(DEAD_LETTERS, first=first, end=end):
            letter = letter_from(record, self._layout)
            self.dead_letters += letter is not None and letter.retried_at is None
        self._letters_read_to = end

    async def _lag(self, reader: Reader, topic: str, read_to: Mapping[tuple[str, int], int]) -> int:
        """Where nothing was read yet, all that there is."""
        lag = 0
        for partition in range(await reader.partitions(topic)):
            read = read_to.get((self._layout.name(topic), partition))
            if read is None:
                read = await reader.begin(topic, partition)
            lag += max(0, await reader.end(topic, partition) - read)
        return lag
