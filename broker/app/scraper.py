"""A scraper: reads its share of the replicas' metrics and writes them to the topic. What ``tidegate scraper`` runs.

It follows the topic ``state`` for the replicas that serve, and ``scrapers`` for who else reads. While Kafka is away it
goes on with the share that it had, and keeps what it reads, up to a bound, for afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket

import structlog

from broker.app.followed_state import FOLLOWED_EVERY_S, FollowedState
from broker.app.loops import run_until
from broker.app.scraping import ScrapeLoop, scrape_targets
from broker.app.settings.site import ScrapeSettings
from broker.clock import SystemClock
from broker.log.kafka.client import Connection
from broker.log.kafka.messages import Found
from broker.log.kafka.outbox import News, Outbox
from broker.log.kafka.reader import Reader
from broker.log.kafka.retrying import retried
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import WireError
from broker.model.window_state import ScraperBeat
from signals.ingest.scrape import ScrapeTarget
from signals.ingest.shares import LiveScrapers, scraper_of

logger = structlog.get_logger("scraper")

READS_A_BEAT = 5
"""One a second, or a little more."""
FAREWELL_WITHIN_S = 3.0
BEATS_READ_AT_START = 1000
"""Some minutes of a few scrapers: whoever lives is among them, and who ended before is soon known to be gone."""
LOSSES_TOLD_EVERY_S = 60.0


class SharedScraper:
    """``run`` until ``stop`` is set."""

    def __init__(self, connection: Connection, layout: Layout, site_secret: bytes, settings: ScrapeSettings) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._secret = site_secret
        self._reader = Reader(connection, layout)
        self._followed = FollowedState(self._reader)
        self._outbox = Outbox(connection, layout)
        self._scraping = ScrapeLoop(SystemClock(), settings, lambda: self._share, self._outbox.send)
        self._live = LiveScrapers()
        self._beats_read_to = 0
        self._shared_by = self._live.names
        self._share: list[ScrapeTarget] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Raises ``LogError`` if the cluster or its topics cannot be used, ``PartEnded`` for what nobody foresaw."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._reader.close)
            self._beats_read_to = max(
                await self._reader.begin("scrapers"), await self._reader.end("scrapers") - BEATS_READ_AT_START
            )
            await self._read()
            stack.push_async_callback(self._say_farewell)
            logger.info("scraper_ready", scraper=self.name, scrapers=len(self._live.names))
            await run_until(stop, self._following, self._scraping.run, self._outbox.run, self._telling_losses)
            logger.info("scraper_stopping", scraper=self.name)

    async def _say_farewell(self) -> None:
        """The others take over at once, and need not miss any beats."""
        self._outbox.tell(News("scrapers", self.name, None))
        if not await self._outbox.close(FAREWELL_WITHIN_S):
            logger.warning("measurements_left_behind", count=self._outbox.waiting, action="others take over in seconds")

    async def _following(self) -> None:
        await retried("topics_not_read", self._read_and_beat)

    async def _read_and_beat(self) -> None:
        """One who cannot read does not beat either: its share would stay as it is, and what comes be read by nobody."""
        while True:
            self._outbox.tell(News("scrapers", self.name, wire.dumps(ScraperBeat(self.name))))
            for _ in range(READS_A_BEAT):
                await asyncio.sleep(FOLLOWED_EVERY_S)
                await self._read()

    async def _read(self) -> None:
        """What is new in both topics, and the share by it."""
        await self._read_beats()
        changed = await self._followed.read()
        names = self._live.names
        if not changed and names == self._shared_by:
            return
        # Nothing before our own beat is read: the others, who have not read it either, still have our share.
        share = scrape_targets(
            self._followed.state, self._secret, lambda replica_id: scraper_of(replica_id, names) == self.name
        )
        if names != self._shared_by or len(share) != len(self._share):
            logger.info("shares_changed", scraper=self.name, scrapers=sorted(names), share=len(share))
        self._share, self._shared_by = share, names

    async def _read_beats(self) -> None:
        problems = []
        async for found in self._reader.forwards("scrapers", first=self._beats_read_to):
            self._beats_read_to = found.offset + 1
            try:
                self._take(found)
            except WireError as error:
                problems.append(f"offset {found.offset}: {error}")
        if problems:
            logger.warning("beats_not_read", count=len(problems), first_problem=problems[0])

    def _take(self, found: Found) -> None:
        if found.value is None:
            self._live.left((found.key or b"").decode("utf-8", "replace"))
        else:
            beat: ScraperBeat = wire.loads(ScraperBeat, found.value)
            self._live.beat(beat.name)

    async def _telling_losses(self) -> None:
        told = 0
        while True:
            await asyncio.sleep(LOSSES_TOLD_EVERY_S)
            if (dropped := self._outbox.dropped) > told:
                logger.warning("measurements_dropped", count=dropped - told, action="see that Kafka can be written")
            told = dropped
