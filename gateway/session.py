"""The gateway's session with the broker: what it has applied, what it has open, and what its users saw.

One report a second, and one at once when something happened that a drain waits for. Reports follow each other and
never overlap. A summary keeps its sequence number however often it is sent, so that it is counted exactly once.
"""

from __future__ import annotations

import asyncio

from broker.model.api import GatewaySession
from broker.model.ports import Clock
from gateway.table import RoutingTable
from gateway.tally import SummaryName, Tallies
from gateway.uplink import Uplink


class BrokerSession:
    """``run`` until cancelled, then ``close``. ``boot_id`` names this run: a restart is another session."""

    def __init__(
        self,
        uplink: Uplink,
        gateway_id: str,
        boot_id: str,
        table: RoutingTable,
        tallies: Tallies,
        clock: Clock,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self.uplink = uplink
        self._gateway_id = gateway_id
        self._boot_id = boot_id
        self._table = table
        self._tallies = tallies
        self._clock = clock
        self._interval_s = interval_s
        self._sequence = 0
        self._cut_at = asyncio.get_running_loop().time()
        self._wake = asyncio.Event()

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
        self.uplink.summarise(self._tallies.cut(name, self._clock.now(), interval_s))

    async def _report(self, *, closed: bool) -> None:
        self._wake.clear()
        self._sequence += 1
        await self.uplink.report(
            GatewaySession(
                boot_id=self._boot_id,
                sequence=self._sequence,
                applied_revision=self._table.applied_revision,
                observed_at=self._clock.now(),
                in_flight=self._table.in_flight(),
                closed=closed,
            )
        )
