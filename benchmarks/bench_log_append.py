"""Append to the embedded log: group commit with fsync, from many tasks at once.

200 tasks stand for gateways: each appends one request summary as a JSON record of about 480 bytes, waits until
it survives a power cut, and appends the next. A commit's latency is what one task waits. The same run reports steps
committed one after the other, as the broker's loop does.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks.base import Measurement
from broker.log.sqlite import SqliteLog
from broker.model import wire
from broker.model.ports import Log
from tests.support.builders import request_summary, step_record

TASKS = 200
RECORDS_PER_APPEND = 1
RUN_S = 4.0
WARM_UP_S = 0.5
STEPS = 2000


def run() -> list[Measurement]:
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        return asyncio.run(_measure(Path(folder) / "log.db"))


async def _measure(path: Path) -> list[Measurement]:
    log = SqliteLog(path)
    epoch = await log.acquire_leadership("benchmark")
    try:
        await append_for(log, WARM_UP_S)
        began = time.perf_counter()
        waits_s = await append_for(log, RUN_S)
        elapsed_s = time.perf_counter() - began
        step_waits_s = [await waited_s(log.commit, step_record(n, epoch=epoch.number)) for n in range(1, STEPS + 1)]
    finally:
        await log.close()
    shape = {"tasks": TASKS, "records_per_append": RECORDS_PER_APPEND}
    return [
        Measurement(
            "log_append_throughput",
            round(len(waits_s) * RECORDS_PER_APPEND / elapsed_s),
            "records/s",
            20_000,
            higher_is_better=True,
            details=shape,
        ),
        Measurement(
            "log_append_commit_p99",
            round(1e3 * quantile(waits_s, 0.99), 2),
            "ms",
            20.0,
            details=shape
            | {
                "p50_ms": round(1e3 * quantile(waits_s, 0.5), 2),
                "max_ms": round(1e3 * max(waits_s), 2),
                "steps_per_s": round(STEPS / sum(step_waits_s)),
                "step_commit_p99_ms": round(1e3 * quantile(step_waits_s, 0.99), 2),
            },
        ),
    ]


async def append_for(log: Log, duration_s: float) -> list[float]:
    waits_s: list[float] = []
    record = wire.encode(request_summary())
    until = time.perf_counter() + duration_s

    async def gateway() -> None:
        while time.perf_counter() < until:
            waits_s.append(await waited_s(log.append, "requests", [record] * RECORDS_PER_APPEND))

    await asyncio.gather(*(gateway() for _ in range(TASKS)))
    return waits_s


async def waited_s(write: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> float:
    began = time.perf_counter()
    await write(*arguments)
    return time.perf_counter() - began


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
