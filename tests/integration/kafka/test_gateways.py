"""A gateway that reports by topics: a broker's drains wait for it as for one that reports by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.log.kafka.client import Connection, Sasl, Tls
from broker.log.kafka.outbox import News, Outbox
from broker.model import wire
from broker.model.api import GatewaySession
from tests.faults.cluster import ENDED, load
from tests.faults.kafka.cluster import KafkaCluster, kafka_cluster
from tests.integration.gateway.site import Site
from tests.integration.gateway.topics import heard_by
from tests.integration.kafka.sites import TOPIC, WRITE, allow, messages
from tests.support.real_kafka import GUEST, GUEST_PASSWORD, Listener, RealKafka
from tests.support.waiting import eventually, until_answered

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LONGER_THAN_A_SESSION_S = 7.0


class SlowGateway:
    """Tells twice a second that it has applied ``applied_revision``, which tests raise, and has ``in_flight`` open."""

    def __init__(self, running: KafkaCluster) -> None:
        self.applied_revision = 0
        self.in_flight: dict[str, int] = {}
        self.outbox = Outbox(running.connection, running.layout)

    async def report_for_ever(self) -> None:
        sequence = 0
        while True:
            sequence += 1
            told = GatewaySession("one", sequence, self.applied_revision, SystemClock().now(), self.in_flight)
            self.outbox.tell(News("gateway-sessions", "slow", wire.dumps(told)))
            await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def slow_gateway(running: KafkaCluster) -> AsyncIterator[SlowGateway]:
    made = SlowGateway(running)
    tasks = [asyncio.create_task(made.report_for_ever()), asyncio.create_task(made.outbox.run())]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_drain_waits_for_what_every_gateway_says_by_topic_also_with_kafka_away_meanwhile(
    kafka: RealKafka, tmp_path: Path
) -> None:
    async with kafka_cluster(kafka, tmp_path, "", ready=2) as running, load(running) as streams:
        async with slow_gateway(running) as slow:
            slow.outbox.tell(News("gateway-sessions", "garbage", "{"))
            await until_answered(lambda: dead_letters(running), bool, "what cannot be read is set aside")
            await running.scale(1)
            (drained,) = await running.until(draining)
            slow.in_flight = {drained: 1}
            await until_answered(
                lambda: told_sessions(running),
                lambda found: sum(told.in_flight == {drained: 1} for _, told in found) > 2,
                "what is open is told, and told again once the broker had time to hear it",
            )
            slow.applied_revision = (await running.get("/v1/endpoints"))["revision"]
            kafka.pause(1)
            await asyncio.sleep(LONGER_THAN_A_SESSION_S)
            kafka.resume(1)
            await asyncio.sleep(LONGER_THAN_A_SESSION_S)
            assert await running.until(draining) == [drained], "one has something open there, heard or not"
            slow.in_flight = {}
            await running.until(lambda replicas: phase_of(drained, replicas) in ENDED)
        await running.settled(1)
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    (letter,) = await dead_letters(running)
    assert (letter["topic"], letter["reason"][:8]) == (running.layout.name("gateway-sessions"), "not JSON")
    sessions = [told for gateway_id, told in await told_sessions(running) if gateway_id == "demo-gateway"]
    assert sessions[-1].closed, "its end is told by topic too"
    assert sum(told.closed for told in sessions) == 1


def draining(replicas: list[dict[str, Any]]) -> list[str]:
    return [replica["replica_id"] for replica in replicas if replica["phase"] == "draining"]


def phase_of(replica_id: str, replicas: list[dict[str, Any]]) -> str:
    (phase,) = [str(replica["phase"]) for replica in replicas if replica["replica_id"] == replica_id]
    return phase


async def dead_letters(running: KafkaCluster) -> list[Any]:
    log = running.opened_log()
    try:
        return [letter async for letter in log.records("dead-letters")]
    finally:
        await log.close()


async def told_sessions(running: KafkaCluster) -> list[tuple[str, GatewaySession]]:
    """All that can be read, in order, with who told it."""
    found = await messages(running.connection, running.layout, "gateway-sessions")
    return [
        (record.key.decode(), wire.loads(GatewaySession, record.value)) for record in found if record.key != b"garbage"
    ]


async def test_a_gateway_needs_no_more_than_to_write_to_its_two_topics(secured: RealKafka, kafka_cluster: str) -> None:
    site = Site()
    async with heard_by(site.broker, secured.bootstrap_servers, kafka_cluster) as (_, layout):
        for topic in ("requests", "gateway-sessions"):
            await asyncio.to_thread(allow, secured, TOPIC, layout.name(topic), WRITE)
        servers = secured.servers(Listener.SASL_TLS)
        sasl = Sasl("SCRAM-SHA-512", GUEST, GUEST_PASSWORD)
        site.log = Connection((servers,), tls=Tls(secured.authority), sasl=sasl), layout
        try:
            await site.start()
            await site.ask()
            await eventually(lambda: site.broker.reports, "its session is told")
            await eventually(lambda: sum(summary.arrived for summary in site.broker.summaries()), "and its summaries")
        finally:
            await site.close()
