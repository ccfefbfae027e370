"""Brokers of one site with a log in Kafka, as processes of `tidegate run`: one leads, the others stand by."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count, pairwise
from pathlib import Path
from subprocess import Popen

import httpx

from broker.app.runtime import cancel
from broker.clock import SystemClock
from broker.log.kafka.client import Connection, started
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.snapshot import ModelSnapshot
from tests.support.builders import model_snapshot
from tests.support.command_line import start, tidegate
from tests.support.waiting import eventually

TOLD_EVERY_S = 0.1
MODEL = "chat"
POLICIES = f"""\
models:
  {MODEL}:
    engine: {{command: [serve]}}
    min: 0
    max: 1
    policy: {{kind: threshold, rules: [{{name: never, signal: queue_age_s, above: 24h, change: 1}}]}}
"""


async def make_site(folder: Path, connection: Connection, layout: Layout, *, lease_s: float = 5.0) -> None:
    """That of `tidegate init`, its log in Kafka, with the topics."""
    assert tidegate("init", folder).exit_code == 0
    site = folder / "site.yaml"
    log = (
        f"kind: kafka\n  bootstrap_servers: {connection}\n  topic_prefix: {layout.prefix}\n"
        f"  partitions: {layout.partitions}\n  lease: {lease_s:g}s"
    )
    text = re.sub("kind: sqlite(\n  .*)*", log, site.read_text())
    site.write_text(text.replace("port: 8600", "port: 0"))
    (folder / "policies.yaml").write_text(POLICIES)
    await initialised(connection, layout, alter=False, dry_run=False)


class BrokerProcess:
    def __init__(self, folder: Path, name: str) -> None:
        self._address, self._log = folder / f"{name}.address", folder / f"{name}.log"
        with self._log.open("a") as errors:
            words = ["run", "--address-file", self._address.name]
            self.process: Popen[str] = start(*words, folder=folder, output=subprocess.DEVNULL, errors=errors.fileno())

    def leads(self) -> bool:
        assert self.process.poll() is None, self.said()
        return self._address.exists()

    def stands_by(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "standing_by" in self.said()

    @property
    def address(self) -> str:
        """Where it answers, once it leads."""
        return self._address.read_text().strip()

    def answers(self) -> bool:
        return httpx.get(f"{self.address}/healthz", trust_env=False).status_code == 200

    def said(self) -> str:
        return self._log.read_text()

    def ended(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def brokers() -> Iterator[list[BrokerProcess]]:
    """Those that are put into the list end with the block."""
    running: list[BrokerProcess] = []
    try:
        yield running
    finally:
        for broker in running:
            if broker.process.poll() is None:
                broker.process.kill()
                broker.process.wait()


async def longest_gap_s(folder: Path, connection: Connection, layout: Layout) -> float:
    """While two brokers are restarted one after the other: the longest time between two steps that decided on what a
    worker tells each 0.1 s."""
    with brokers() as running:
        async with _telling(connection, layout):
            leader = BrokerProcess(folder, "first")
            running.append(leader)
            await eventually(leader.leads, "the first leads")
            for name in ("second", "third"):
                stand_by = BrokerProcess(folder, name)
                running.append(stand_by)
                await eventually(stand_by.stands_by, f"the {name} stands by")
                assert await asyncio.to_thread(leader.ended) == 0, leader.said()
                await eventually(stand_by.leads, f"the {name} leads")
                leader = stand_by
            await asyncio.sleep(10 * TOLD_EVERY_S)
        assert await asyncio.to_thread(leader.ended) == 0, leader.said()
    decided_at = await _decided_at(KafkaLog(connection, layout))
    return max(after - before for before, after in pairwise(decided_at))


@asynccontextmanager
async def _telling(connection: Connection, layout: Layout) -> AsyncIterator[None]:
    async def tell() -> None:
        clock = SystemClock()
        async with started(connection, connection.producer()) as producer:
            for sequence in count(1):
                told = wire.dumps(model_snapshot(MODEL, sequence, clock.now())).encode()
                await producer.send_and_wait(layout.name("model-snapshots"), told, key=MODEL.encode())
                await asyncio.sleep(TOLD_EVERY_S)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        await cancel([telling])


async def _decided_at(log: KafkaLog) -> list[float]:
    try:
        return [
            record.now
            async for record in log.steps()
            if any(isinstance(seen, ModelSnapshot) for seen in record.observations)
        ]
    finally:
        await log.close()
