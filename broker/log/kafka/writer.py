"""The leader's pen: all that waits at once is written in one transaction, with the lease in each.

What a lost connection leaves uncertain is never guessed. The broken producer is thrown away; before the next write the
log is read up to a marker of our own, and says what became of the last transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from broker.log.kafka.client import Connection, abandon, cause_of, look_at, start, stop, translated
from broker.log.kafka.leadership import ControlGroup
from broker.log.kafka.ledger import Ledger
from broker.log.kafka.messages import (
    NOBODY,
    Lease,
    Message,
    ending_messages,
    lease_messages,
    marker_message,
    parts,
    timestamp_ms,
)
from broker.log.kafka.reader import Reader
from broker.log.kafka.state import newest_lease, rebuild
from broker.log.kafka.topics import Layout
from broker.log.waiting import BATCH, Waiting, fresh_copy, settle
from broker.model.errors import LeadershipRefused, LogDamaged, LogError, LogUnreachable, WireError
from broker.model.ports import Checkpoint

logger = structlog.get_logger("broker")

RENEWALS_PER_LEASE = 4
"""How often a lease is renewed while nothing else is written."""
INTERRUPTED_S = 1.0
"""A transaction that took this long may have outlived a start of Kafka, which takes longer."""
_BATCH_BYTES = 2**19
_MESSAGES_PER_TURN = 200
"""Sent before others may use the event loop: a step of a large site has ten thousand."""


@dataclass(frozen=True, slots=True)
class Terms:
    """``lease_s``: how long after a commit its writer may act. ``patience_s``: how long a transaction may take."""

    lease_s: float = 5.0
    patience_s: float = 10.0


@dataclass(slots=True, eq=False, kw_only=True)
class _Write(Waiting):
    """``work`` makes the messages of the ledger that they are written after."""

    work: Callable[[Ledger], list[Message]]


class KafkaWriter:
    """Owns the transactional producer of one term of leadership, from ``take_over`` to ``close``."""

    def __init__(
        self, connection: Connection, layout: Layout, terms: Terms, group: ControlGroup, reader: Reader
    ) -> None:
        self.ends: dict[tuple[str, int], int] = {}
        """The offset behind the last message that was committed, by topic and partition."""
        self._connection = connection
        self._layout = layout
        self._terms = terms
        self._group = group
        self._reader = reader
        self._producer: Any = None
        self._interrupted = False
        self._ledger = Ledger()
        self._unsure: Ledger | None = None
        self._deposed = False
        self._successor = NOBODY
        self._committed_at = float("-inf")
        self._waiting: list[_Write] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def lease(self) -> Lease:
        return self._ledger.lease

    def holds_lease(self) -> bool:
        """Whether this broker may act: for so long after its last commit no successor does."""
        return not self._deposed and self.commit_age_s() < self._terms.lease_s

    def commit_age_s(self) -> float:
        """Since the last transaction that was committed began."""
        return time.monotonic() - self._committed_at

    async def take_over(self, holder: str, seen: Lease, seen_at: float) -> Checkpoint:
        """Depose whoever leads, read the state, and begin a term once the old lease is over; returns the state.

        ``seen``: the last lease as it was read before, at monotonic time ``seen_at``: unless a later one was written,
        it ends by that. Raises ``LogError``.
        """
        try:
            async with self._bounded():
                marker = await self._open(holder)
            fenced_at = time.monotonic()
            rebuilt, restored = await rebuild(self._reader, end=marker)
            logger.info(
                "state_rebuilt",
                step=restored.number,
                entities=len(rebuilt.found),
                messages=rebuilt.messages,
                size_bytes=rebuilt.size_bytes,
                took_s=round(time.monotonic() - fenced_at, 3),
            )
            old = rebuilt.lease
            self._require_kept(old, seen)
            deposed = old.epoch > 0 and not old.released
            if deposed:
                written_at = seen_at if old == seen else fenced_at
                await asyncio.sleep(written_at + self._terms.lease_s - time.monotonic())
            self._ledger = rebuilt.ledger()
            self._ledger.lease = replace(
                old, epoch=old.epoch + 1, holder=holder, transaction=0, released=False,
                depositions=old.depositions + deposed,
            )  # fmt: skip
            began = time.monotonic()
            async with self._bounded():
                await self._transact(list(lease_messages(self.lease)))
        except BaseException:
            await self._abandon_producer()
            raise
        self._committed_at = began
        self._group.leads_since(self.lease.epoch)
        self._task = asyncio.create_task(self._run(), name="kafka-writer")
        return restored

    async def write(self, work: Callable[[Ledger], list[Message]]) -> None:
        """Returns once what ``work`` makes is committed. If it raises, nothing of it is kept, and the writes beside it
        are. Raises ``LogUnreachable`` where it is not known; the next write finds out first.

        Cancelled while waiting, it may have been written or not.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(future=future, work=work))
        self._news.set()
        await future

    async def certain(self) -> None:
        """Returns once it is known what became of everything. Raises ``LogError``."""
        if self._deposed or self._producer is None:
            await self.write(lambda ledger: [])

    async def close(self) -> None:
        """Finish what was asked for, let the lease go, and leave the group."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while self._waiting:
            await self._write_batch(self._take())
        self._committed_at = float("-inf")
        if self._producer is not None:
            with contextlib.suppress(LogError):
                async with self._bounded():
                    await self._transact(list(lease_messages(replace(self.lease, released=True))))
            await stop(self._producer)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._deposed else self._terms.lease_s / RENEWALS_PER_LEASE):
                    await self._news.wait()
            await asyncio.sleep(0)  # what is asked for in the same turn of the event loop goes together
            writing = asyncio.create_task(self._write_batch(self._take()))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise

    def _take(self) -> list[_Write]:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        if not self._waiting:
            self._news.clear()
        return batch

    async def _write_batch(self, batch: list[_Write]) -> None:
        """One transaction; an empty batch renews the lease."""
        try:
            await self._write_together(batch)
        except Exception as error:
            for write in batch:
                write.error = write.error or fresh_copy(error)
        settle(batch)

    async def _write_together(self, batch: list[_Write]) -> None:
        if self._deposed:
            raise await self._refusal()
        if self._producer is None:
            await self._reopen()
        draft = self._ledger.copy()
        messages = await asyncio.to_thread(_messages, batch, draft)
        if batch and not messages:
            return
        draft.lease = replace(draft.lease, transaction=draft.lease.transaction + 1)
        began = time.monotonic()
        try:
            async with self._bounded():
                await self._transact([*messages, *lease_messages(draft.lease)])
        except LeadershipRefused:
            raise await self._depose() from None
        except BaseException:
            self._unsure = draft
            await self._abandon_producer()
            raise
        self._ledger = draft
        self._committed_at = began

    async def _reopen(self) -> None:
        """Go on after a failure, if this broker still may: learn what became of the last transaction. Raises
        ``LogError``."""
        newest = await newest_lease(self._reader, "lease")
        self._require_kept(newest, self.lease)
        if not self._group.owns or newest.epoch != self.lease.epoch:
            raise await self._depose()
        try:
            async with self._bounded():
                marker = await self._open(self.lease.holder)
                lease = await newest_lease(self._reader, "state", end=marker)
        except LeadershipRefused:
            # By another broker, or by a request of our own that was given up as Kafka died: the lease tells which.
            await self._abandon_producer()
            raise LogUnreachable(
                f"Kafka at {self._connection} took another producer than this broker's newest: who leads is found out "
                "before the next write"
            ) from None
        except BaseException:
            await self._abandon_producer()
            raise
        if lease.epoch != self.lease.epoch:  # another led meanwhile, and is deposed by us now: neither goes on
            raise await self._depose()
        for ledger in (self._ledger, self._unsure):
            if ledger is not None and ledger.lease.step == lease.step:
                self._ledger, self._unsure = ledger, None
                return
        await self._abandon_producer()
        raise LogDamaged(f"the log ends at step {lease.step}, where this broker wrote {self.lease.step}: start it anew")

    def _require_kept(self, found: Lease, known: Lease) -> None:
        """Epochs never fall. Whoever took an emptied log for a new one would know nothing of the replicas that run, and
        start others beside them. Raises ``LogDamaged``."""
        if found.epoch < known.epoch:
            raise self._lost(f"it is of {found}, and was of {known}")

    def _require_further(self, written: Sequence[tuple[str, Any]]) -> None:
        """Nor do offsets, which tells of a topic that was made anew under a producer's hands. Raises ``LogDamaged``."""
        for topic, record in written:
            if record.offset < (known := self.ends.get((topic, record.partition), 0)):
                raise self._lost(f"topic {topic} ends at {record.offset}, and did at {known}")

    def _lost(self, how: str) -> LogDamaged:
        return LogDamaged(
            f"the log in Kafka at {self._connection} ({self._layout.prefix}) has lost what it held: {how}. Its topics "
            "were emptied or made anew: bring them back, or import a backup by `tidegate state import` while no broker "
            "runs"
        )

    async def _open(self, holder: str) -> int:
        """A new producer, which deposes every earlier one, with a marker written; returns the marker's offset, before
        which all is decided that they wrote."""
        producer = self._connection.producer(
            transactional_id=self._layout.transactional_id,
            transaction_timeout_ms=round(2e3 * self._terms.patience_s),
            max_batch_size=min(_BATCH_BYTES, self._layout.message_bytes // 2),
            max_request_size=self._layout.message_bytes,
        )
        await start(self._connection, producer)
        self._producer, self._interrupted = producer, True
        ends = await self._transact([marker_message(holder)])
        return ends["state", 0]

    async def _transact(self, messages: Sequence[Message]) -> dict[tuple[str, int], int]:
        """Returns the offsets behind the messages by topic and partition. An error before the commit was asked for is
        known not to have written anything, but is treated like one after it: there is one way to go on."""
        producer, began = self._producer, time.monotonic()
        if self._interrupted:
            messages = [*ending_messages(), *messages]
        sent: list[tuple[str, asyncio.Future[Any]]] = []
        with translated(self._connection):
            try:
                await producer.begin_transaction()
                producer._txn_manager.wait_for_transaction_end().add_done_callback(look_at)
                for place, message in enumerate(messages):
                    if place % _MESSAGES_PER_TURN == 0:
                        await asyncio.sleep(0)
                    for value, headers in parts(message, self._layout.message_bytes):
                        future = await producer.send(
                            self._layout.name(message.topic),
                            value=value,
                            key=message.key,
                            partition=message.partition,
                            timestamp_ms=timestamp_ms(message.at),
                            headers=headers,
                        )
                        sent.append((message.topic, future))
                written = [(topic, await future) for topic, future in sent]
                self._require_further(written)
                await producer.commit_transaction()
            except BaseException as error:
                for _, future in sent:
                    future.add_done_callback(look_at)
                raise cause_of(producer, error) from None
        ends = {(topic, record.partition): record.offset + 1 for topic, record in written}
        self.ends |= ends
        self._interrupted = time.monotonic() - began > INTERRUPTED_S
        return ends

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._terms.patience_s):
                yield
        except TimeoutError:
            raise LogUnreachable(
                f"Kafka at {self._connection} did not take a transaction within {self._terms.patience_s:g} s: see that "
                "its nodes run; whether it was written is found out before the next, and the log goes on by itself"
            ) from None

    async def _depose(self) -> LeadershipRefused:
        """Another broker leads: nothing is written any more."""
        self._deposed = True
        await self._abandon_producer()
        return await self._refusal()

    async def _refusal(self) -> LeadershipRefused:
        """In the successor's name, once its lease is written."""
        with contextlib.suppress(LogError):
            if self._successor.epoch <= self.lease.epoch:
                self._successor = await newest_lease(self._reader, "lease")
        log = f"the log in Kafka at {self._connection} ({self._layout.prefix})"
        if self._successor.epoch > self.lease.epoch:
            what = f"{log} has been taken over by {self._successor}, and this broker has epoch {self.lease.epoch}"
        else:
            what = f"{log} is being taken over by another broker, or this one was paused in the middle of a transaction"
        return LeadershipRefused(f"{what}: this broker must stop")

    async def _abandon_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await abandon(producer)


def _messages(batch: list[_Write], draft: Ledger) -> list[Message]:
    """Each write by itself: its failure is its own."""
    messages: list[Message] = []
    for write in batch:
        try:
            messages += write.work(draft)
        except (UnicodeError, OverflowError) as error:
            write.error = WireError(f"cannot be stored: {error}")
        except Exception as error:
            write.error = error
    return messages
