"""What a broker that does not scrape itself says where nobody does."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from broker.log.kafka.client import Connection
from broker.log.kafka.reader import Reader
from broker.log.kafka.topics import Layout
from broker.model.errors import LogError
from broker.model.ports import Clock

logger = structlog.get_logger("broker")

LOOKED_EVERY_S = 1.0
SILENT_AFTER_S = 10.0
"""Longer than it takes scrapers to find one gone, and to start another."""


class ScraperWatch:
    """One line in the log when no scraper has beaten for a while, and one when one does again. ``silent_s`` is how long
    none has, None while nobody knows."""

    def __init__(self, connection: Connection, layout: Layout, clock: Clock) -> None:
        self.silent_s: float | None = None
        self._reader = Reader(connection, layout, LOOKED_EVERY_S)
        self._clock = clock
        self._end = -1
        self._heard_at = 0.0
        self._told = False

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                self.look(await self._end_now())
                await asyncio.sleep(LOOKED_EVERY_S)
        finally:
            await self._reader.close()

    async def _end_now(self) -> int | None:
        with contextlib.suppress(LogError):  # the log tells of itself
            return await self._reader.end("scrapers")
        return None

    def look(self, end: int | None) -> None:
        """The topic of their beats ends there now: further than before, and somebody lives. None: nobody knows."""
        now = self._clock.monotonic()
        heard = end is not None and end != self._end
        if heard or self.silent_s is None:
            self._heard_at = now
        self._end = self._end if end is None else end
        self.silent_s = None if end is None else now - self._heard_at
        if heard and self._told:
            self._told = False
            logger.info("scraper_heard")
        elif not self._told and self.silent_s is not None and self.silent_s >= SILENT_AFTER_S:
            self._told = True
            action = "start `tidegate scraper`, or let the broker scrape (scrape.by); until then nothing scales in"
            logger.error("no_scraper", silent_s=round(self.silent_s, 1), action=action)
