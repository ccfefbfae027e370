"""Scrapers on a real Kafka, as real processes: they share the replicas, and take over from each other."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.ports import StepRecord
from broker.model.reading import Freshness
from broker.model.replica import ReplicaPhase
from broker.model.signals import MetricSample, Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import Limits
from broker.model.state import ControlState, ModelState
from cli.demo.memory import Kafka
from cli.demo.stack import Stack
from cli.output import Exit
from tests.integration.kafka.sites import DESCRIBE, READ, TOPIC, WRITE, allow, messages, worker
from tests.support.builders import model_spec, replica, site_spec
from tests.support.calm_model import POLICIES
from tests.support.command_line import ROOT, run, start, tidegate
from tests.support.emulator_process import EmulatorProcess, emulator
from tests.support.real_kafka import GUEST, GUEST_PASSWORD, Listener, RealKafka
from tests.support.waiting import eventually, until, until_answered

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

REPLICAS = [f"chat-{number}-g1" for number in range(24)]
PATIENCE_S = 15.0
SECRET = {"TIDEGATE_SITE_SECRET": "a-secret-of-these-tests-alone"}


class Site:
    """A cluster's topics with one model on record, whose replicas all are the one engine that is emulated."""

    def __init__(self, kafka: RealKafka, cluster: str, folder: Path) -> None:
        self.connection = Connection((kafka.bootstrap_servers,))
        self.layout = Layout(f"tidegate.{cluster}", 2)
        self.folder = folder
        self._log = KafkaLog(self.connection, self.layout)
        self._steps = 0
        self._epoch = 0
        self._cluster = cluster
        self.write(by="scrapers")

    def write(self, *, by: str, **log: Any) -> None:
        """``log``: what it says besides, or otherwise."""
        kafka = {"kind": "kafka", "bootstrap_servers": str(self.connection), "partitions": 2}
        pools = {"local": {"kind": "local", "gpus": 8}}
        site = {"cluster": self._cluster, "pools": pools, "log": kafka | log, "scrape": {"by": by}}
        (self.folder / "site.yaml").write_text(json.dumps(site))

    async def declare(self, engine: EmulatorProcess, patience_s: float = PATIENCE_S) -> None:
        await initialised(self.connection, self.layout, alter=False, dry_run=False)
        self._epoch = (await self._log.acquire_leadership("test")).number
        site = replace(site_spec(), limits=Limits(signal_patience_s=patience_s))
        changes: dict[Any, Any] = {("control", ""): ControlState(site=site)}
        changes["model", "chat"] = ModelState("chat", model_spec("chat"), target=len(REPLICAS))
        for name in REPLICAS:
            changes["replica", name] = replace(replica(name), url=engine.url)
        changes["replica", "chat-24-g1"] = replace(replica("chat-24-g1"), url=engine.url, phase=ReplicaPhase.LOADING)
        await self.commit(changes)

    async def commit(self, changes: dict[Any, Any]) -> None:
        self._steps += 1
        await self._log.commit(StepRecord(self._steps, self._epoch, SystemClock().now(), (), changes))

    async def close(self) -> None:
        await self._log.close()

    async def samples(self) -> dict[str, list[MetricSample]]:
        """By replica, in the order of the log."""
        found = defaultdict(list)
        for record in await messages(self.connection, self.layout, "signals"):
            sample: MetricSample = wire.loads(MetricSample, record.value)
            found[sample.replica_id].append(sample)
        return found


class Scraper:
    """``tidegate scraper``, and what its log says."""

    def __init__(self, folder: Path, name: str, secrets: Mapping[str, str] = SECRET) -> None:
        self._log = folder / f"{name}.log"
        with self._log.open("a") as errors:
            self.process = start(
                "scraper", folder=folder, environment=secrets, output=subprocess.DEVNULL, errors=errors.fileno()
            )

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def started(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        return bool(self.said("scraper_ready"))

    def share(self) -> int:
        """How many replicas it reads, as far as it said."""
        assert self.process.poll() is None, self._log.read_text()
        return self.said("shares_changed")[-1]["share"] if self.said("shares_changed") else 0

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def scrapers(site: Site) -> Iterator[Any]:
    """Starts another at each call."""
    running: list[Scraper] = []

    def begin() -> Scraper:
        running.append(Scraper(site.folder, f"scraper{len(running)}"))
        return running[-1]

    try:
        yield begin
    finally:
        for scraper in running:
            if scraper.process.poll() is None:
                scraper.process.kill()
                scraper.process.wait()


@pytest.fixture
def engine() -> Iterator[EmulatorProcess]:
    with emulator("--load-time", "0s") as process:
        yield process


@pytest.fixture
async def site(kafka: RealKafka, kafka_cluster: str, tmp_path: Path) -> Any:
    made = Site(kafka, kafka_cluster, tmp_path)
    yield made
    await made.close()


async def test_one_that_dies_is_paused_or_ends_leaves_its_share_to_the_others_and_every_replica_is_read_on(
    site: Site, engine: EmulatorProcess
) -> None:
    await site.declare(engine)
    with scrapers(site) as begin:
        first = begin()
        await eventually(lambda: first.share() == len(REPLICAS), "one alone reads all")
        second = begin()
        await eventually(lambda: 0 < second.share() == len(REPLICAS) - first.share(), "two read all between them")
        await until_answered(site.samples, lambda found: found.keys() == set(REPLICAS), "all are read")
        first.end(signal.SIGKILL)
        await eventually(lambda: second.share() == len(REPLICAS), "the other reads all")
        third = begin()
        await eventually(lambda: 0 < third.share() == len(REPLICAS) - second.share(), "two read all again")
        second.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: third.share() == len(REPLICAS), "the third reads all while the second is paused")
        second.process.send_signal(signal.SIGCONT)
        await eventually(lambda: 0 < third.share() == len(REPLICAS) - second.share(), "the second has its share back")
        assert second.end() == Exit.OK
        await eventually(lambda: third.share() == len(REPLICAS), "the third reads all after the second's end")
        taken_over_at = SystemClock().now()
        found = await until_answered(
            site.samples,
            lambda found: all(samples[-1].observed_at > taken_over_at for samples in found.values()),
            "all are read on",
        )
        assert third.end() == Exit.OK
    beats = await messages(site.connection, site.layout, "scrapers")
    assert [beat.value for beat in beats if beat.key.decode() == second.said("scraper_ready")[0]["scraper"]][-1] is None
    assert beats[-1].value is None
    assert found.keys() == set(REPLICAS)
    for samples in found.values():
        times = sorted(sample.observed_at for sample in samples)
        assert max(later - earlier for earlier, later in pairwise(times)) < PATIENCE_S
        assert len(set(samples)) == len(set(times))  # one that was written twice is the same, and counts once


async def test_while_kafka_is_away_each_goes_on_with_its_share_and_writes_it_afterwards(
    site: Site, engine: EmulatorProcess, kafka: RealKafka
) -> None:
    await site.declare(engine)
    with scrapers(site) as begin:
        first, second = begin(), begin()
        await eventually(lambda: 0 < second.share() == len(REPLICAS) - first.share(), "two read all between them")
        await until_answered(site.samples, lambda found: found.keys() == set(REPLICAS), "all are read")
        kafka.pause(1)
        away_at = SystemClock().now()
        await asyncio.sleep(12.0)
        back_at = SystemClock().now()
        kafka.resume(1)
        found = await until_answered(
            site.samples,
            lambda found: all(samples[-1].observed_at > back_at for samples in found.values()),
            "all are read after it",
        )
        assert not [scraper for scraper in (first, second) if scraper.said("measurements_dropped")]
    for samples in found.values():
        assert [sample for sample in samples if away_at + 4.0 < sample.observed_at < back_at - 1.0]


def test_a_broker_that_leaves_it_to_scrapers_reads_nothing_and_without_one_nothing_scales_in(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    memory = Kafka(kafka.bootstrap_servers, kept=True)
    text = (
        f"cluster: {kafka_cluster}\npools: {{local: {{kind: local, gpus: 2, state_dir: replicas, log_dir: log}}}}\n"
        f"log: {memory.log}\napi: {{port: 0}}\nscrape: {{by: scrapers}}\n"
    )
    stack = Stack(tmp_path, text, POLICIES, ("chat",), kafka_cluster, environment={"PYTHONPATH": str(ROOT)})
    stack.write_files()
    asyncio.run(memory.make(tmp_path / "site.yaml"))
    layout, connection = Layout(f"tidegate.{kafka_cluster}", 2), Connection((kafka.bootstrap_servers,))
    with ExitStack() as ended:
        ended.callback(stack.stop)
        stack.start_broker()
        stack.start_worker()
        client = ended.enter_context(stack.client())

        def ready() -> int:
            return sum(found["phase"] == "ready" for found in client.get("/v1/endpoints").json()["endpoints"])

        def calm() -> bool:
            """Whether a worker says that there is nothing to do, as it does while it knows of no replica."""
            told = asyncio.run(messages(connection, layout, "model-snapshots"))
            latest: list[ModelSnapshot] = [wire.loads(ModelSnapshot, message.value) for message in told[-1:]]
            return not latest or latest[0].reading(Signal.REQUESTS_PER_REPLICA).freshness is Freshness.FRESH

        def told(event: str) -> int:
            return (tmp_path / "broker.log").read_text().count(f'"event": "{event}"')

        command = partial(tidegate, environment=stack.secrets | {"TIDEGATE_BROKER": stack.broker_url})
        assert command("scale", "chat", "2", "--for", "10m", "--because", "a test").exit_code == 0
        until(lambda: ready() == 2, "two replicas serve")
        until(lambda: not calm(), "the worker knows of them")
        assert command("hold", "chat", "--release").exit_code == 0
        until(lambda: told("no_scraper"), "the broker says that nobody scrapes")
        time.sleep(4.0)  # for longer than the policy waits
        assert ready() == 2
        assert asyncio.run(messages(connection, layout, "signals")) == []

        scraper = Scraper(tmp_path, "scraper", stack.secrets)
        ended.callback(scraper.end)
        until(lambda: ready() == 1, "what a scraper reads lets one go")
        until(lambda: told("scraper_heard"), "the broker says that somebody does")
        assert told("no_scraper") == 1


@pytest.mark.repeats
async def test_with_its_only_scraper_dead_a_models_signals_go_stale(site: Site, engine: EmulatorProcess) -> None:
    await site.declare(engine, patience_s=6.0)

    async def running() -> Freshness:
        snapshots = await messages(site.connection, site.layout, "model-snapshots")
        if not snapshots:
            return Freshness.ABSENT
        latest: ModelSnapshot = wire.loads(ModelSnapshot, snapshots[-1].value)
        return latest.reading(Signal.REQUESTS_RUNNING).freshness

    with scrapers(site) as begin, worker(site.folder):
        first = begin()
        await until_answered(running, lambda found: found is Freshness.FRESH, "its signals are fresh", 60.0)
        first.end(signal.SIGKILL)
        await until_answered(running, lambda found: found is Freshness.STALE, "they go stale", 60.0)
        begin()
        await until_answered(running, lambda found: found is Freshness.FRESH, "another makes them fresh", 60.0)


async def test_a_scraper_needs_no_rights_but_those_that_the_page_names(
    secured: RealKafka, kafka_cluster: str, tmp_path: Path, engine: EmulatorProcess
) -> None:
    site = Site(secured, kafka_cluster, tmp_path)
    await site.declare(engine)
    await site.close()
    site.write(by="scrapers", bootstrap_servers=secured.servers(Listener.SASL), sasl={"user": GUEST})
    rights = {"": DESCRIBE, "state": READ, "scrapers": READ, "signals": WRITE}
    for topic, right in [*rights.items(), ("scrapers", WRITE)]:
        await asyncio.to_thread(allow, secured, TOPIC, site.layout.name(topic), right)
    scraper = Scraper(tmp_path, "scraper", SECRET | {"TIDEGATE_KAFKA_PASSWORD": GUEST_PASSWORD})
    try:
        await until_answered(site.samples, lambda found: found.keys() == set(REPLICAS), "all are read", 60.0)
    finally:
        assert scraper.end() == Exit.OK


async def test_a_site_whose_broker_scrapes_or_that_has_no_secret_is_refused(site: Site) -> None:
    status, _, error = run("scraper", folder=site.folder)
    assert (status, "no site secret" in error) == (Exit.USAGE, True), error
    site.write(by="broker")
    status, _, error = run("scraper", folder=site.folder, environment=SECRET)
    assert status == Exit.USAGE
    assert "scrape.by: the broker of this site scrapes by itself; set it to scrapers" in error
