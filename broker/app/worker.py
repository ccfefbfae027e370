"""A worker: owns the windows of some partitions, and tells the broker what they show. What ``tidegate worker`` runs.

What it must know of models it follows from the topic ``state``; measurements come by Faust. Of each model it tells a
snapshot each second, and what is settled (``window-state``) every few seconds. Whoever owns a partition next reads
that and the log's tail since: to keep the samples themselves would be some 50 MB every few seconds at 1,000 samples a
second, to read all that a window of ten minutes looks back on 600,000 messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache

import structlog
from aiokafka.partitioner import DefaultPartitioner

from broker.app.followed_state import FOLLOWED_EVERY_S, FollowedState
from broker.app.loops import PartEnded, run_until
from broker.app.runtime import cancel, window_failed
from broker.clock import SystemClock
from broker.control.decide import Policies
from broker.log.kafka.admin import opened
from broker.log.kafka.client import Connection
from broker.log.kafka.messages import Found, timestamp_ms
from broker.log.kafka.reader import Reader
from broker.log.kafka.retrying import RETRIED_AFTER_S, retried
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import LogError, WireError
from broker.model.window_state import DeadLetter, WindowState
from signals.ingest.partitions import HINTS, Arrived, Opening, OwnedWindows
from signals.ingest.stream import SignalStream, StreamSettings

logger = structlog.get_logger("worker")

CHECKPOINT_EVERY_S = 5.0
LOOKED_EVERY_S = 1.0
"""How often the worker asks itself whether it gets on."""
CLOCKS_TOLD_EVERY_S = 30.0

_AT_A_TIME = 100
"""Messages between two breaths of the event loop while a partition is opened."""
_DEAD_LETTERS_PER_S = 10
_PLACES_KEPT = 10_000
"""Models whose partition is remembered: bounded, since messages may name any."""
_CLOCKS_SHOWN = 5


class Worker:
    """``run`` until ``stop`` is set. ``beat`` is called once a second for as long as the worker gets on: whoever
    watches it ends it when the beats stay out."""

    def __init__(
        self, connection: Connection, layout: Layout, policies: Policies, *, beat: Callable[[], None] = lambda: None
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._partition_of = lru_cache(_PLACES_KEPT)(self._placed)
        self.windows = OwnedWindows(policies, window_failed, self._partition_of)
        self._connection = connection
        self._layout = layout
        self._beat = beat
        self._clock = SystemClock()
        self._reader = Reader(connection, layout)
        self._state_reader = Reader(connection, layout)
        self._followed = FollowedState(self._state_reader)
        self._partitions: list[int] = []
        self._read_to: dict[tuple[str, int], int] = {}
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._kick = asyncio.Event()
        self._letters: list[DeadLetter] = []
        self._unread_letters = 0
        self._paused = False
        settings = StreamSettings(
            group=layout.workers_group,
            topics={name: layout.name(name) for name in HINTS},
            clients=connection.arguments(),
            compression=connection.compression,
        )
        self._stream = SignalStream(settings, self._take, self._assigned, self._revoked)

    async def run(self, stop: asyncio.Event) -> None:
        """Raises ``LogError`` if the cluster or its topics cannot be used, ``PartEnded`` for what nobody foresaw."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._reader.close)
            stack.push_async_callback(self._state_reader.close)
            self._partitions = list(range(await self._reader.partitions("signals")))
            await self._follow()
            await stack.enter_async_context(self._stream.started())
            stack.push_async_callback(lambda: cancel(self._openings.values()))
            await self._follow()  # Faust took seconds to start, in which replicas became ready
            logger.info("worker_ready", worker=self.name, models=len(self._followed.state.models))
            loops = (
                self._following, self._telling, self._settling, self._writing_letters, self._telling_of_clocks,
                self._getting_on,
            )  # fmt: skip
            await run_until(stop, *loops)
            logger.info("worker_stopping", worker=self.name)

    # -- what Faust tells

    def _take(self, arrived: Arrived) -> None:
        self._read_to[arrived.topic, arrived.partition] = arrived.offset + 1
        problem, due = self.windows.take(arrived)
        if problem:
            self._set_aside(arrived, problem)
        if due:
            self._kick.set()

    def _revoked(self) -> None:
        """Until it is known again what is ours, nothing is told: another may tell it already."""
        self._paused = True

    async def _assigned(self, partitions: set[int]) -> Mapping[tuple[str, int], int]:
        """Where to read on: those that stay, where we were, as another may have owned them for a moment; those that
        come, where they end now, as all before is read to open them."""
        gained = self.windows.assign(partitions)
        for partition in list(self._openings.keys() - partitions):
            self._openings.pop(partition).cancel()
        ends: dict[tuple[str, int], int] = {}
        read_to = await self._group_read_to() if gained else {}
        for partition in gained:
            told_to = {topic: read_to.get((self._layout.name(topic), partition), 0) for topic in HINTS}
            opening = self.windows.begin(partition, self._followed.changed_at, told_to)
            ends |= {(topic, partition): await self._reader.end(topic, partition) for topic in HINTS}
            self._openings[partition] = asyncio.create_task(self._open(opening, ends))
        self._read_to = {place: end for place, end in self._read_to.items() if place[1] in partitions} | ends
        self._paused = False
        logger.info("partitions_assigned", worker=self.name, partitions=sorted(partitions), gained=sorted(gained))
        return self._read_to

    async def _group_read_to(self) -> dict[tuple[str, int], int]:
        """Up to where the workers had read by the last time that they said so, by topic and partition."""
        async with opened(self._connection) as admin:
            return await admin.read_to(self._layout.workers_group)

    # -- opening a partition

    async def _open(self, opening: Opening, ends: Mapping[tuple[str, int], int]) -> None:
        began_at = self._clock.monotonic()
        while True:
            try:
                replayed = await self._read_past(opening, ends)
                break
            except LogError as error:
                logger.warning("partition_not_opened", partition=opening.partition, problem=str(error))
                await asyncio.sleep(RETRIED_AFTER_S)
        for arrived, problem in self.windows.complete(opening):
            self._set_aside(arrived, problem)
        self._openings.pop(opening.partition, None)
        self._kick.set()
        took_s = round(self._clock.monotonic() - began_at, 2)
        logger.info(
            "partition_opened", worker=self.name, partition=opening.partition, models=len(opening.states),
            replayed=replayed, took_s=took_s,
        )  # fmt: skip

    async def _read_past(self, opening: Opening, ends: Mapping[tuple[str, int], int]) -> int:
        partition = opening.partition
        async for found in self._reader.forwards("window-state", partition):
            opening.settled((found.key or b"").decode("utf-8", "replace"), _window_state(found))
        since_ms, count = timestamp_ms(opening.since(self._clock.now())), 0
        for topic in HINTS:
            first = await self._reader.since(topic, since_ms, partition)
            if first is None:
                continue
            async for found in self._reader.forwards(topic, partition, first, ends[topic, partition]):
                arrived = _arrived(topic, partition, found)
                if problem := self.windows.replay(opening, arrived):
                    self._set_aside(arrived, problem)
                count += 1
                if count % _AT_A_TIME == 0:
                    await asyncio.sleep(0)
        return count

    # -- following the state

    async def _following(self) -> None:
        await retried("state_not_followed", self._follow_on)

    async def _follow_on(self) -> None:
        while True:
            await asyncio.sleep(FOLLOWED_EVERY_S)
            await self._follow()

    async def _follow(self) -> None:
        """What was committed since the last time."""
        changed_at = await self._followed.read()
        if changed_at:
            self.windows.follow(self._followed.state, changed_at)
            self._kick.set()
            for model_id in changed_at.keys() - self._followed.state.models.keys():
                await self._forget(model_id)

    async def _forget(self, model_id: str) -> None:
        """The model is gone: so is what topics keep the latest of."""
        if self._partition_of(model_id) in self.windows.partitions and not self._paused:
            for topic in ("window-state", "model-snapshots"):
                await self._send(topic, model_id, None, self._partition_of(model_id))

    # -- telling

    async def _telling(self) -> None:
        while True:
            self._kick.clear()
            due_at = None if self._paused else self.windows.due_at()
            wait_s = LOOKED_EVERY_S if due_at is None else due_at - self._clock.now()
            if wait_s > 0.0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._kick.wait()
                continue
            for partition, snapshots in self.windows.make(self._clock.now()):
                rests_on = self._rests_on(partition)  # more may come while the first of them are sent
                for snapshot in snapshots:
                    await self._send("model-snapshots", snapshot.model_id, wire.dumps(snapshot), partition, rests_on)
            await asyncio.sleep(0)

    async def _settling(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_EVERY_S)
            for partition, state in [] if self._paused else self.windows.states():
                await self._send("window-state", state.model_id, wire.dumps(state), partition)
                await asyncio.sleep(0)

    def _rests_on(self, partition: int) -> dict[str, str]:
        """Headers that say up to where it was read, so that anyone can make a snapshot again from the log."""
        return {name: str(self._read_to.get((name, partition), 0)) for name in HINTS}

    async def _send(
        self, topic: str, key: str | None, text: str | None, partition: int | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        if partition is not None and self._paused:
            return
        value = None if text is None else text.encode()
        headers = {"worker": self.name, **(headers or {})}
        await self._stream.send(self._layout.name(topic), (key or "").encode(), value, partition, headers)

    # -- dead letters

    def _set_aside(self, arrived: Arrived, problem: str) -> None:
        """A bounded part of them: what sends garbage may send much of it."""
        if len(self._letters) >= _DEAD_LETTERS_PER_S:
            self._unread_letters += 1
            return
        topic = self._layout.name(arrived.topic)
        self._letters.append(
            DeadLetter.of(topic, arrived.partition, arrived.offset, arrived.at, problem, arrived.value)
        )

    async def _writing_letters(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            letters, self._letters = self._letters, []
            untold, self._unread_letters = self._unread_letters, 0
            if letters:
                logger.warning(
                    "bad_messages", count=len(letters) + untold, kept=len(letters), first_problem=letters[0].reason,
                    topic=letters[0].topic, partition=letters[0].partition, offset=letters[0].offset,
                )  # fmt: skip
            for letter in letters:
                await self._send("dead-letters", None, wire.dumps(letter), None)

    async def _telling_of_clocks(self) -> None:
        while True:
            await asyncio.sleep(CLOCKS_TOLD_EVERY_S)
            off, self.windows.off = self.windows.off, {}
            if off:
                most = sorted(off, key=lambda source: -abs(off[source]))[:_CLOCKS_SHOWN]
                logger.warning(
                    "measured_at_another_time", sources=len(off), late=self.windows.late,
                    behind_s={source: round(off[source], 1) for source in most},
                    action="let who measures keep time (NTP), or reach Kafka sooner; what is late is passed over",
                )  # fmt: skip

    # -- getting on

    async def _getting_on(self) -> None:
        """Beats while all that was in the log a moment ago has been read since, or more than then."""
        before, wanted = dict(self._read_to), dict(self._read_to)
        while True:
            await asyncio.sleep(LOOKED_EVERY_S)
            if not self._stream.running:
                raise PartEnded("Faust has ended")
            read_to = dict(self._read_to)
            stuck = [place for place, end in wanted.items() if read_to.get(place, end) < end]
            silent = stuck and all(read_to.get(place) == before.get(place) for place in stuck)
            if not silent and not self._stream.rebalancing:
                self._beat()
            try:
                if silent:
                    await self._pass_over_marks({place: wanted[place] for place in stuck})
                wanted = {place: await self._reader.end(*place) for place in read_to}
            except LogError:
                wanted = {}  # nobody knows, and to begin anew would not bring Kafka back
            before = read_to

    async def _pass_over_marks(self, ends: Mapping[tuple[str, int], int]) -> None:
        """What ends a transaction has an offset too, and is handed to nobody: there may be nothing else to read."""
        for place, end in ends.items():
            read_to = self._read_to.get(place, end)
            unread = await anext(self._reader.forwards(*place, read_to, end), None)
            if unread is None and self._read_to.get(place) == read_to:
                self._read_to[place] = end

    def _placed(self, model_id: str) -> int:
        return int(DefaultPartitioner()(model_id.encode(), self._partitions, self._partitions))


def _arrived(topic: str, partition: int, found: Found) -> Arrived:
    return Arrived(topic, partition, found.offset, found.at_ms / 1e3, found.key, found.value)


def _window_state(found: Found) -> WindowState | None:
    """None also for one that cannot be read: its model begins anew."""
    if found.value is None:
        return None
    try:
        state: WindowState = wire.loads(WindowState, found.value)
    except WireError as error:
        logger.warning("window_state_not_read", key=found.key, problem=str(error))
        return None
    return state
