"""The log in Kafka: commits, appends from many tasks, a large site's state rebuilt, a killed leader succeeded.

One real node on this machine, over loopback. Each commit is a transaction of its own, as in a broker that steps one
after the other; 200 tasks that append share transactions, as in ``log_append``. A leader that commits 50 steps a second
is killed, as a process, with the terms of a site that says nothing of them; its successor may act when it has stood by,
taken over, read the state, and waited for the old lease to end.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE

from benchmarks.base import Measurement
from benchmarks.bench_log_append import RECORDS_PER_APPEND, RUN_S, TASKS, WARM_UP_S, append_for, quantile, waited_s
from benchmarks.step_timing import site
from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.model.state import BrokerState
from tests.support.builders import step_record
from tests.support.real_kafka import RealKafka

WARM_UP_STEPS = 300
STEPS = 500
SESSION_S = 6.0
"""By default, and the least that a Kafka grants that was not told otherwise."""
STOOD_BY_S = 3.0


def run() -> list[Measurement]:
    with RealKafka(heap_mib=512) as kafka:
        connection = Connection((kafka.bootstrap_servers,))
        return [*asyncio.run(_measure(connection, Layout("bench"))), asyncio.run(_succeed(connection, Layout("leads")))]


async def _succeed(connection: Connection, layout: Layout) -> Measurement:
    await initialised(connection, layout, alter=False, dry_run=False)
    stands_by = asyncio.Event()
    successor = KafkaLog(connection, layout, session_s=SESSION_S, stand_by=lambda leader: stands_by.set())
    words = ["-m", "tests.integration.kafka.leader", *connection.servers, layout.prefix, "leader", str(SESSION_S)]
    leader = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=PIPE)
    try:
        assert leader.stdout is not None
        await leader.stdout.readuntil(f"wrote {WARM_UP_STEPS}\n".encode())
        leading = asyncio.create_task(successor.acquire_leadership("successor"))
        await stands_by.wait()
        await asyncio.sleep(STOOD_BY_S)
    finally:
        leader.kill()
    began = time.perf_counter()
    await leading
    assert successor.may_act()
    failover_s = time.perf_counter() - began
    await leader.communicate()
    await successor.close()
    return Measurement("failover", round(failover_s, 2), "s", 10.0, details={"session_s": SESSION_S})


async def _measure(connection: Connection, layout: Layout) -> list[Measurement]:
    await initialised(connection, layout, alter=False, dry_run=False)
    log, reader = KafkaLog(connection, layout), KafkaLog(connection, layout)
    epoch = (await log.acquire_leadership("benchmark")).number
    try:
        steps = range(1, WARM_UP_STEPS + STEPS + 1)
        cpu = time.process_time()
        waits_s = [await waited_s(log.commit, step_record(number, epoch=epoch)) for number in steps][WARM_UP_STEPS:]
        cpu_ms = 1e3 * (time.process_time() - cpu) / len(steps)
        await append_for(log, WARM_UP_S)
        began = time.perf_counter()
        appends = len(await append_for(log, RUN_S))
        elapsed_s = time.perf_counter() - began
        state = site().state
        large_s = await waited_s(log.commit, step_record(steps[-1] + 1, epoch=epoch, changes=state.entities()))
        began = time.perf_counter()
        rebuilt = await reader.load()
        rebuilt_s = time.perf_counter() - began
    finally:
        await log.close()
        await reader.close()
    return [
        Measurement(
            "kafka_commit_p99",
            round(1e3 * quantile(waits_s, 0.99), 1),
            "ms",
            150.0,
            details={
                "p50_ms": round(1e3 * quantile(waits_s, 0.5), 1),
                "max_ms": round(1e3 * max(waits_s), 1),
                "commits_per_s": round(len(waits_s) / sum(waits_s)),
                "cpu_ms": round(cpu_ms, 2),
            },
        ),
        Measurement(
            "kafka_append_throughput",
            round(appends * RECORDS_PER_APPEND / elapsed_s),
            "records/s",
            4_000,
            higher_is_better=True,
            details={"tasks": TASKS, "records_per_append": RECORDS_PER_APPEND},
        ),
        Measurement(
            "state_rebuild",
            round(rebuilt_s, 2),
            "s",
            5.0,
            details=_size(rebuilt.state) | {"written_s": round(large_s, 2)},
        ),
    ]


def _size(state: BrokerState) -> dict[str, int]:
    return {"models": len(state.models), "replicas": sum(map(len, state.replicas.values()))}
