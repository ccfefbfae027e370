"""Two brokers on a log in Kafka, restarted one after the other: the longest time in which nothing was decided.

One real node on this machine, brokers as real processes with the terms of a site that says nothing of them. A model's
snapshot is written each 0.1 s, as a worker does; each of the two leaders in turn gets SIGTERM while another stands by.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.base import Measurement
from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout
from broker.log.kafka.writer import Terms
from tests.support.broker_processes import longest_gap_s, make_site
from tests.support.real_kafka import RealKafka


def run() -> list[Measurement]:
    with RealKafka(heap_mib=512) as kafka, tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        gap_s = asyncio.run(_restarted(Path(folder), Connection((kafka.bootstrap_servers,)), Layout("restarts")))
    return [Measurement("rolling_restart", round(gap_s, 2), "s", Terms().lease_s)]


async def _restarted(folder: Path, connection: Connection, layout: Layout) -> float:
    await make_site(folder / "site", connection, layout)
    return await longest_gap_s(folder / "site", connection, layout)
