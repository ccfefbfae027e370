"""Looks at endpoints when nobody else can, or when a request just failed there.

While the broker is alive it withdraws what does not answer; only endpoints that failed a request of ours are probed
until they answer again. While it is away the table is frozen and every endpoint is probed.
"""

from __future__ import annotations

import asyncio

import aiohttp
import structlog

from broker.model.replica import EndpointRecord
from gateway.changed import Changed
from gateway.keys import EngineKeys
from gateway.registry_client import RegistryClient
from gateway.table import RoutingTable

log = structlog.get_logger(__name__)

PROBES_AT_ONCE = 50
TIMEOUT_S = 2.0


class Prober:
    """``run`` until cancelled; ``suspect`` takes an endpoint out of the choice until it answers again."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        table: RoutingTable,
        registry: RegistryClient,
        keys: EngineKeys,
        changed: Changed,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._client = client
        self._table = table
        self._registry = registry
        self._keys = keys
        self._changed = changed
        self._interval_s = interval_s
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE)
        self._wake = asyncio.Event()

    def suspect(self, endpoint_id: str) -> None:
        """A request failed there before its first byte. It may have been a stale connection: probe it at once."""
        if self._table.mark(endpoint_id, healthy=False):
            log.warning("endpoint_suspected", endpoint_id=endpoint_id)
            self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            round_began_at = loop.time()
            self._wake.clear()
            due = self._table.records() if self._registry.away else self._table.unhealthy()
            await asyncio.gather(*(self._probe(record) for record in due))
            try:
                async with asyncio.timeout_at(round_began_at + self._interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _probe(self, record: EndpointRecord) -> None:
        async with self._slots:
            healthy = await self._answers(record)
        if self._table.mark(record.endpoint_id, healthy=healthy):
            log.info("endpoint_health", endpoint_id=record.endpoint_id, healthy=healthy)
            self._changed.notify()

    async def _answers(self, record: EndpointRecord) -> bool:
        headers = {"Authorization": self._keys.authorization(record)}
        try:
            async with self._client.get(
                f"{record.url.rstrip('/')}/health", headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False
