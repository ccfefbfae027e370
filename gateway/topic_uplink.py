"""A gateway's reports by topics of the log in Kafka. Imported only where the site has one: it needs the extra."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from broker.log.kafka.client import Connection
from broker.log.kafka.outbox import News, Outbox
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.api import GatewaySession
from broker.model.signals import RequestSummary
from gateway.uplink import SUMMARIES_KEPT, Background

log = structlog.get_logger(__name__)

CLOSED_WITHIN_S = 5.0


class TopicUplink:
    """Summaries go to the workers by ``requests``, the session to the broker by ``gateway-sessions``."""

    def __init__(self, connection: Connection, layout: Layout, gateway_id: str) -> None:
        self._gateway_id = gateway_id
        self._outbox = Outbox(connection, layout, SUMMARIES_KEPT)
        self.background: Background = {"outbox": self._outbox.run}

    @property
    def summaries_waiting(self) -> int:
        return self._outbox.waiting

    @property
    def summaries_dropped(self) -> int:
        return self._outbox.dropped

    def summarise(self, summaries: Iterable[RequestSummary]) -> None:
        for summary in summaries:
            self._outbox.send(summary)

    async def report(self, report: GatewaySession) -> None:
        self._outbox.tell(News("gateway-sessions", self._gateway_id, wire.dumps(report)))
        if report.closed and not await self._outbox.close(CLOSED_WITHIN_S):
            log.warning(
                "session_end_not_told", summaries_lost=self._outbox.waiting,
                effect="drains wait until the broker takes this gateway for gone",
            )  # fmt: skip
