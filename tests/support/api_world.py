"""A running broker without sockets: the runtime over a log in memory and a pretended pool, and its API's client.

Use it under virtual time (``@pytest.mark.looptime``): nothing in it suspends for anything but the clock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, MutableSequence, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import structlog
from fastapi import FastAPI

from actuators.fake import FakeActuator
from broker.app.access import AgentAccess, Scope, Tokens
from broker.app.agents import AgentTable
from broker.app.api import ApiParts, create_api
from broker.app.explaining import explain_last
from broker.app.feed import Feed
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime
from broker.clock import LoopClock
from broker.control.explain import Explanation
from broker.log.memory import MemoryLog
from broker.model.errors import LogError
from broker.model.observation import Observation, Probe, ProbeVerdict, SpecChanged
from broker.model.plan import Decision
from broker.model.ports import StepRecord
from broker.model.replica import ON_ITS_WAY, Replica
from broker.model.spec import JsonValue
from tests.support.builders import site_spec
from tests.support.world import fake_policies, model_spec

SITE_SECRET = b"a site's secret"
BASE = 1_700_000_000.0
TOKENS = {Scope.READ: "read-token", Scope.OPERATE: "operate-token", Scope.GATEWAY: "gateway-token"}


class FailingLog(MemoryLog):
    """A log in memory that fails (``problem``), hangs (``gate`` cleared), has a mistake or forgets, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""
        self.mistake = False
        self.forgetful = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, record: StepRecord) -> None:
        await self.gate.wait()
        self._fail()
        await super().commit(record)

    async def append(self, topic: str, records: Sequence[JsonValue]) -> None:
        self._fail()
        await super().append(topic, records)

    async def decisions(self, model_id: str | None = None, *, since: float = 0.0, limit: int = 100) -> list[Decision]:
        if self.mistake:
            raise KeyError("a mistake")
        if self.forgetful:
            return []
        return await super().decisions(model_id, since=since, limit=limit)

    def _fail(self) -> None:
        if self.problem:
            raise LogError(self.problem)


@dataclass
class ApiWorld:
    runtime: Runtime
    log: FailingLog
    feed: Feed
    pool: FakeActuator
    app: FastAPI
    logged: MutableSequence[Any]
    agents: AgentTable

    def client(self, scope: Scope | None = Scope.OPERATE) -> httpx.AsyncClient:
        headers = {} if scope is None else {"Authorization": f"Bearer {TOKENS[scope]}"}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://broker", headers=headers)

    async def get(self, path: str, scope: Scope | None = Scope.OPERATE, **parameters: Any) -> httpx.Response:
        async with self.client(scope) as client:
            return await client.get(path, params=parameters)

    async def send(self, method: str, path: str, body: Any, scope: Scope | None = Scope.OPERATE) -> httpx.Response:
        async with self.client(scope) as client:
            if body is None:
                return await client.request(method, path)
            content = json.dumps(body)  # httpx's own encoder refuses what a hostile client would send
            return await client.request(method, path, content=content, headers={"Content-Type": "application/json"})

    def replicas(self, model_id: str = "chat") -> list[Replica]:
        return list(self.runtime.core.loop.state.replicas_of(model_id).values())

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Let virtual time pass until ``condition`` holds."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - conditions on the state announce themselves to nobody
                await asyncio.sleep(0.05)

    async def serve(self, count: int = 1, model_id: str = "chat") -> None:
        """Every replica that is on its way proves itself, until ``count`` are published."""
        async with asyncio.timeout(60.0):
            while sum(replica.published for replica in self.replicas(model_id)) < count:
                now = self.runtime.clock.now()
                for replica in self.replicas(model_id):
                    if replica.phase in ON_ITS_WAY and replica.url:
                        self.runtime.offer(Probe(replica.replica_id, model_id, ProbeVerdict.READY, now, now))
                await asyncio.sleep(0.1)


def declared(*model_ids: str, maximum: int = 4) -> SpecChanged:
    """Models of one replica at least, whose policy wants what the rate says and holds without one."""
    models = tuple(model_spec(model_id, pools=("local",), maximum=maximum) for model_id in model_ids)
    return SpecChanged(site_spec(), models, BASE, digest=",".join(model_ids))


@asynccontextmanager
async def api_world(
    *model_ids: str, tokens: dict[Scope, str] | None = None, first: Sequence[Observation] | None = None
) -> AsyncIterator[ApiWorld]:
    """``first``: what the runtime is given at its start, by default the declaration of the models (chat)."""
    log, clock = FailingLog(), LoopClock(BASE)
    pool = FakeActuator("local", gpus=8, now=clock.now)
    runner = AsyncRunner({"local": pool}, clock, timeout_s=10.0, concurrency=4, may_act=lambda: True)
    runtime = Runtime(log=log, policies=fake_policies, actuators={"local": pool}, runner=runner, clock=clock)
    feed = Feed(runtime)

    async def explain(model_id: str) -> Explanation | None:
        return await explain_last(log, fake_policies, model_id)

    agents = AgentTable(clock)
    held = Tokens(TOKENS if tokens is None else tokens)
    parts = ApiParts(runtime, feed, held, agents, AgentAccess(SITE_SECRET), explain, version="9.9")
    if first is None:
        first = (declared(*(model_ids or ("chat",))),)
    with structlog.testing.capture_logs() as logged:
        async with runtime.running("test", *first):
            yield ApiWorld(runtime, log, feed, pool, create_api(parts), logged, agents)
            assert runtime.problem is None or runtime.log_problem, logged
