"""When the scraper asks: in virtual time, against addresses that nobody can reach."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise

import pytest

from broker.model.signals import MetricSample
from signals.ingest.scrape import FailureReason, ScrapeFailure, Scraper, ScrapeTarget


class FakeClock:
    """The event loop's virtual time."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return self.now()

    async def sleep_until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self.now()))


async def outcomes_of(count: int, duration_s: float, seed: int = 0) -> dict[str, list[float]]:
    times = defaultdict(list)

    def deliver(outcome: MetricSample | ScrapeFailure) -> None:
        assert isinstance(outcome, ScrapeFailure)
        assert outcome.reason is FailureReason.UNREACHABLE
        times[outcome.replica_id].append(outcome.observed_at)

    async with Scraper(FakeClock(), deliver, interval_s=1.0, seed=seed) as scraper:
        scraper.watch([ScrapeTarget(f"chat-{index}-g1", "chat", "not an address") for index in range(count)])
        await asyncio.sleep(duration_s)
    return times


@pytest.mark.looptime
async def test_each_replica_is_asked_once_an_interval() -> None:
    times = await outcomes_of(20, 10.0)
    assert len(times) == 20
    for asked in times.values():
        assert len(asked) == 10
        assert all(later - earlier == pytest.approx(1.0) for earlier, later in pairwise(asked))


@pytest.mark.looptime
async def test_scrapes_spread_over_the_interval() -> None:
    times = await outcomes_of(200, 1.0)
    tenths = [int(asked[0] * 10) for asked in times.values()]
    assert all(5 <= tenths.count(tenth) <= 40 for tenth in range(10))


@pytest.mark.looptime
async def test_the_same_seed_gives_the_same_moments() -> None:
    first, second, other = await outcomes_of(5, 1.0), await outcomes_of(5, 1.0), await outcomes_of(5, 1.0, seed=1)
    phases = [{key: asked[0] % 1.0 for key, asked in times.items()} for times in (first, second, other)]
    assert phases[0] == pytest.approx(phases[1])
    assert phases[0] != pytest.approx(phases[2])
