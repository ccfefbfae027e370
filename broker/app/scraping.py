"""Reads the metrics of every replica that serves, draining ones too: a drain waits for the engine's own word."""

from __future__ import annotations

import asyncio
import functools

import aiohttp
import structlog

from broker.app.runtime import Runtime, cancel
from broker.app.settings.site import ScrapeSettings
from broker.model.errors import WireError
from broker.model.identity import endpoint_key
from broker.model.replica import Replica, ReplicaPhase
from signals.ingest.vllm_metrics import MAX_PAGE_BYTES, parse_metrics

logger = structlog.get_logger("broker")

_TICK_S = 0.05
_SERVING = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING})


class ScrapeLoop:
    """One reading of a replica at a time; samples go to the runtime, failures to the log."""

    def __init__(
        self, runtime: Runtime, session: aiohttp.ClientSession, site_secret: bytes, settings: ScrapeSettings
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._secret = site_secret
        self._interval_s = settings.interval
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout)
        self._next_at: dict[str, float] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        clock = self._runtime.clock
        try:
            while True:
                self._begin_due(clock.now())
                await clock.sleep_until(clock.now() + _TICK_S)
        finally:
            await cancel(list(self._reading.values()))

    def _begin_due(self, now: float) -> None:
        state = self._runtime.core.loop.state
        serving = {
            name: replica
            for members in state.replicas.values()
            for name, replica in members.items()
            if replica.url and replica.phase in _SERVING
        }
        for gone in self._next_at.keys() - serving.keys():
            del self._next_at[gone]
        for name, replica in serving.items():
            if name not in self._reading and self._next_at.get(name, now) <= now:
                self._next_at[name] = now + self._interval_s
                task = self._reading[name] = asyncio.create_task(self._read(replica))
                task.add_done_callback(functools.partial(self._forget, name))

    def _forget(self, name: str, _: asyncio.Task[None]) -> None:
        del self._reading[name]

    async def _read(self, replica: Replica) -> None:
        headers = {"Authorization": f"Bearer {endpoint_key(self._secret, replica.replica_id, replica.generation)}"}
        url = f"{replica.url}/metrics"
        try:
            async with self._session.get(url, headers=headers, timeout=self._timeout, allow_redirects=False) as answer:
                page = await read_page(answer)
            now = self._runtime.clock.now()
            self._runtime.observe(parse_metrics(page, replica.model_id, replica.replica_id, now, now))
        except (aiohttp.ClientError, TimeoutError, OSError, WireError) as error:
            problem = str(error) or type(error).__name__
            logger.warning("scrape_failed", replica_id=replica.replica_id, problem=problem)


async def read_page(answer: aiohttp.ClientResponse) -> bytes:
    """The whole page, which comes in pieces. Raises ``WireError`` for what is no page of metrics."""
    if answer.status != 200:
        raise WireError(f"/metrics answers {answer.status}")
    page = bytearray()
    async for piece in answer.content.iter_any():
        page += piece
        if len(page) > MAX_PAGE_BYTES:
            raise WireError(f"/metrics is longer than {MAX_PAGE_BYTES} bytes: not read")
    return bytes(page)
