"""`tidegate adopt` where the log that lost its jobs is in Kafka."""

from __future__ import annotations

import json
from asyncio import to_thread
from pathlib import Path

import pytest

from broker.log.kafka.log import KafkaLog
from cli.output import Exit
from tests.support.real_kafka import RealKafka
from tests.unit.cli.test_adopt import JOB, MARK, adopt

pytestmark = pytest.mark.integration


async def test_jobs_are_taken_back_into_kafka_unless_a_broker_leads(
    log: KafkaLog, kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    section = json.dumps(
        {"kind": "kafka", "bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": kafka_cluster, "partitions": 2}
    )
    await log.acquire_leadership("a broker that runs")
    refused = await to_thread(lambda: adopt(tmp_path, "--yes", jobs=[JOB], log=section))
    assert (refused.exit_code, "led by a broker that runs" in refused.stderr) == (Exit.REFUSED, True), refused.stderr
    await log.close()
    taken = await to_thread(lambda: adopt(tmp_path, "--yes", jobs=[JOB], log=section))
    assert taken.exit_code == Exit.OK, taken.stderr
    assert MARK.replica_id in (await log.load()).state.replicas_of("chat")
    await log.close()
