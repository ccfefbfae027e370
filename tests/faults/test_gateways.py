"""Gateways that die in a drain, or never say that they have applied it: the drain ends when it says it does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.cluster import Cluster, cluster, load, policies_yaml
from tests.faults.conftest import Note

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SESSION_S = 5.0
DRAIN_LIMIT_S = 9.0


class SilentGateway:
    """Keeps a session alive and never applies anything."""

    def __init__(self, running: Cluster, gateway_id: str = "silent") -> None:
        headers = {"Authorization": f"Bearer {running.stack.secrets['TIDEGATE_GATEWAY_TOKEN']}"}
        self._client = httpx.AsyncClient(base_url=running.stack.broker_url, headers=headers, trust_env=False)
        self._path = f"/v1/gateways/{gateway_id}"
        self._sequence = 0
        self._task = asyncio.create_task(self._report_for_ever())
        self.last_report_at = 0.0

    async def _report_for_ever(self) -> None:
        while True:
            self._sequence += 1
            body = {"boot_id": "one", "sequence": self._sequence, "applied_revision": 0, "observed_at": time.time()}
            (await self._client.put(self._path, json=body)).raise_for_status()
            self.last_report_at = time.time()
            await asyncio.sleep(0.5)

    async def die(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()


@contextlib.asynccontextmanager
async def silent_gateway(running: Cluster) -> AsyncIterator[SilentGateway]:
    gateway = SilentGateway(running)
    try:
        await asyncio.sleep(1.0)
        yield gateway
    finally:
        await gateway.die()


async def drained(running: Cluster) -> dict[str, Any]:
    """The first replica that was drained for scale-in, once it is gone."""

    def holds(replicas: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((r for r in replicas if r["phase"] == "gone" and r["drain"]), None)

    found: dict[str, Any] = await running.until(holds)
    return found


async def stopped_at(running: Cluster) -> float:
    """When the draining replica was told to exit, in seconds since the epoch."""

    def holds(replicas: list[dict[str, Any]]) -> float | None:
        return next((r["phase_since"] for r in replicas if r["phase"] == "stopping" and r["drain"]), None)

    found: float = await running.until(holds)
    return found


async def test_a_gateway_that_never_acknowledges_holds_a_drain_until_its_stated_limit(
    tmp_path: Path, note: Note
) -> None:
    policies = policies_yaml(drain_limit=f"{DRAIN_LIMIT_S:g}s")
    async with cluster(tmp_path, policies=policies) as running, load(running) as streams, silent_gateway(running):
        await running.scale(2)
        await running.settled(2)
        await running.scale(1)
        stop_at = await stopped_at(running)
        replica = await drained(running)
        lasted_s = stop_at - replica["drain"]["began_at"]
        note(f"the drain lasted {lasted_s:.2f} s, its limit is {DRAIN_LIMIT_S:g} s")
        assert DRAIN_LIMIT_S <= lasted_s < DRAIN_LIMIT_S + 3.0
        assert replica["drain"]["awaiting"], "it went on although nobody was waited for"
        assert replica["in_flight_at_stop"] == 0
        await running.settled(1)
        await running.no_orphan_no_double()
        streams.stop()
    streams.all_finished()
    running.no_traceback()


async def test_a_gateway_that_dies_before_it_acknowledges_holds_a_drain_until_its_session_ends(
    tmp_path: Path, note: Note
) -> None:
    async with cluster(tmp_path) as running, load(running) as streams, silent_gateway(running) as silent:
        await running.scale(2)
        await running.settled(2)
        await running.scale(1)
        await asyncio.sleep(2.0)
        await silent.die()
        stop_at = await stopped_at(running)
        replica = await drained(running)
        waited_s = stop_at - silent.last_report_at
        note(f"the drain went on {waited_s:.2f} s after the gateway's last word, sessions end after {SESSION_S:g} s")
        assert SESSION_S <= waited_s < SESSION_S + 3.0
        assert replica["in_flight_at_stop"] == 0
        await running.settled(1)
        streams.stop()
    streams.all_finished()
    running.no_traceback()


async def test_a_gateway_killed_in_a_drain_with_streams_open_leaves_no_replica_behind(
    tmp_path: Path, note: Note
) -> None:
    async with cluster(tmp_path) as running:
        await running.scale(2)
        await running.settled(2)
        async with load(running) as streams:
            await asyncio.sleep(3.0)
            await running.scale(1)
            await running.until(lambda replicas: any(r["phase"] == "draining" for r in replicas))
            await asyncio.to_thread(running.stack.stop_process, running.stack.gateway, kill=True)
            killed_at = time.time()
            streams.stop()
            stop_at = await stopped_at(running)
        replica = await drained(running)
        note(f"the drain went on {stop_at - killed_at:.2f} s after the only gateway was killed")
        assert stop_at - killed_at < SESSION_S + 3.0
        assert replica["in_flight_at_stop"] == 0, "the engine had dropped its streams with their connections"
        await running.settled(1)
        await running.no_orphan_no_double()
        await running.start_gateway()
        async with load(running) as streams:
            await asyncio.sleep(2.0)
            streams.stop()
        streams.all_finished()
        running.no_traceback()
