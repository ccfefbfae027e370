"""The Faust app of a worker: measurements in, by partitions that its group shares; what is made of them out.

Faust shares the partitions of both topics of measurements, the same ones of each, and takes them back; its tables and
windows are not used: they over-count on a rebalance, and take ten times as long as our own windows. Where a partition
is read on from is said by whoever owns the windows, not by what was committed: Faust seeks to the committed offsets at
the end of a rebalance, so that these are set before, and it is kept waiting until they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.model.errors import ConfigError
from signals.ingest.partitions import Arrived

try:
    import faust
    from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
except ModuleNotFoundError as error:
    if error.name != "faust":
        raise
    raise ConfigError("a worker needs Faust: pip install 'tidegate[worker]'") from None

SESSION_TIMEOUT_S = 6.0
HEARTBEAT_S = 1.5
PRODUCER_LINGER_S = 0.0
"""Snapshots that are due together are handed over together; one that matters waits for no other."""
COMMIT_EVERY_S = 2.0
FETCH_WAIT_MS = 50
"""How long a server holds a request for more. What is asked for again, a partition whose last page has been taken in,
waits until the request before is answered: with Faust's second and a half, a busy worker stood still for as long each
time that a quiet topic was all that was left to ask for."""

AT_A_TIME = 250
"""Messages that are taken in without a break at most: some 35 ms."""
BUFFERED = 16
"""Such handfuls that wait in Faust to be taken in: as many messages as it keeps by default."""

for _name in ("aiokafka", "faust", "mode"):
    # By default they make each record of level DEBUG, only to throw it away.
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """``topics``: the full names of those with measurements, by their own. ``clients``: what aiokafka's clients are
    given to reach the cluster."""

    group: str
    topics: Mapping[str, str]
    clients: Mapping[str, Any]
    compression: str | None = None


class _Consumer(Consumer):
    """Hands each handful of messages over by itself. Faust's own makes four tasks for each, so as to stop in the middle
    of one when partitions are taken back: whoever owns the windows passes over what is no longer theirs."""

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: Any, record: Any) -> Any:
        """One for all ``record`` of a handful, at the place of the last: once it is done, they are committed."""
        message = super()._to_message(tp, record[-1])
        message.value = record
        return message

    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        if len(coros) != 2 or timeout is not None:
            return await super().wait_first(*coros, timeout=timeout)
        handed_over, taken_back = coros
        taken_back.close()
        if not self.flow_active:  # partitions are shared anew, and all is read again from where we were
            handed_over.close()
            return None
        return await handed_over

    async def perform_seek(self) -> None:
        """Faust does this beside what it tells of partitions, and on a busy machine earlier."""
        app: Any = self.app
        await app.told_where.wait()
        await super().perform_seek()


class _ConsumerThread(AIOKafkaConsumerThread):
    """Faust has no setting for how long a request for more may be held, and hands over messages one by one: more than
    half of what a busy worker did."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def getmany(self, active_partitions: Any, timeout: float) -> Any:
        """What was read of each partition, as one handful."""
        read = await super().getmany(active_partitions, timeout)
        return {place: [records] for place, records in read.items()}


class SignalStream:
    """``take`` gets each message as it comes. ``assigned`` is told which partitions are ours from now on, and answers
    from which offset each topic of them is to be read; ``revoked`` that none is, for the moment."""

    def __init__(
        self,
        settings: StreamSettings,
        take: Callable[[Arrived], None],
        assigned: Callable[[set[int]], Awaitable[Mapping[tuple[str, int], int]]],
        revoked: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._take = take
        self._assigned = assigned
        self._revoked = revoked
        self._told_where = asyncio.Event()
        self._app = self._made_app()

    @property
    def running(self) -> bool:
        """False once Faust has given up."""
        return not (self._app.should_stop or self._app.crashed)

    @property
    def rebalancing(self) -> bool:
        return bool(self._app.rebalancing)

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="tidegate-worker-") as folder:
            self._app.conf.datadir = folder
            try:
                await self._app.start()
                yield
            finally:
                await self._app.stop()

    async def send(
        self, topic: str, key: bytes, value: bytes | None, partition: int | None, headers: Mapping[str, str]
    ) -> None:
        """Hand a message to the producer, in its order; it waits while too many are under way."""
        told = [(name, word.encode()) for name, word in headers.items()]
        await self._app.producer.send(topic, key, value, partition, None, told)

    def _made_app(self) -> Any:
        clients = self._settings.clients
        app: Any = faust.App(
            self._settings.group,
            broker=[f"kafka://{server}" for server in clients["bootstrap_servers"]],
            broker_credentials=_credentials(clients),
            broker_client_id=clients["client_id"],
            broker_session_timeout=SESSION_TIMEOUT_S,
            broker_heartbeat_interval=HEARTBEAT_S,
            broker_commit_interval=COMMIT_EVERY_S,
            broker_max_poll_records=AT_A_TIME,
            consumer_auto_offset_reset="latest",
            producer_linger=PRODUCER_LINGER_S,
            producer_acks=-1,
            producer_compression_type=self._settings.compression,
            stream_buffer_maxsize=BUFFERED,
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            store="memory://",
        )
        app.transport.Consumer, app.told_where = _Consumer, self._told_where
        for name, full_name in self._settings.topics.items():
            topic = app.topic(full_name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
            app.agent(topic, name=name)(self._reader(name))
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        return app

    def _reader(self, name: str) -> Callable[[Any], Awaitable[None]]:
        async def read(stream: Any) -> None:
            async for event in stream.events():
                for record in event.message.value:
                    at = record.timestamp / 1e3
                    self._take(Arrived(name, record.partition, record.offset, at, record.key, record.value))

        return read

    async def _on_assigned(self, _: Any, assigned: Iterable[Any], **__: Any) -> None:
        names = {full_name: name for name, full_name in self._settings.topics.items()}
        places = {(names[tp.topic], tp.partition): tp for tp in assigned if tp.topic in names}
        offsets = await self._assigned({partition for _, partition in places})
        if offsets:
            await self._app.consumer._commit({places[place]: offset for place, offset in offsets.items()})
        self._told_where.set()

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._told_where.clear()
        self._revoked()


def _credentials(clients: Mapping[str, Any]) -> Any:
    """What Faust calls them, of what aiokafka does."""
    context: ssl.SSLContext | None = clients.get("ssl_context")
    if "sasl_mechanism" in clients:
        return faust.SASLCredentials(
            username=clients["sasl_plain_username"],
            password=clients["sasl_plain_password"],
            mechanism=clients["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
