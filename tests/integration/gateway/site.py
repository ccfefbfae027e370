"""A gateway between a fake broker and fake engines, all real servers on loopback, with short times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout
from gateway.app import Gateway
from gateway.settings import GatewaySettings, ProxyLimits
from tests.support.fake_broker import GATEWAY_TOKEN, FakeBroker
from tests.support.fake_engine import SITE_SECRET, FakeEngine
from tests.support.waiting import eventually

QUICK = ProxyLimits(hold_s=0.5, retry_s=0.3, connect_s=1.0, first_byte_s=5.0, idle_s=5.0)


@dataclass
class Answer:
    """What a user got. ``broken``: the connection ended in the middle of the answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    broken: bool

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found

    @property
    def events(self) -> list[str]:
        return [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]


class Site:
    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.log: tuple[Connection, Layout] | None = None
        self.engines: list[FakeEngine] = []
        self.users = aiohttp.ClientSession()
        self._gateway: Gateway | None = None
        self._stopped = False

    @property
    def gateway(self) -> Gateway:
        assert self._gateway is not None
        return self._gateway

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    async def start(self, engines: int = 1, **settings: Any) -> None:
        """A broker, ``engines`` published engines of the model ``chat``, and a gateway that knows them."""
        await self.broker.start()
        for number in range(engines):
            await self.add_engine(number)
        await self.start_gateway(**settings)
        await eventually(lambda: self.gateway.table.applied_revision == self.broker.revision)

    async def add_engine(self, number: int, *, publish: bool = True) -> FakeEngine:
        engine = FakeEngine(endpoint_id=f"chat-{number}-g1")
        await engine.start()
        self.engines.append(engine)
        if publish:
            self.broker.publish(engine.record())
        return engine

    async def start_gateway(self, *, limits: ProxyLimits = QUICK, **settings: Any) -> None:
        plain = GatewaySettings(
            broker_url=self.broker.url,
            token=GATEWAY_TOKEN,
            site_secret=SITE_SECRET,
            port=0,
            gateway_id="gw",
            limits=limits,
            report_every_s=0.1,
            broker_patience_s=0.4,
            probe_every_s=0.1,
            keys_every_s=0.05,
            shutdown_s=2.0,
            log=self.log,
        )
        self._gateway = Gateway(replace(plain, **settings))
        await self._gateway.start()

    async def ask(
        self, path: str = "/v1/chat/completions", *, model: str = "chat", stream: bool = True, **more: Any
    ) -> Answer:
        return await self.post(path, json.dumps({"model": model, "stream": stream}).encode(), **more)

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        async with self.users.post(self.url + path, data=body, headers=headers) as response:
            received, broken = b"", False
            try:
                async for part in response.content.iter_any():
                    received += part
            except aiohttp.ClientError:
                broken = True
            return Answer(response.status, response.headers, received, broken)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        async with self.users.get(self.url + path, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read(), False)

    async def stop_gateway(self) -> None:
        if not self._stopped:
            self._stopped = True
            await self.gateway.stop()

    async def close(self) -> None:
        await self.users.close()
        if self._gateway is not None:
            await self.stop_gateway()
        for engine in self.engines:
            await engine.stop()
        await self.broker.stop()
