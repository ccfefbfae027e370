"""Live brokers with their log in a real Kafka, the first of which leads while the others stand by."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from aiokafka.admin import NewPartitions

from broker.app.faultpoints import VARIABLE
from broker.log.kafka.client import Connection, started
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from tests.faults.cluster import Cluster, brought_up, site_yaml
from tests.support.ports import free_port
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually

_numbers = itertools.count(1)


class KafkaCluster(Cluster):
    """Its brokers lead in the order in which they were started. ``points``: where each of them dies, "" for one that
    does not; ``start_broker`` lets the next one lead. ``partitions``: of topics that are to have more than they should.
    """

    def __init__(
        self, kafka: RealKafka, folder: Path, points: Sequence[str], partitions: Mapping[str, int]
    ) -> None:  # fmt: skip
        name = f"faults-{os.getpid()}-{next(_numbers)}"
        self.kafka = kafka
        self.connection = Connection(tuple(kafka.bootstrap_servers.split(",")))
        self.layout = Layout(name)
        self.fail_overs_s: list[float] = []
        """From the death of each broker that was killed until the next one answered."""
        log = f"kind: kafka, bootstrap_servers: {json.dumps(self.connection.servers)}, topic_prefix: {name}"
        self._site = site_yaml(name, free_port(), log=f"{log}, client_id: broker-%d")
        self._points = points
        self._partitions = partitions
        self._line: deque[tuple[str, str, subprocess.Popen[bytes]]] = deque()
        super().__init__(folder, site=self._site)

    async def start_broker(self, point: str = "") -> bool:
        if not self.brokers:
            await self._line_up()
        previous, began = self.stack.broker, time.monotonic()
        address, armed, self.stack.broker = self._line.popleft()
        assert point in ("", armed)
        led = await self._comes_up(lambda: self.stack.await_broker(address))
        if led and previous is not None and previous.returncode == -9:
            self.fail_overs_s.append(time.monotonic() - began)
        return led

    def leader_and_next(self) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
        assert self.stack.broker is not None
        return self.stack.broker, self._line[0][2]

    def foreign_broker(self) -> subprocess.Popen[bytes]:
        """One of another cluster with the same topics. It is the next to lead, and takes an epoch."""
        self.brokers += 1
        site = (self._site % 0).replace(f"cluster: {self.stack.cluster}", "cluster: another")
        (self.stack.folder / "another.yaml").write_text(site.replace("broker-0", "broker-0-another"))
        process = self.stack.spawn_broker("another.address", site="another.yaml")
        self._line.append(("another.address", "", process))
        return process

    async def end(self) -> None:
        for _, _, process in self._line:
            process.kill()  # paused or not
            process.wait()
        await super().end()

    def opened_log(self) -> KafkaLog:
        return KafkaLog(self.connection, self.layout)

    async def _line_up(self) -> None:
        """All brokers, by names in whose order the control group chooses among those that stand by."""
        await initialised(self.connection, self.layout, alter=False, dry_run=False)
        unlike = {self.layout.name(topic): NewPartitions(count) for topic, count in self._partitions.items()}
        async with started(self.connection, self.connection.admin()) as admin:
            await admin.create_partitions(unlike)
        for number, point in enumerate(self._points):
            site, address = f"site-{number}.yaml", f"broker-{number}.address"
            (self.stack.folder / site).write_text(self._site % number)
            self.stack.environment = {VARIABLE: point}
            self._line.append((address, point, self.stack.spawn_broker(address, site=site)))
            if not number:
                await eventually(lambda: self.logged("leadership_taken"), "the first leads")
        await eventually(lambda: len(self.logged("standing_by")) == len(self._points) - 1, "the others stand by")


@contextlib.asynccontextmanager
async def kafka_cluster(
    kafka: RealKafka, folder: Path, *points: str, ready: int = 1, partitions: Mapping[str, int] | None = None
) -> AsyncIterator[KafkaCluster]:
    """Running brokers on that Kafka (by default two), a gateway and ``ready`` replicas, ended whatever happens."""
    made = KafkaCluster(kafka, folder, points or ("", ""), partitions or {})
    async with brought_up(made, ready=0):
        if ready:
            await made.scale(ready)
            await made.settled(ready)
        yield made
