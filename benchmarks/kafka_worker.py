"""``tidegate worker`` as a process of its own, for benchmarks on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout

LIMIT_S = 240.0


class WorkerProcess:
    """The watchdog, whose child does the work."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def lines(self, event: str, count: int) -> AsyncIterator[dict[str, Any]]:
        """Its next ``count`` lines of this event."""
        assert self._process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            while count:
                line = json.loads(await self._process.stderr.readline())
                if line["event"] == event:
                    count -= 1
                    yield line

    async def opened(self, layout: Layout) -> list[dict[str, Any]]:
        """Returns once it owns all partitions, with what it said of each."""
        return [line async for line in self.lines("partition_opened", layout.partitions)]

    def _child(self) -> psutil.Process:
        (child,) = psutil.Process(self._process.pid).children()
        return child

    def cpu_s(self) -> float:
        times = self._child().cpu_times()
        return round(times.user + times.system, 2)

    def memory_mb(self) -> float:
        return round(self._child().memory_info().rss / 1e6, 1)


@asynccontextmanager
async def worker_process(connection: Connection, layout: Layout) -> AsyncIterator[WorkerProcess]:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site.yaml"
        site.write_text(
            f"cluster: bench\npools: {{local: {{kind: local, gpus: 8}}}}\n"
            f"log: {{kind: kafka, bootstrap_servers: '{connection}', topic_prefix: {layout.prefix}}}\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", "worker", "--site", str(site), stderr=subprocess.PIPE
        )
        try:
            yield WorkerProcess(process)
        finally:
            process.terminate()
            await process.communicate()
