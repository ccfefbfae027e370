"""The program of docs/kafka.md that follows the registry, as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from dataclasses import replace
from pathlib import Path

import pytest

from broker.log.kafka.log import KafkaLog
from broker.model.replica import EndpointRecord, ReplicaPhase
from tests.support.builders import endpoint, step_record
from tests.support.command_line import ROOT
from tests.support.real_kafka import RealKafka

pytestmark = pytest.mark.integration

(PROGRAM,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "kafka.md").read_text(), re.DOTALL)


async def test_the_documented_consumer_follows_endpoints_as_they_come_and_go(
    log: KafkaLog, kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    assert len([line for line in PROGRAM.splitlines() if line]) <= 40
    await log.acquire_leadership("a broker")
    first, second = endpoint("chat-0-g1"), endpoint("chat-1-g1")
    await publish(log, 1, first, second)
    await publish(log, 2, replace(second, phase=ReplicaPhase.GONE))
    (tmp_path / "follow.py").write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "follow.py"), kafka.bootstrap_servers, kafka_cluster, stdout=PIPE
    )
    try:
        told = await next_of(process)
        assert (told["epoch"], told["leader"]) == (1, "a broker")
        assert told["endpoints"] == [["chat", first.url, 1, "ready"]]
        await publish(log, 3, replace(first, phase=ReplicaPhase.DRAINING))
        assert (await next_of(process))["endpoints"] == [["chat", first.url, 1, "draining"]]
        await publish(log, 4, replace(first, generation=2))
        assert (await next_of(process))["endpoints"] == [["chat", first.url, 2, "ready"]]
        await publish(log, 5, replace(first, phase=ReplicaPhase.GONE))
        assert (await next_of(process))["endpoints"] == []
    finally:
        process.kill()
        await process.communicate()
        await log.close()


async def publish(log: KafkaLog, number: int, *registry: EndpointRecord) -> None:
    await log.commit(replace(step_record(number), registry=registry))


async def next_of(process: asyncio.subprocess.Process) -> dict[str, object]:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        told: dict[str, object] = json.loads(await process.stdout.readline())
    return told
