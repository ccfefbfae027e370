"""With a log in Kafka workers keep the windows: what the broker measures goes out by topics, what they make of it comes
back as snapshots, and gateways tell of themselves by a topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from broker.app.gateway_topic import GatewayTopic
from broker.app.kafka_metrics import kafka_families
from broker.app.runtime import Runtime
from broker.app.scraper_watch import ScraperWatch
from broker.log.kafka.client import Connection
from broker.log.kafka.following import follow
from broker.log.kafka.outbox import Outbox
from broker.log.kafka.retrying import retried
from broker.log.kafka.standing import GroupWatch
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import WireError
from broker.model.making import copy_with
from broker.model.observation import Observation
from broker.model.ports import Clock, Log
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState
from broker.prometheus_text import Family

logger = structlog.get_logger("broker")


class SnapshotFeed:
    """Offers the snapshots that workers write. One that an earlier owner of its model made is dropped: its sequence is
    lower than what is known, unless nothing has come for as long as signals are trusted (a topic made anew).

    What steps have taken in needs no offsets: ``restored`` has the last snapshot of each model with its sequence, in
    the transaction of its step.
    """

    def __init__(
        self, connection: Connection, layout: Layout, clock: Clock, offer: Callable[[Observation], None],
        patience_s: float, restored: BrokerState,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._layout = layout
        self._clock = clock
        self._offer = offer
        self._patience_s = patience_s
        taken_in = [model.snapshot for model in restored.models.values()]
        self._latest = {snapshot.model_id: snapshot for snapshot in taken_in if snapshot is not None}

    async def run(self) -> None:
        """For ever, from the first that no step has taken in."""
        await retried("snapshots_not_read", self._follow)

    async def _follow(self) -> None:
        since = self._clock.now() - self._patience_s  # what is older tells nothing
        await follow(self._connection, self._layout, ["model-snapshots"], self.take_all, since)

    async def take_all(self, records: Sequence[Any]) -> None:
        """Messages of the topic: aiokafka's ``ConsumerRecord``s."""
        problems = []
        for record in {record.key: record for record in records}.values():
            try:
                self.take(record.value, record.timestamp / 1e3)
            except WireError as error:
                problems.append(f"offset {record.offset}: {error}")
        if problems:
            logger.warning("snapshots_bad", count=len(problems), first_problem=problems[0])

    def take(self, value: bytes | None, at: float) -> None:
        """One message that the log got at ``at``. Raises ``WireError``."""
        if value is None:
            return
        told: ModelSnapshot = wire.loads(ModelSnapshot, value)
        # How old it is goes by when the log got it, never by the worker's clock.
        snapshot = copy_with(told, received_at=min(at, self._clock.now()))
        known = self._latest.get(snapshot.model_id)
        if known is not None and snapshot.sequence <= known.sequence:
            if snapshot.received_at <= known.received_at + self._patience_s:
                return
            logger.warning("snapshots_begin_anew", model_id=snapshot.model_id, sequence=snapshot.sequence)
        self._latest[snapshot.model_id] = snapshot
        self._offer(snapshot)


class Workers:
    """All ways, for the composition root. ``scrapers`` where the broker does not scrape itself."""

    def __init__(
        self, connection: Connection, layout: Layout, patience_s: float, scrapers: ScraperWatch | None = None
    ) -> None:
        self.scrapers = scrapers
        self.outbox = Outbox(connection, layout)
        self.watch = GroupWatch(connection, layout)
        self._connection = connection
        self._layout = layout
        self._patience_s = patience_s

    def snapshots(self, clock: Clock, offer: Callable[[Observation], None], restored: BrokerState) -> SnapshotFeed:
        return SnapshotFeed(self._connection, self._layout, clock, offer, self._patience_s, restored)

    def gateways(self, runtime: Runtime) -> GatewayTopic:
        return GatewayTopic(self._connection, self._layout, runtime)

    def families(self, log: Log) -> Iterator[Family]:
        """What ``GET /metrics`` tells of them, and of ``log``."""
        return kafka_families(log, self.outbox, self.watch, None if self.scrapers is None else self.scrapers.silent_s)
