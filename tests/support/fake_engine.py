"""A small stand-in for vLLM that streams, fails and dies on demand; it makes no text, only numbered tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import web

from broker.model.identity import endpoint_key
from broker.model.replica import EndpointRecord, ReplicaPhase, Tier
from tests.support.serving import Served

SITE_SECRET = b"secret of the test site"


class Way(StrEnum):
    """How an engine treats completions."""

    ANSWER = "answers"
    STATUS = "answers with an error status"
    DROP = "closes the connection before the header"
    DROP_AFTER_HEADER = "closes the connection between header and first token"
    DROP_MIDWAY = "closes the connection after two tokens"
    HANG = "never answers"
    HANG_MIDWAY = "stops after two tokens"
    NO_DONE = "ends the stream in order but without [DONE]"
    ABORT = "ends with finish_reason abort"
    ERROR_EVENT = "reports an error in the stream, then [DONE]"
    BIG_BODY = "answers with two megabytes"
    BIG_BODY_CUT = "breaks off a large body"


@dataclass
class Received:
    """What one request looked like to the engine; ``disconnected`` is set when its sender went away."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)


class FakeEngine(Served):
    """Serves ``model_id`` as endpoint ``endpoint_id``. Clearing ``may_finish`` keeps answers open after two tokens."""

    def __init__(self, model_id: str = "chat", endpoint_id: str = "chat-0-g1", generation: int = 1) -> None:
        super().__init__()
        self.model_id = model_id
        self.endpoint_id = endpoint_id
        self.generation = generation
        self.way = Way.ANSWER
        self.status = 500
        self.error_body = b'{"error":{"message":"engine is shutting down","type":"x","param":null,"code":500}}'
        self.tokens = 5
        self.usage = False
        self.healthy = True
        self.probes = 0
        self.padding = 0
        self.pause_s = 0.0
        self.written = 0
        self.peers: set[object] = set()
        self.received: list[Received] = []
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    @property
    def key(self) -> str:
        return endpoint_key(SITE_SECRET, self.endpoint_id, self.generation)

    def record(
        self,
        phase: ReplicaPhase = ReplicaPhase.READY,
        *,
        not_after: float | None = None,
        capabilities: tuple[str, ...] = ("chat", "completions"),
    ) -> EndpointRecord:
        return EndpointRecord(
            endpoint_id=self.endpoint_id,
            model_id=self.model_id,
            url=self.url,
            phase=phase,
            generation=self.generation,
            tier=Tier.BASELINE,
            revision=0,
            not_after=not_after,
            capabilities=capabilities,
        )

    def application(self) -> web.Application:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            application.router.add_post(path, self._complete)
        application.router.add_get("/health", self._health)
        return application

    async def _health(self, request: web.Request) -> web.Response:
        self.probes += 1
        return web.Response(status=200 if self.healthy else 503)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername"))
        received = Received(request.path, request.headers, body)
        self.received.append(received)
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            return await self._answer(request, json.loads(body).get("stream") is True)
        except (asyncio.CancelledError, ConnectionError):  # it waited, or was writing
            received.disconnected.set()
            raise

    async def _answer(self, request: web.Request, streamed: bool) -> web.StreamResponse:
        match self.way:
            case Way.STATUS:
                return web.Response(status=self.status, body=self.error_body, content_type="application/json")
            case Way.DROP:
                return _drop(request, web.Response())
            case Way.HANG:
                await asyncio.sleep(3600)
        return await (self._stream(request) if streamed else self._whole(request))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write(b"")
        if self.way is Way.DROP_AFTER_HEADER:
            await asyncio.sleep(0.01)
            return _drop(request, response)
        for number in range(self.tokens):
            if number == 2:
                if self.way is Way.DROP_MIDWAY:
                    return _drop(request, response)
                if self.way is Way.HANG_MIDWAY:
                    await asyncio.sleep(3600)
                if self.way is Way.ERROR_EVENT:
                    await response.write(b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n')
                    return response
                await self.may_finish.wait()
            reason = None
            if number == self.tokens - 1:
                reason = "abort" if self.way is Way.ABORT else "stop"
            text = f"{number} " + "x" * self.padding
            await response.write(event({"choices": [{"delta": {"content": text}, "finish_reason": reason}]}))
            self.written = number + 1
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        if self.usage:
            await response.write(event({"choices": [], "usage": self._usage()}))
        if self.way is not Way.NO_DONE:
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _whole(self, request: web.Request) -> web.StreamResponse:
        await self.may_finish.wait()
        if self.way in (Way.BIG_BODY, Way.BIG_BODY_CUT, Way.DROP_MIDWAY):
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = 1000 if self.way is Way.DROP_MIDWAY else 2 * 1024 * 1024
            await response.prepare(request)
            await response.write(b"x" * (response.content_length // 4 * 3))
            if self.way is not Way.BIG_BODY:
                await asyncio.sleep(0.05)
                return _drop(request, response)
            await response.write(b"x" * (response.content_length // 4))
            return response
        reason = "abort" if self.way is Way.ABORT else "stop"
        text = " ".join(str(number) for number in range(self.tokens))
        choice = {"message": {"content": text}, "finish_reason": reason}
        return web.json_response({"choices": [choice], "usage": self._usage()})

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 11, "total_tokens": 11 + self.tokens, "completion_tokens": self.tokens}


def event(data: object) -> bytes:
    """A server-sent event as vLLM writes it."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _drop(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return response
