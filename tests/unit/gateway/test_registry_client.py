"""What the gateway says of a broker that is not there; following one is in ``tests/integration/gateway``."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
from structlog.testing import capture_logs

from gateway.registry_client import RegistryClient
from gateway.table import RoutingTable


async def test_a_broker_that_is_not_there_yet_is_one_plain_warning_for_each_try() -> None:
    async with aiohttp.ClientSession() as session:
        registry = RegistryClient(session, "http://127.0.0.1:1", "token", RoutingTable(), lambda: None)
        with capture_logs() as told, suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await registry.run()
    problem = "no broker answers at 127.0.0.1:1 (Connection refused); is `tidegate run` up?"
    assert told
    assert [line["failures"] for line in told] == list(range(1, len(told) + 1))
    assert {(line["event"], line["problem"]) for line in told} == {("registry_stream_lost", problem)}
