"""The log in Kafka: topics of one cluster, written by one leader in transactions, read by anyone.

A commit is durable when it returns: every message is acknowledged by all replicas in sync, and readers see committed
transactions only. The topics must be there, see ``broker.log.kafka.topics``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import structlog

from broker.log.codec import decision_from_text, endpoint_from_text, state_from_text, whole_step_from_text
from broker.log.kafka.client import Connection
from broker.log.kafka.history import write_history
from broker.log.kafka.leadership import ControlGroup
from broker.log.kafka.messages import Found, Lease, record_from, timestamp_ms
from broker.log.kafka.reader import Reader
from broker.log.kafka.state import newest_lease, rebuild
from broker.log.kafka.topics import RECORDS, Layout
from broker.log.kafka.trimming import empty, trim
from broker.log.kafka.writer import KafkaWriter, Terms
from broker.log.rules import not_leading
from broker.model.errors import LeadershipRefused, LogDamaged, LogError
from broker.model.plan import Decision
from broker.model.ports import Checkpoint, Epoch, Log, StepRecord
from broker.model.replica import EndpointRecord
from broker.model.spec import JsonValue

logger = structlog.get_logger("broker")

STAND_BY_POLL_S = 0.5
"""How often a broker that stands by looks at the lease: one that has not moved for its length needs no more waiting."""


@dataclass(frozen=True, slots=True)
class Leading:
    """``lease``: the last that was written. ``commit_age_s``: since its transaction began."""

    lease: Lease
    commit_age_s: float


class KafkaLog:
    """The ``Log`` port over the topics of ``layout``. Without ``acquire_leadership`` it only reads, which may be done
    while another process leads; the constructor touches nothing.

    ``stand_by``: told once who leads, if another does; ``acquire_leadership`` then waits for its turn. None: it is
    refused. ``session_s``: a leader silent for this long is taken for dead.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        *,
        terms: Terms | None = None,
        session_s: float = 6.0,
        stand_by: Callable[[str], None] | None = None,
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._terms = terms or Terms()
        self._session_s = session_s
        self._stand_by = stand_by
        self._reader = Reader(connection, layout, self._terms.patience_s)
        self._leading: tuple[ControlGroup, KafkaWriter, Epoch] | None = None
        self._restored: Checkpoint | None = None

    def __str__(self) -> str:
        return f"the log in Kafka at {self._connection} ({self._layout.prefix})"

    def reader(self) -> KafkaLog:
        return KafkaLog(self._connection, self._layout, terms=self._terms)

    async def acquire_leadership(self, holder: str) -> Epoch:
        epoch = await self._lead(holder)
        if self._writer().lease.importing:
            await self.close()
            raise self._unfinished()
        return epoch

    async def receive(self, source: Log, epoch: int, moved: Callable[[int], None]) -> None:
        """Move ``source``, which nobody else leads, into this log, where no broker has begun: state, steps,
        checkpoints, decisions and registry. The next term of leadership follows ``epoch``. An import that did not end
        is done again from the start. ``moved`` is told the number of each step.

        Raises ``LeadershipRefused`` while a broker leads this log, and ``LogError``.
        """
        last, registry = await source.load(), await source.endpoints()
        if not last.number:
            raise LogError("there is not one step in the log that is to be moved: begin without it")
        await self._lead("tidegate state import")
        writer = self._writer()
        await writer.write(lambda ledger: ledger.begin_import())
        await empty(self._connection, self._layout, self._reader)
        await write_history(writer, source, moved)
        await writer.write(lambda ledger: ledger.end_import(last, registry, epoch))

    async def _lead(self, holder: str) -> Epoch:
        if self._leading is not None:
            return self._leading[2]
        while (leading := await self._taken_over(holder)) is None:
            pass
        self._leading = leading
        return leading[2]

    async def _taken_over(self, holder: str) -> tuple[ControlGroup, KafkaWriter, Epoch] | None:
        """None if it is to stand by again: after a pause of Kafka the leader and the next in line may both be told that
        they own the partition, and the later of their producers ends the other."""
        seen, seen_at = await newest_lease(self._reader, "lease"), time.monotonic()
        group = ControlGroup(self._connection, self._layout, self._session_s)
        await group.join()
        try:
            if not group.owns:
                seen, seen_at = await self._turn(group, seen, seen_at)
            writer = KafkaWriter(self._connection, self._layout, self._terms, group, self._reader)
            try:
                self._restored = await writer.take_over(holder, seen, seen_at)
            except LeadershipRefused as refusal:
                if self._stand_by is None:
                    raise
                logger.warning("take_over_overtaken", problem=str(refusal), action="this broker stands by again")
                await group.leave()
                return None
        except BaseException:
            await group.leave()
            raise
        return group, writer, Epoch(writer.lease.epoch, holder)

    def may_act(self) -> bool:
        return self._leading is not None and self._leading[1].holds_lease()

    def leading(self) -> Leading | None:
        """How this broker leads, None if it does not."""
        if self._leading is None:
            return None
        writer = self._leading[1]
        return Leading(writer.lease, writer.commit_age_s())

    async def load(self) -> Checkpoint:
        if self._restored is not None and self._leading is not None:
            if self._leading[1].lease.step == self._restored.number:
                return self._restored
            self._restored = None
        rebuilt, checkpoint = await rebuild(self._reader, least_end=await self._least_end("state"))
        if rebuilt.lease.importing:
            raise self._unfinished()
        return checkpoint

    async def commit(self, record: StepRecord) -> None:
        await self._writer().write(lambda ledger: ledger.step(record))

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._writer().write(lambda ledger: ledger.checkpoint(checkpoint))

    async def checkpoints(self) -> AsyncIterator[Checkpoint]:
        last = -1
        async for found in self._reader.forwards("checkpoints", least_end=await self._least_end("checkpoints")):
            if (number := found.step or 0) > last:  # the same step may have been kept twice, and is the same state
                yield await asyncio.to_thread(_checkpoint, found)
                last = number

    async def checkpoint_before(self, now: float) -> Checkpoint | None:
        least_end = await self._least_end("checkpoints")
        found = await self._reader.newest_before(
            "checkpoints", timestamp_ms(now) + 1, lambda kept: _time_of(kept) < now, least_end=least_end
        )
        return None if found is None else await asyncio.to_thread(_checkpoint, found)

    async def steps(self, after: int = 0) -> AsyncIterator[StepRecord]:
        least_end = await self._least_end("observations")
        first = await self._reader.sought("observations", lambda found: (found.step or 0) <= after, least_end=least_end)
        last = after
        async for found in self._reader.forwards("observations", first=first, least_end=least_end):
            step = found.step or 0
            if step <= after:
                continue
            if last > after and step != last + 1:
                raise LogDamaged(f"step {last + 1} is missing: after {last} comes {step}")
            yield found.decoded("step", whole_step_from_text)
            last = step

    async def decisions(self, model_id: str | None = None, *, since: float = 0.0, limit: int = 100) -> list[Decision]:
        decisions: list[Decision] = []
        least_end = await self._least_end("decisions")
        async for found in self._reader.backwards("decisions", least_end=least_end):
            if found.at_ms < timestamp_ms(since) or len(decisions) >= limit:
                break
            if model_id is not None and found.key != model_id.encode():
                continue
            decision = found.decoded("decision", decision_from_text)
            if decision.now >= since:
                decisions.append(decision)
        return decisions

    async def endpoints(self) -> list[EndpointRecord]:
        """The registry after the last step, by endpoint id, tombstones left out."""
        live: dict[bytes, Found] = {}
        async for found in self._reader.forwards("endpoints", least_end=await self._least_end("endpoints")):
            key = found.key or b""
            live.pop(key, None)
            if found.value is not None:
                live[key] = found
        return [live[key].decoded("endpoint", endpoint_from_text) for key in sorted(live)]

    async def append(self, topic: str, records: Sequence[JsonValue]) -> None:
        writer = self._writer()
        _require_records(topic)
        if records:
            await writer.write(lambda ledger: ledger.records(topic, records))

    async def records(self, topic: str) -> AsyncIterator[JsonValue]:
        """Those of each partition in their order, one partition after the other."""
        _require_records(topic)
        for partition in range(await self._reader.partitions(topic)):
            least_end = await self._least_end(topic, partition)
            async for found in self._reader.forwards(topic, partition, least_end=least_end):
                yield record_from(found)

    async def trim(self, before: float) -> None:
        self._writer()
        await trim(self._connection, self._layout, self._reader, before)

    async def close(self) -> None:
        if self._leading is not None:
            (group, writer, _), self._leading = self._leading, None
            await writer.close()
            await group.leave()
        await self._reader.close()

    async def _turn(self, group: ControlGroup, seen: Lease, seen_at: float) -> tuple[Lease, float]:
        """Wait until this broker owns the partition; the last lease, and when it was first seen. Raises
        ``LeadershipRefused`` if nobody is to be told that this one stands by."""
        if self._stand_by is None:
            raise LeadershipRefused(
                f"{self} is led by {seen}. One broker leads: stop that one first, or let this one stand by"
            )
        self._stand_by(str(seen) if seen.epoch else "a broker that takes the lead just now")
        while not group.owns:
            await asyncio.sleep(STAND_BY_POLL_S)
            try:
                lease = await newest_lease(self._reader, "lease")
            except LogError:
                continue
            if lease != seen and lease.epoch >= seen.epoch:  # a log that was emptied is found out once we lead
                seen, seen_at = lease, time.monotonic()
        return seen, seen_at

    def _unfinished(self) -> LogError:
        return LogError(f"{self} holds a part of another log: its import did not end, do `tidegate state import` again")

    def _writer(self) -> KafkaWriter:
        if self._leading is None:
            raise not_leading()
        return self._leading[1]

    async def _least_end(self, topic: str, partition: int = 0) -> int:
        """Where the leader's own messages end, which a server that is asked at once may not know yet."""
        if self._leading is None:
            return 0
        writer = self._leading[1]
        await writer.certain()
        return writer.ends.get((topic, partition), 0)


def _require_records(topic: str) -> None:
    if topic not in RECORDS:
        raise LogError(f"the log has no topic {topic!r} for records; there are {', '.join(RECORDS)}")


def _checkpoint(found: Found) -> Checkpoint:
    return Checkpoint(found.step or 0, _time_of(found), found.decoded("checkpoint", state_from_text))


def _time_of(checkpoint: Found) -> float:
    return float(checkpoint.headers["now"])
