"""What must hold while a broker cannot write to its log, and after it can again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from tests.faults.cluster import Cluster
from tests.support.waiting import until_answered


async def health(running: Cluster) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=running.stack.broker_url, trust_env=False) as client:
        body: dict[str, Any] = (await client.get("/healthz")).json()
        return body


async def until_health(running: Cluster, holds: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
    return await until_answered(lambda: health(running), holds, "the broker's health is as expected", timeout_s)


async def serves_on_while_its_log_refuses(
    running: Cluster, words: str, recover: Callable[[], object], for_s: float = 2.0
) -> None:
    """Degraded, in words; what serves serves; nothing is started or stopped; it goes on by itself after ``recover``,
    ``for_s`` later."""
    found = await until_health(running, lambda body: words in (body["problem"] or ""), 40.0)
    assert found["status"] == "degraded"
    before = running.processes()
    async with running.operator() as client:
        body = {"model_id": "chat", "target": 3, "for_s": 600, "because": "a test", "author": "tests"}
        answer = await client.post("/v1/overrides", json=body, timeout=20.0)
    assert answer.status_code == 503
    assert words in answer.json()["error"]["message"]
    await asyncio.sleep(for_s)
    assert running.processes() == before, "something was started or stopped that is not written down"
    assert (await running.get("/v1/endpoints"))["endpoints"]
    await asyncio.to_thread(recover)
    await until_health(running, lambda body: body["status"] == "ok", 40.0)
    await running.scale(2)
    await running.settled(2)
    await running.no_orphan_no_double()
