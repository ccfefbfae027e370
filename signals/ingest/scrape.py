"""Fetching ``/metrics`` of a changing set of replicas, all at once but bounded, each by its own rhythm."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

import aiohttp
import structlog

from broker.model.errors import WireError
from broker.model.ports import Clock
from broker.model.signals import MetricSample
from signals.ingest.vllm_metrics import MAX_PAGE_BYTES, parse_page

log = structlog.get_logger(__name__)

_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """One replica's metrics page. ``url`` is the whole address; ``key`` goes along as a bearer token."""

    replica_id: str
    model_id: str
    url: str
    key: str | None = None


class FailureReason(StrEnum):
    """Why a scrape brought nothing."""

    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    BAD_STATUS = "bad_status"
    TOO_LARGE = "too_large"
    NOT_METRICS = "not_metrics"


@dataclass(frozen=True, slots=True)
class ScrapeFailure:
    """A scrape that brought nothing. REFUSED: the key is wrong (401, 403). ``detail`` is for people."""

    replica_id: str
    model_id: str
    observed_at: float
    reason: FailureReason
    detail: str = ""


Deliver = Callable[[MetricSample | ScrapeFailure], None]


class Scraper:
    """Scrapes each target once every ``interval_s`` and hands over what came of it.

    Each target has its own moment within the interval, drawn from its id and ``seed``, so that scrapes spread and
    stay spread. A scrape that takes longer than the interval skips the moments it missed. At most ``concurrency``
    run at a time; with as many targets hanging at once, others wait up to ``timeout_s``.

    Use as an asynchronous context; ``deliver`` is called in the event loop and must not block.
    """

    def __init__(
        self,
        clock: Clock,
        deliver: Deliver,
        *,
        interval_s: float = 1.0,
        timeout_s: float = 2.0,
        concurrency: int = 256,
        seed: int = 0,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        self._clock = clock
        self._deliver = deliver
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._seed = seed
        self._max_bytes = max_bytes
        self._tasks: dict[ScrapeTarget, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            # Named, since the other format of the same page carries exemplars and other counter names.
            headers={"Accept": "text/plain;version=0.0.4"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.watch(())
        if self._session is not None:
            await self._session.close()

    @property
    def targets(self) -> frozenset[ScrapeTarget]:
        return frozenset(self._tasks)

    def watch(self, targets: Iterable[ScrapeTarget]) -> None:
        """From now on scrape exactly these."""
        wanted = set(targets)
        for target in self._tasks.keys() - wanted:
            self._tasks.pop(target).cancel()
        for target in sorted(wanted - self._tasks.keys(), key=lambda target: (target.replica_id, target.url)):
            task = asyncio.create_task(self._scrape_for_ever(target), name=f"scrape {target.replica_id}")
            task.add_done_callback(_tell_if_broken)
            self._tasks[target] = task

    async def _scrape_for_ever(self, target: ScrapeTarget) -> None:
        phase_s = random.Random(f"{self._seed}/{target.replica_id}").random() * self._interval_s
        last: int | None = None
        while True:
            moment = math.floor((self._clock.now() - phase_s) / self._interval_s) + 1
            if moment == last:  # woken a rounding error too early
                moment += 1
            last = moment
            await self._clock.sleep_until(phase_s + moment * self._interval_s)
            async with self._slots:
                outcome = await self.scrape(target)
            self._deliver(outcome)

    async def scrape(self, target: ScrapeTarget) -> MetricSample | ScrapeFailure:
        """One scrape, now."""
        if self._session is None:
            raise RuntimeError("a Scraper works inside 'async with' only")
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        try:
            async with self._session.get(target.url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    refused = response.status in (401, 403)
                    reason = FailureReason.REFUSED if refused else FailureReason.BAD_STATUS
                    return self._failure(target, reason, f"HTTP {response.status} {response.reason or ''}".rstrip())
                page = await self._read(response)
        except TimeoutError:
            return self._failure(target, FailureReason.TIMED_OUT, f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: an address that is none
            return self._failure(target, FailureReason.UNREACHABLE, f"{type(error).__name__}: {error}")
        if page is None:
            return self._failure(target, FailureReason.TOO_LARGE, f"more than {self._max_bytes} bytes")
        now = self._clock.now()
        try:
            read = parse_page(page, target.model_id, target.replica_id, now, now)
        except WireError as error:
            return self._failure(target, FailureReason.NOT_METRICS, str(error))
        if read.bad_values:
            log.warning("metrics_page_has_bad_values", replica_id=target.replica_id, bad_values=read.bad_values)
        return read.sample

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The body, None if it is too large; read in pieces, as a compressed one may unfold to any size."""
        pieces = bytearray()
        async for piece in response.content.iter_chunked(_CHUNK_BYTES):
            pieces += piece
            if len(pieces) > self._max_bytes:
                return None
        return bytes(pieces)

    def _failure(self, target: ScrapeTarget, reason: FailureReason, detail: str) -> ScrapeFailure:
        return ScrapeFailure(target.replica_id, target.model_id, self._clock.now(), reason, detail)


def _tell_if_broken(task: asyncio.Task[None]) -> None:
    """A scrape task ends only when cancelled; anything else is a fault in ``deliver`` or here, and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("scrape_task_broke", task=task.get_name(), error=repr(error), exc_info=error)
