"""What a gateway writes to topics of a real Kafka, handed to the pretended broker as if it had been told by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from broker.log.kafka.client import Connection
from broker.log.kafka.following import follow
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.api import GatewaySession
from broker.model.signals import RequestSummary
from tests.support.fake_broker import FakeBroker


@contextlib.asynccontextmanager
async def heard_by(broker: FakeBroker, servers: str, prefix: str) -> AsyncIterator[tuple[Connection, Layout]]:
    """Topics whose messages ``broker`` hears."""
    connection, layout = Connection((servers,)), Layout(prefix, partitions=2)
    await initialised(connection, layout, alter=False, dry_run=False)

    async def take(records: Sequence[Any]) -> None:
        for record in records:
            if record.topic == layout.name("requests"):
                broker.measured.append(wire.encode(wire.loads(RequestSummary, record.value)))
            else:
                told = wire.encode(wire.loads(GatewaySession, record.value))
                broker.reports.append(told | {"gateway_id": record.key.decode()})

    listening = asyncio.create_task(follow(connection, layout, ["requests", "gateway-sessions"], take, since=0.0))
    try:
        yield connection, layout
    finally:
        listening.cancel()
        await asyncio.wait([listening])
