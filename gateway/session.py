"""The gateway's session with the broker: what it has applied, what it has open, and what its users saw.

One report a second, and one at once when something happened that a drain waits for. Reports follow each other and
never overlap. A summary keeps its sequence number until a report with it was acknowledged, so that the broker can
count it exactly once however often it arrives.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque

import aiohttp
import structlog

from broker.model.api import GatewaySession
from broker.model.ports import Clock
from broker.model.signals import RequestSummary
from broker.model.spec import JsonValue
from broker.model.wire import encode
from gateway.table import RoutingTable
from gateway.tally import SummaryName, Tallies

log = structlog.get_logger(__name__)

SUMMARIES_KEPT = 6_000
"""What is kept through an outage: ten minutes of ten models, about 3 MB."""

SUMMARIES_PER_REPORT = 500
TIMEOUT_S = 2.0


class BrokerSession:
    """``run`` until cancelled, then ``close``. ``boot_id`` names this run: a restart is another session."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        broker_url: str,
        token: str,
        gateway_id: str,
        boot_id: str,
        table: RoutingTable,
        tallies: Tallies,
        clock: Clock,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._client = client
        self._url = f"{broker_url.rstrip('/')}/v1/gateways/{gateway_id}"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._gateway_id = gateway_id
        self._boot_id = boot_id
        self._table = table
        self._tallies = tallies
        self._clock = clock
        self._interval_s = interval_s
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._unacknowledged: deque[RequestSummary] = deque()
        self._sequence = 0
        self._cut_at = asyncio.get_running_loop().time()
        self._wake = asyncio.Event()
        self._acknowledged = True
        self.summaries_dropped = 0

    @property
    def summaries_waiting(self) -> int:
        return len(self._unacknowledged)

    def report_soon(self) -> None:
        """Something happened that a drain may be waiting for."""
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_cut_at = loop.time() + self._interval_s
        await self._report(closed=False)
        while True:
            try:
                async with asyncio.timeout_at(next_cut_at):
                    await self._wake.wait()
            except TimeoutError:
                self._cut(loop.time())
                next_cut_at = max(next_cut_at + self._interval_s, loop.time())
            await self._report(closed=False)

    async def close(self) -> None:
        """The last report, which ends the session."""
        self._cut(asyncio.get_running_loop().time())
        await self._report(closed=True)

    def _cut(self, now: float) -> None:
        name = SummaryName(self._gateway_id, self._boot_id, self._sequence + 1)
        interval_s, self._cut_at = now - self._cut_at, now
        self._unacknowledged.extend(self._tallies.cut(name, self._clock.now(), interval_s))
        while len(self._unacknowledged) > SUMMARIES_KEPT:
            self._unacknowledged.popleft()
            self.summaries_dropped += 1

    async def _report(self, *, closed: bool) -> None:
        self._wake.clear()
        self._sequence += 1
        sent = tuple(itertools.islice(self._unacknowledged, SUMMARIES_PER_REPORT))
        report = GatewaySession(
            boot_id=self._boot_id,
            sequence=self._sequence,
            applied_revision=self._table.applied_revision,
            observed_at=self._clock.now(),
            in_flight=self._table.in_flight(),
            closed=closed,
            summaries=sent,
        )
        problem = await self._put(encode(report))
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
