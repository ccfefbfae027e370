"""Workers are killed and stopped under load, and measurements reach them twice, late, out of order and unreadable."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.model import wire
from broker.model.reading import Freshness
from broker.model.signals import MetricSample, RequestSummary, Signal
from broker.model.window_state import DeadLetter
from tests.faults.conftest import SEED, Note
from tests.integration.kafka.measured_site import (
    Site,
    child,
    expect_as_recomputed,
    kill,
    measured_for,
    opened,
    recorded,
    telling,
    until,
)
from tests.integration.kafka.sites import messages, worker
from tests.support.real_kafka import RealKafka

RESUMED_WITHIN_S = 15.0
MANY = [f"m{number}" for number in range(24)]
SILENT_S = 8.0

Sample = MetricSample | RequestSummary
Sent = tuple[float, Sample]
"""After how many seconds, and what."""


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_one_of_three_workers_is_killed_and_the_others_go_on_with_its_windows(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path, note: Note
) -> None:
    site = await opened(kafka, kafka_cluster, tmp_path, MANY)
    async with telling(site, linger_ms=5) as (told, producer):
        with worker(site.folder) as first, worker(site.folder) as second, worker(site.folder) as third:
            await until(site, producer, lambda: len(set(told.by.values())) == 3, "all three own models")
            await measured_for(site, producer, 15)
            killed = str(child(second).pid)
            orphans = [model_id for model_id, process in told.by.items() if process == killed]
            kill(second)
            killed_at = site.clock.monotonic()
            await until(site, producer, lambda: killed not in told.by.values(), "all is taken over")
            took_s = max(told.since[model_id] for model_id in orphans) - killed_at
            note(f"{len(orphans)} of {len(MANY)} models told again after {took_s:.1f} s at the latest")
            assert took_s < RESUMED_WITHIN_S
            await measured_for(site, producer, 10)
            for process in (first, third):
                process.terminate()
                assert process.wait(30) == 0
    await expect_as_recomputed(site)


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_a_worker_that_stands_still_is_killed_by_its_watchdog_and_another_goes_on(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path, note: Note
) -> None:
    site = await opened(kafka, kafka_cluster, tmp_path)
    async with telling(site, linger_ms=5) as (told, producer):
        with worker(site.folder, "--silent", f"{SILENT_S:g}s") as watchdog:
            await until(site, producer, lambda: told.by.keys() == {*site.models}, "all models are told")
            await measured_for(site, producer, 8)
            stuck = child(watchdog)
            stuck.send_signal(signal.SIGSTOP)
            stopped_at = site.clock.monotonic()
            await until(site, producer, lambda: not stuck.is_running(), "it is killed")
            killed_after_s = site.clock.monotonic() - stopped_at
            await until(site, producer, lambda: str(stuck.pid) not in told.by.values(), "another tells all models")
            resumed_after_s = max(told.since.values()) - stopped_at
            note(f"killed {killed_after_s:.1f} s after it stood still, told again after {resumed_after_s:.1f} s")
            await measured_for(site, producer, 5)
    await expect_as_recomputed(site)
    assert [row["pid"] for row in logged(site, "worker_silent")] == [stuck.pid]


def logged(site: Site, event: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (site.folder / "worker.log").read_text().splitlines() if line.startswith("{")]
    return [row for row in rows if row.get("event") == event]


# -- what reaches a worker


def shifted(sample: Sample, by_s: float) -> Sample:
    return replace(sample, observed_at=sample.observed_at + by_s)


DISTURBED: dict[str, Callable[[Sample, random.Random], list[Sent]]] = {
    "as-it-should": lambda sample, _: [(0.0, sample)],
    "each-twice": lambda sample, _: [(0.0, sample), (0.0, sample)],
    "again-later": lambda sample, dice: [(0.0, sample), (dice.uniform(0.0, 20.0), sample)],
    "shuffled-by-10s": lambda sample, dice: [(dice.uniform(0.0, 10.0), sample)],
    "shuffled-by-30s": lambda sample, dice: [(dice.uniform(0.0, 30.0), sample)],
    "late-by-20s": lambda sample, _: [(20.0, sample)],
    "clock-5min-behind": lambda sample, _: [(0.0, shifted(sample, -300.0))],
    "clock-5min-ahead": lambda sample, _: [(0.0, shifted(sample, 300.0))],
    "among-poison": lambda sample, _: [(0.0, sample)],
}
"""By model: what becomes of each of its measurements on their way."""

NEVER_IN_TIME = {"late-by-20s", "clock-5min-behind"}
"""Their signals stay unknown, so that nothing scales in on them; the others' are known."""


def poison(topic: str) -> dict[str, bytes | None]:
    """By a part of the reason that is told."""
    another = RequestSummary("another", "gw", "boot", 1, 1.0, 1.0, 1.0)
    stranger = MetricSample("among-poison", "r", 1.0, 1.0)
    return {
        "is empty": None,
        "not JSON": b"\xff\x00{",
        "its key is": wire.dumps(another if topic == "requests" else replace(stranger, model_id="another")).encode(),
        "is expected": wire.dumps(stranger if topic == "requests" else another).encode(),
    }


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_measurements_that_come_twice_late_out_of_order_or_unreadable_change_nothing_that_they_should_not(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    site = await opened(kafka, kafka_cluster, tmp_path, list(DISTURBED))
    async with telling(site, linger_ms=5) as (told, producer):
        with worker(site.folder):
            await until(site, producer, lambda: told.by.keys() == {*site.models}, "all models are told")
            await play(site, producer, 50)
    models = await recorded(site)
    for model_id, model in models.items():
        model.expect_as_recomputed()
        model.expect_last_as_undisturbed()
        known = model.snapshots[-1].reading(Signal.REQUESTS_RUNNING).freshness is Freshness.FRESH
        assert known is (model_id not in NEVER_IN_TIME), model_id
    letters = [
        wire.loads(DeadLetter, record.value) for record in await messages(site.connection, site.layout, "dead-letters")
    ]
    for topic in ("signals", "requests"):
        found = sorted(letter.reason for letter in letters if letter.topic == site.layout.name(topic))
        assert len(found) == len(poison(topic))
        assert all(any(words in reason for reason in found) for words in poison(topic)), found
    behind_s = {
        source: off for row in logged(site, "measured_at_another_time") for source, off in row["behind_s"].items()
    }
    assert behind_s["clock-5min-behind-0-g1"] == pytest.approx(300.0, abs=15.0)
    assert behind_s["clock-5min-ahead-0-g1"] == pytest.approx(-300.0, abs=15.0)


async def play(site: Site, producer: Any, seconds: int) -> None:
    """All models' measurements as ``DISTURBED`` has them, and bad messages in the middle of it."""
    dice, numbers = random.Random(SEED), itertools.count()
    on_their_way: list[tuple[float, int, Sample]] = []
    for second in range(seconds):
        for sample in site.samples():
            for delay_s, sent in DISTURBED[sample.model_id](sample, dice):
                heapq.heappush(on_their_way, (site.clock.now() + delay_s, next(numbers), sent))
        if second == seconds // 2:
            for topic in ("signals", "requests"):
                for value in poison(topic).values():
                    await producer.send(site.layout.name(topic), value, key=b"among-poison")
        while on_their_way and on_their_way[0][0] <= site.clock.now():
            await site.send(producer, heapq.heappop(on_their_way)[2])
        await asyncio.sleep(1.0)
