"""The scraper against a real HTTP server with all the ways in which a replica can misbehave."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from broker.model.signals import MetricSample
from signals.ingest.scrape import FailureReason, ScrapeFailure, Scraper, ScrapeTarget

pytestmark = pytest.mark.integration

PAGE = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0",model_name="chat"} 3.0\n'
KEY = "key-of-the-replica"


class FakeWallClock:
    """The event loop's own time as seconds since the epoch."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep_until(self, when: float) -> None:
        await asyncio.sleep(when - time.time())


@dataclass
class FakeReplicas:
    """A server whose paths are replicas, each with its own fault."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        self.asked[kind] += 1
        match kind:
            case "good" | "good2":
                return web.Response(text=PAGE)
            case "keyed":
                right = request.headers.get("Authorization") == f"Bearer {KEY}"
                return web.Response(text=PAGE) if right else web.Response(status=401)
            case "slow":
                await asyncio.sleep(30)
                return web.Response(text=PAGE)
            case "garbage":
                return web.Response(body=b"\x00\xffgarbage")
            case "broken":
                return web.Response(status=500)
            case "moved":
                raise web.HTTPFound(f"{self.url}/good/metrics")
            case "giant":
                return web.Response(body=b"vllm:x 1\n" * 200_000)
            case "bomb":
                packed = web.Response(body=b"vllm:x 1\n" * 2_000_000)
                packed.enable_compression(web.ContentCoding.gzip)
                return packed
            case _:
                raise web.HTTPNotFound

    def target(self, kind: str, key: str | None = None) -> ScrapeTarget:
        return ScrapeTarget(f"chat-{kind}", "chat", f"{self.url}/{kind}/metrics", key)


@pytest.fixture
async def replicas() -> AsyncIterator[FakeReplicas]:
    served = FakeReplicas()
    app = web.Application()
    app.router.add_get("/{kind}/metrics", served.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@dataclass
class Collected:
    outcomes: list[MetricSample | ScrapeFailure] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, outcome: MetricSample | ScrapeFailure) -> None:
        self.outcomes.append(outcome)
        self.came.set()

    async def until(self, count: int, replica_id: str) -> list[MetricSample | ScrapeFailure]:
        """Wait for ``count`` outcomes of one replica."""
        async with asyncio.timeout(10):
            while len(found := [one for one in self.outcomes if one.replica_id == replica_id]) < count:
                self.came.clear()
                await self.came.wait()
        return found


async def scrape_once(target: ScrapeTarget, timeout_s: float = 5.0) -> MetricSample | ScrapeFailure:
    async with Scraper(FakeWallClock(), lambda _: None, timeout_s=timeout_s, max_bytes=1_000_000) as scraper:
        return await scraper.scrape(target)


async def test_a_good_page_becomes_a_sample(replicas: FakeReplicas) -> None:
    sample = await scrape_once(replicas.target("good"))
    assert isinstance(sample, MetricSample)
    assert (sample.replica_id, sample.model_id, sample.requests_running) == ("chat-good", "chat", 3.0)
    assert sample.observed_at == sample.received_at


async def test_the_key_goes_along_as_a_bearer_token(replicas: FakeReplicas) -> None:
    assert isinstance(await scrape_once(replicas.target("keyed", KEY)), MetricSample)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("keyed", FailureReason.REFUSED),
        ("garbage", FailureReason.NOT_METRICS),
        ("broken", FailureReason.BAD_STATUS),
        ("absent", FailureReason.BAD_STATUS),
        ("moved", FailureReason.BAD_STATUS),
        ("giant", FailureReason.TOO_LARGE),
        ("bomb", FailureReason.TOO_LARGE),
    ],
)
async def test_a_fault_becomes_a_failure_with_its_reason(
    replicas: FakeReplicas, kind: str, reason: FailureReason
) -> None:
    failure = await scrape_once(replicas.target(kind, "wrong key"))
    assert isinstance(failure, ScrapeFailure)
    assert (failure.replica_id, failure.model_id, failure.reason) == (f"chat-{kind}", "chat", reason)


async def test_a_redirect_is_not_followed(replicas: FakeReplicas) -> None:
    await scrape_once(replicas.target("moved"))
    assert replicas.asked["good"] == 0


async def test_a_replica_that_hangs_times_out(replicas: FakeReplicas) -> None:
    failure = await scrape_once(replicas.target("slow"), timeout_s=0.1)
    assert isinstance(failure, ScrapeFailure)
    assert failure.reason is FailureReason.TIMED_OUT


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/metrics", "no address"])
async def test_a_replica_that_is_not_there_is_unreachable(url: str) -> None:
    failure = await scrape_once(ScrapeTarget("chat-gone", "chat", url))
    assert isinstance(failure, ScrapeFailure)
    assert failure.reason is FailureReason.UNREACHABLE


async def test_a_hanging_replica_does_not_delay_the_others(replicas: FakeReplicas) -> None:
    collected = Collected()
    async with Scraper(FakeWallClock(), collected.deliver, interval_s=0.05, timeout_s=5.0) as scraper:
        scraper.watch([replicas.target(kind) for kind in ("slow", "broken", "good")])
        found = await collected.until(4, "chat-good")
    assert all(isinstance(outcome, MetricSample) for outcome in found)
    assert not [outcome for outcome in collected.outcomes if outcome.replica_id == "chat-slow"]


async def test_targets_come_and_go(replicas: FakeReplicas) -> None:
    collected = Collected()
    async with Scraper(FakeWallClock(), collected.deliver, interval_s=0.02) as scraper:
        scraper.watch([replicas.target("good")])
        await collected.until(1, "chat-good")
        scraper.watch([replicas.target("good2")])
        await collected.until(1, "chat-good2")
        asked = replicas.asked["good"]
        await collected.until(3, "chat-good2")
        assert replicas.asked["good"] == asked
        assert scraper.targets == {replicas.target("good2")}


async def test_no_more_scrapes_run_at_once_than_allowed(replicas: FakeReplicas) -> None:
    collected = Collected()
    async with Scraper(FakeWallClock(), collected.deliver, interval_s=0.02, timeout_s=0.3, concurrency=1) as scraper:
        scraper.watch([replicas.target("slow"), ScrapeTarget("chat-slow-2", "chat", f"{replicas.url}/slow/metrics")])
        await collected.until(1, "chat-slow")
        assert replicas.asked["slow"] <= 2
