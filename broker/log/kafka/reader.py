"""Reading topics: forwards page by page, and backwards from the end in growing windows. Committed messages only.

One consumer serves all reads of a log, one page at a time, so that an iterator that somebody forgot holds nothing. Its
partitions are paused while nobody reads them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import structlog
from aiokafka.structs import TopicPartition

from broker.log.kafka.client import Connection, start, stop, translated
from broker.log.kafka.messages import Found, Joiner
from broker.log.kafka.topics import KEPT_BY_LEADER, TOPICS, Layout
from broker.model.errors import LogError, LogUnreachable

logger = structlog.get_logger("broker")

FIRST_WINDOW = 16
"""Offsets read first when the newest messages are sought; each further window is four times as long, up to the last,
which may hold a few hundred megabytes where steps are large."""
LAST_WINDOW = 256
_WINDOW_GROWTH = 4
_FEW = 64
"""Offsets among which it is quicker to read on than to halve them again."""
_PAGE_BYTES = 2**17
"""Read at once of a partition. A worker that took over eight with pages of a megabyte and more kept 10 MB more of
memory, and was no sooner done."""
_FETCH_WAIT_MS = 10
"""How long a server holds a request for more at the end of a partition: the next read waits for it."""
_POLL_MS = 20
PATIENCE_S = 10.0


class Reader:
    """Reads the topics of one cluster. ``patience_s``: how long to wait for a page before ``LogUnreachable``."""

    def __init__(self, connection: Connection, layout: Layout, patience_s: float = PATIENCE_S) -> None:
        self._connection = connection
        self._layout = layout
        self._patience_s = patience_s
        self._consumer: Any = None
        self._lock = asyncio.Lock()
        self._foreign: set[str] = set()
        self._unreadable: set[str] = set()

    async def close(self) -> None:
        async with self._lock:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                await stop(consumer)

    async def forwards(
        self, topic: str, partition: int = 0, first: int | None = None, end: int | None = None, least_end: int = 0
    ) -> AsyncIterator[Found]:
        """Messages from offset ``first`` on (by default the oldest), up to ``end``, by default where the partition ends
        now, and at least to ``least_end``: a server may not know yet what was committed a moment ago."""
        at = first if first is not None else await self.begin(topic, partition)
        upto = end if end is not None else max(await self.end(topic, partition), least_end)
        joiner = Joiner()
        while at < upto:
            records, at = await self._page(topic, partition, at, upto)
            for record in records:
                if (found := self._whole(topic, joiner, record)) is not None:
                    yield found

    async def backwards(self, topic: str, *, end: int | None = None, least_end: int = 0) -> AsyncIterator[Found]:
        """Messages of a topic of one partition, the newest first. ``end``, ``least_end`` as above."""
        upto = end if end is not None else max(await self.end(topic), least_end)
        begin = await self.begin(topic)
        window = FIRST_WINDOW
        joiner = Joiner()
        while upto > begin:
            first = max(begin, upto - window)
            records = []
            at = first
            while at < upto:
                page, at = await self._page(topic, 0, at, upto)
                records += page
            for record in reversed(records):
                if (found := self._whole(topic, joiner, record)) is not None:
                    yield found
            upto, window = first, min(window * _WINDOW_GROWTH, LAST_WINDOW)

    async def sought(self, topic: str, earlier: Callable[[Found], bool], *, least_end: int = 0) -> int:
        """An offset shortly before the first message that is not ``earlier``, found by halving; all that are lie before
        all that are not."""
        low, high = await self.begin(topic), max(await self.end(topic), least_end)
        while high - low > _FEW:
            middle = (low + high) // 2
            found = await anext(self.forwards(topic, first=middle, end=high), None)
            if found is not None and earlier(found):
                low = found.offset
            else:
                high = middle
        return low

    async def newest_before(
        self, topic: str, before_ms: int, fits: Callable[[Found], bool] = lambda found: True, *, least_end: int = 0
    ) -> Found | None:
        """The last message with a timestamp below ``before_ms`` that ``fits``."""
        first = await self.since(topic, before_ms)
        newest = None
        if first is not None:
            async for found in self.forwards(topic, first=first, least_end=least_end):
                if found.at_ms >= before_ms:
                    break
                newest = found if fits(found) else newest
        if newest is None:
            async for found in self.backwards(topic, end=first, least_end=least_end):
                if fits(found):
                    return found
        return newest

    async def begin(self, topic: str, partition: int = 0) -> int:
        """The oldest offset that is kept."""
        at = self._place(topic, partition)
        async with self._lock:
            consumer = await self._started()
            with translated(self._connection):
                offsets = await consumer.beginning_offsets([at])
        return int(offsets[at])

    async def end(self, topic: str, partition: int = 0) -> int:
        """The offset behind the last committed message, as far as the server knows."""
        at = self._place(topic, partition)
        async with self._lock:
            consumer = await self._started()
            with translated(self._connection):
                offsets = await consumer.end_offsets([at])
        return int(offsets[at])

    async def since(self, topic: str, at_ms: int, partition: int = 0) -> int | None:
        """An offset before which everything is older than ``at_ms``; None if everything is.

        What follows may be older too: the marks that end transactions are stamped by the nodes' clocks."""
        at = self._place(topic, partition)
        async with self._lock:
            consumer = await self._started()
            with translated(self._connection):
                offsets = await consumer.offsets_for_times({at: max(0, at_ms)})
        found = offsets[at]
        return None if found is None else int(found.offset)

    async def partitions(self, topic: str) -> int:
        async with self._lock:
            consumer = await self._started()
            return len(consumer.partitions_for_topic(self._layout.name(topic)))

    def _whole(self, topic: str, joiner: Joiner, record: Any) -> Found | None:
        """What others put among the leader's messages is left out: one of them would keep every broker from leading."""
        found = joiner.whole(record)
        if found is None or found.marks:
            return None
        if found.ours or topic not in KEPT_BY_LEADER:
            return found
        if topic not in self._foreign:
            self._foreign.add(topic)
            logger.warning(
                "foreign_messages_left_out", topic=self._layout.name(topic), offset=found.offset,
                action="let nobody but the brokers write to this topic",
            )  # fmt: skip
        return None

    def _tell_unlike(self, partitions: Mapping[str, Collection[int]]) -> None:
        """Kafka never takes partitions back, and a broker can do with others: it names the one that it writes to."""
        for topic in TOPICS.values():
            name, wanted = self._layout.name(topic.name), topic.partitions(self._layout)
            if (found := len(partitions[name])) != wanted:
                logger.warning(
                    "topic_partitions_differ", topic=name, partitions=found, wanted=wanted,
                    action="`tidegate topics check` says what mends it",
                )  # fmt: skip

    def _place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._layout.name(topic), partition)

    async def _page(self, topic: str, partition: int, first: int, upto: int) -> tuple[list[Any], int]:
        """Some records from ``first`` on that lie before ``upto``, and where to go on."""
        at = self._place(topic, partition)
        async with self._lock:
            consumer = await self._started()
            with translated(self._connection):
                consumer.seek(at, first)
                consumer.resume(at)
                try:
                    return await self._read(consumer, at, first, upto)
                finally:
                    consumer.pause(at)

    async def _read(self, consumer: Any, at: TopicPartition, first: int, upto: int) -> tuple[list[Any], int]:
        deadline, most = time.monotonic() + self._patience_s, None
        while True:
            try:
                found = (await consumer.getmany(at, timeout_ms=_POLL_MS, max_records=most)).get(at, ())
            except UnicodeDecodeError as error:
                if most is None:  # what lies before it is read one by one
                    most = 1
                    consumer.seek(at, first)
                    continue
                self._tell_unreadable(at.topic, first, error)
                return [], first + 1
            position = await consumer.position(at)
            if found or position > first:
                return [record for record in found if record.offset < upto], position
            if time.monotonic() > deadline:
                if (consumer.highwater(at) or 0) > position >= (consumer.last_stable_offset(at) or 0):
                    raise LogUnreachable(
                        f"Kafka at {self._connection} holds back what was committed to {at.topic} from offset "
                        f"{position} on: a transaction there does not end; `tidegate doctor kafka` says what to do"
                    )
                raise TimeoutError(f"no answer about {at.topic} within {self._patience_s:g} s")

    def _tell_unreadable(self, topic: str, offset: int, error: UnicodeDecodeError) -> None:
        if topic not in self._unreadable:
            self._unreadable.add(topic)
            logger.warning(
                "messages_passed_over", topic=topic, offset=offset, problem=f"a header's name is not UTF-8: {error}",
                action="let whoever wrote it name its headers in UTF-8; what lies behind it in its batch is lost too",
            )  # fmt: skip

    async def _started(self) -> Any:
        """The consumer, with every partition assigned and paused. Raises ``LogError`` if a topic is missing."""
        if self._consumer is None:
            consumer = self._connection.consumer(
                fetch_max_wait_ms=_FETCH_WAIT_MS, max_partition_fetch_bytes=_PAGE_BYTES
            )
            await start(self._connection, consumer)
            try:
                places = await self._all_places(consumer)
            except BaseException:
                await stop(consumer)
                raise
            consumer.assign(places)
            consumer.pause(*places)
            self._consumer = consumer
        return self._consumer

    async def _all_places(self, consumer: Any) -> list[TopicPartition]:
        with translated(self._connection):
            known = await consumer.topics()
        missing = [self._layout.name(topic) for topic in TOPICS if self._layout.name(topic) not in known]
        if missing:
            raise LogError(
                f"Kafka at {self._connection} lacks the topics {', '.join(missing)}: make them with `tidegate topics "
                "init`"
            )
        names = [self._layout.name(topic) for topic in TOPICS]
        consumer.assign([TopicPartition(name, 0) for name in names])  # makes it ask how many partitions there are
        with translated(self._connection):
            async with asyncio.timeout(self._patience_s):
                while True:
                    partitions = {name: consumer.partitions_for_topic(name) for name in names}
                    if None not in partitions.values():
                        self._tell_unlike(partitions)
                        return [TopicPartition(name, at) for name in names for at in sorted(partitions[name])]
                    await asyncio.sleep(_POLL_MS / 1e3)
