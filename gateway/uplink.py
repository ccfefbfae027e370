"""How a gateway's reports get to its broker: with a request each. Where the log is in Kafka, see ``topic_uplink``."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import aiohttp
import structlog

from broker.model.api import GatewaySession
from broker.model.signals import RequestSummary
from broker.model.spec import JsonValue
from broker.model.wire import encode

log = structlog.get_logger(__name__)

SUMMARIES_KEPT = 6_000
"""What is kept through an outage: ten minutes of ten models, about 3 MB."""

SUMMARIES_PER_REPORT = 500
TIMEOUT_S = 2.0

Background = Mapping[str, Callable[[], Awaitable[None]]]


class Uplink(Protocol):
    """One gateway's. ``background`` has what it does beside the reports, by name, each for ever."""

    background: Background

    @property
    def summaries_waiting(self) -> int:
        """Those that have not arrived, as far as is known."""

    @property
    def summaries_dropped(self) -> int:
        """Those that were given up, of an outage that lasted too long."""

    def summarise(self, summaries: Iterable[RequestSummary]) -> None:
        """They are sent with the next report or soon after."""

    async def report(self, report: GatewaySession) -> None:
        """Only the newest matters. Returns within seconds; one that is ``closed`` is sent by then, if that can be."""


class HttpUplink:
    """A ``PUT`` for each report, with the summaries that were not acknowledged before."""

    def __init__(self, client: aiohttp.ClientSession, broker_url: str, token: str, gateway_id: str) -> None:
        self.background: Background = {}
        self.summaries_dropped = 0
        self._client = client
        self._url = f"{broker_url.rstrip('/')}/v1/gateways/{gateway_id}"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._unacknowledged: deque[RequestSummary] = deque()
        self._acknowledged = True

    @property
    def summaries_waiting(self) -> int:
        return len(self._unacknowledged)

    def summarise(self, summaries: Iterable[RequestSummary]) -> None:
        self._unacknowledged.extend(summaries)
        while len(self._unacknowledged) > SUMMARIES_KEPT:
            self._unacknowledged.popleft()
            self.summaries_dropped += 1

    async def report(self, report: GatewaySession) -> None:
        sent = tuple(itertools.islice(self._unacknowledged, SUMMARIES_PER_REPORT))
        problem = await self._put(encode(replace(report, summaries=sent)))
        if not problem:
            for _ in sent:
                self._unacknowledged.popleft()
        if bool(problem) is self._acknowledged:
            self._acknowledged = not problem
            log.info("broker_session", acknowledged=self._acknowledged, problem=problem)

    async def _put(self, body: JsonValue) -> str:
        """Why the broker did not take the report; empty if it did."""
        try:
            async with self._client.put(self._url, json=body, headers=self._headers, timeout=self._timeout) as response:
                return "" if response.status == 200 else f"{self._url} answered {response.status}"
        except (aiohttp.ClientError, OSError) as error:
            return str(error) or type(error).__name__
