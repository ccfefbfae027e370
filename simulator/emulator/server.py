"""vLLM's HTTP surface over the live engine."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from simulator.emulator.answers import DONE, AnswerShape, Vocabulary
from simulator.emulator.live import LiveEngine, TokenStream
from simulator.emulator.openai import (
    GenerationRequest,
    RequestRefused,
    bad_request,
    check_model,
    parse_generation,
    text_tokens,
)
from simulator.emulator.options import EmulatorOptions
from simulator.emulator.process_metrics import HttpMetrics, ProcessMetrics

VERSION = "0.32.0"
GUARDED_PREFIXES = ("/v1", "/v2", "/inference")
"""All that vLLM's ``--api-key`` guards. ``/invocations`` answers completions without a key, on the real server too."""
UNCOUNTED_PATHS = ("/metrics", "/health", "/load", "/ping", "/version", "/server_info")
GIANT_METRICS_BYTES = 64 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmulatorServer:
    """The handlers, and what they share. ``wall_clock`` gives seconds since the epoch."""

    def __init__(self, options: EmulatorOptions, live: LiveEngine, wall_clock: Callable[[], float]) -> None:
        self._options = options
        self._live = live
        self._wall_clock = wall_clock
        self._started_at = wall_clock()
        self._vocabulary = Vocabulary(options.seed)
        self._process_metrics = ProcessMetrics()
        self._http_metrics = HttpMetrics(self._started_at)
        self._keys = (uuid.uuid4().hex,) if options.faults.wrong_key else options.api_keys
        self._accepting = True
        self._open_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def application(self) -> web.Application:
        application = web.Application(
            middlewares=[self._count, self._authorize, self._map_errors], client_max_size=64 * 2**20
        )
        application.add_routes(
            [
                web.post("/v1/chat/completions", self._chat_completions),
                web.post("/v1/completions", self._completions),
                web.post("/invocations", self._invocations),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.get("/health", self._healthy),
                web.get("/ping", self._healthy),
                web.post("/ping", self._healthy),
                web.get("/version", self._version),
                web.get("/load", self._load),
                web.get("/metrics", self._metrics),
            ]
        )
        return application

    def refuse_new(self) -> None:
        """Answer new generations with 500, as vLLM does once it shuts down; all else goes on."""
        self._accepting = False

    async def idle(self) -> None:
        """Wait until no generation is open."""
        await self._idle.wait()

    # What is around every handler.

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in UNCOUNTED_PATHS:
            return await handler(request)
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await handler(request)
        resource = request.match_info.route.resource
        self._http_metrics.observe(
            resource.canonical if resource is not None else "none",
            request.method,
            response.status,
            loop.time() - began,
            request.content_length or 0,
            response.content_length or 0,
        )
        return response

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._keys and request.method != "OPTIONS" and request.path.startswith(GUARDED_PREFIXES):
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            known = any(hmac.compare_digest(key.encode(), right.encode()) for right in self._keys)
            if scheme.lower() != "bearer" or not known:
                return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    @web.middleware
    async def _map_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestRefused as refused:
            return web.json_response(refused.body, status=refused.status)
        except web.HTTPException as error:
            return web.json_response({"detail": error.reason}, status=error.status)

    # Generation.

    async def _chat_completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, await _json_body(request), chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, await _json_body(request), chat=False)

    async def _invocations(self, request: web.Request) -> web.StreamResponse:
        body = await _json_body(request)
        return await self._generate(request, body, chat=isinstance(body, dict) and "messages" in body)

    async def _generate(self, request: web.Request, body: object, *, chat: bool) -> web.StreamResponse:
        asked = parse_generation(
            body,
            chat=chat,
            served_model=self._options.served_model,
            max_model_len=self._options.max_model_len,
            natural_length=self._options.natural_length,
        )
        if not self._accepting:
            raise RequestRefused(500, "InternalServerError", "The server is shutting down and takes no new requests.")
        base_id = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        shape = AnswerShape(
            f"{'chatcmpl' if chat else 'cmpl'}-{base_id}", int(self._wall_clock()), self._options.served_model, chat
        )
        stream = self._live.submit(
            asked.prompt_tokens, asked.output_tokens, max_tokens=asked.max_tokens, will_finish=asked.finish_reason
        )
        self._open_requests += 1
        self._idle.clear()
        try:
            if asked.stream:
                return await self._stream(request, asked, shape, stream)
            return await self._answer_whole(asked, shape, stream)
        finally:
            self._live.cancel(stream)
            self._open_requests -= 1
            if not self._open_requests:
                self._idle.set()

    async def _answer_whole(
        self, asked: GenerationRequest, shape: AnswerShape, stream: TokenStream
    ) -> web.StreamResponse:
        while stream.finish_reason is None:
            await stream.more_than(stream.produced)
        text = self._vocabulary.text(self._vocabulary.start(asked.prompt_text), stream.produced)
        return web.json_response(shape.whole(text, stream.finish_reason, asked.prompt_tokens, stream.produced))

    async def _stream(
        self, request: web.Request, asked: GenerationRequest, shape: AnswerShape, stream: TokenStream
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        start = self._vocabulary.start(asked.prompt_text)
        before, after = shape.token_chunk()
        chunks = [shape.role_chunk()] if asked.chat else []
        sent = 0
        while stream.finish_reason is None:
            await stream.more_than(sent)
            until = stream.produced - (stream.finish_reason is not None)
            chunks += [before + self._vocabulary.word(start, index) + after for index in range(sent, until)]
            if stream.finish_reason is None:
                await response.write(b"".join(chunks))
                chunks.clear()
                sent = until
        before, after = shape.token_chunk(stream.finish_reason)
        last_word = self._vocabulary.word(start, stream.produced - 1) if stream.finish_reason != "abort" else b""
        chunks.append(before + last_word + after)
        if asked.include_usage:
            chunks.append(shape.usage_chunk(asked.prompt_tokens, stream.produced))
        chunks.append(DONE)
        await response.write(b"".join(chunks))
        return response

    # Everything else.

    async def _models(self, request: web.Request) -> web.StreamResponse:
        model = {
            "id": self._options.served_model,
            "object": "model",
            "created": int(self._started_at),
            "owned_by": "vllm",
            "root": self._options.served_model,
            "parent": None,
            "max_model_len": self._options.max_model_len,
            "permission": [],
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        """Counts; the ids are made up."""
        body = await _json_body(request)
        if not isinstance(body, dict) or not isinstance(body.get("prompt"), str):
            raise bad_request("prompt is a string", "prompt")
        check_model(body, self._options.served_model)
        count = text_tokens(body["prompt"])
        answer = {
            "count": count,
            "max_model_len": self._options.max_model_len,
            "tokens": list(range(count)),
            "token_strs": None,
        }
        return web.json_response(answer)

    async def _healthy(self, request: web.Request) -> web.StreamResponse:
        """200 for as long as the process lives, while it drains too: readiness never flips."""
        return web.Response()

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"version": VERSION})

    async def _load(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"server_load": self._open_requests})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        if self._options.faults.garbage_metrics:
            return web.Response(body=bytes(range(256)) * 64, content_type="text/plain")
        if self._options.faults.giant_metrics:
            return await self._giant_metrics(request)
        text = self._process_metrics.text() + self._live.metrics_text() + self._http_metrics.text()
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def _giant_metrics(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        block = (self._live.metrics_text() * 8).encode()
        with contextlib.suppress(ConnectionResetError):  # a scraper with sense hangs up
            for _ in range(GIANT_METRICS_BYTES // len(block)):
                await response.write(block)
        return response


async def _json_body(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise RequestRefused(400, "Bad Request", "Unsupported Media Type: Only 'application/json' is allowed")
    try:
        body = json.loads(await request.read())
        json.dumps(body, ensure_ascii=False).encode()  # half a character could be put into no answer
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, "Bad Request", f"the body is not JSON: {error}") from None
    return body
