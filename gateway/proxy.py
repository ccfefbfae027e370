"""Carries one request to one engine and its answer back, and knows when it may try another engine.

Until an engine's first byte of an answer arrives, nothing has been sent to the user: a failure before that is tried
again on another endpoint. After it nothing is ever repeated: a stream that breaks off gets an error event and a
connection that ends in the middle of the transfer, so that no client can take it for a finished one.

vLLM sends the header of a stream before its first token; the header is held back with it, and a replica that dies
with requests in its queue costs no user anything.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from broker.model.errors import shown
from broker.model.ports import Clock
from broker.model.replica import EndpointRecord
from gateway import openai
from gateway.changed import Changed
from gateway.health import Prober
from gateway.keys import EngineKeys
from gateway.openai import ApiError
from gateway.relay import Broken, collect, cut, relay_body, relay_stream
from gateway.request_log import SESSION_HEADER, RequestLog, prompt_tokens_about
from gateway.settings import ProxyLimits
from gateway.sse import ENGINE_ABORTED, StreamWatch, find_usage, was_aborted
from gateway.table import RoutingTable
from gateway.tally import ModelTally, Outcome, Tallies
from gateway.upstream import Connection, Head, Pool, UpstreamError, post

log = structlog.get_logger(__name__)

FORWARDED_HEADERS = ("Accept", "Content-Type", "traceparent", "tracestate")
RETRY_AFTER_S = 5.0
ERROR_BYTES = 64 * 1024
COLLECT_BYTES = 1024 * 1024
"""Answers up to this size are held until they are whole; larger ones (big embeddings) are passed on as they come."""


@dataclass(frozen=True, slots=True)
class Call:
    """One user's request as read: ``body`` goes to the engine byte for byte. Times are the event loop's."""

    path: str
    capability: str
    model_id: str
    streamed: bool
    body: bytes
    request_id: str
    arrived_at: float
    prompt_tokens_about: int


class Refused(Exception):
    """An attempt that failed before the first byte. ``unreachable``: the endpoint itself did not answer."""

    def __init__(self, answer: ApiError, *, unreachable: bool, detail: str) -> None:
        super().__init__(detail)
        self.answer = answer
        self.unreachable = unreachable


class Passage:
    """One request's way through: its place in the tally and how it ended. ``refused``: by the engine, with a 4xx."""

    def __init__(self, tally: ModelTally, arrived_at: float) -> None:
        self.tally = tally
        self.arrived_at = arrived_at
        self.number = tally.arrive(arrived_at)
        self.outcome = Outcome.FAILED
        self.refused = False
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None

    def end(self) -> None:
        self.tally.end(self.number, self.outcome, self.prompt_tokens, self.output_tokens)

    def row(self, call: Call) -> dict[str, Any]:
        """What the request log tells. No answer, no tokens; one that has none, as an embedding, is one step of work."""
        output_tokens = self.output_tokens or 0
        if self.refused or self.outcome in (Outcome.FAILED, Outcome.REJECTED):
            output_tokens = 0
        elif self.outcome is Outcome.FINISHED:
            output_tokens = max(1, output_tokens)
        told = self.prompt_tokens is not None
        return {
            "at": round(self.arrived_at, 6),
            "model": call.model_id,
            "prompt_tokens": self.prompt_tokens if told else call.prompt_tokens_about,
            "output_tokens": output_tokens,
            "status": "refused" if self.refused else self.outcome.value,
            **({} if told else {"prompt_estimated": True}),
        }


class Proxy:
    """``handle`` serves one request. ``emptied`` is called when the last request of a withdrawn endpoint ended."""

    def __init__(
        self,
        pool: Pool,
        table: RoutingTable,
        tallies: Tallies,
        keys: EngineKeys,
        prober: Prober,
        changed: Changed,
        clock: Clock,
        limits: ProxyLimits,
        emptied: Callable[[], None],
        request_log: RequestLog | None = None,
    ) -> None:
        self._pool = pool
        self._table = table
        self._tallies = tallies
        self._keys = keys
        self._prober = prober
        self._changed = changed
        self._clock = clock
        self._limits = limits
        self._emptied = emptied
        self.request_log = request_log
        self.retries = 0
        self.closing = False

    async def handle(self, request: web.Request, capability: str, user: str | None) -> web.StreamResponse:
        """``user``: None where nobody is asked who they are. Raises ``ApiError`` for all that ends before the answer
        began."""
        call = await _read(request, capability, self._limits.body_s, measured=self.request_log is not None)
        await self._until_populated(call)
        self._refuse_impossible(call)
        passage = Passage(self._tallies.of(call.model_id), self._clock.now())
        try:
            return await self._serve(request, call, passage)
        except asyncio.CancelledError:
            passage.outcome = Outcome.FAILED if self.closing else Outcome.ABANDONED
            raise
        finally:
            passage.end()
            if self.request_log is not None:
                self.request_log.add(passage.row(call), tenant=user, session=request.headers.get(SESSION_HEADER))

    async def _until_populated(self, call: Call) -> None:
        """Before the first snapshot nobody can say which models exist."""
        if self._can_judge(call):
            return
        try:
            async with asyncio.timeout_at(call.arrived_at + self._limits.hold_s):
                while not self._can_judge(call):
                    await self._changed.wait()
        except TimeoutError:
            raise openai.no_endpoint(call.model_id, self._limits.hold_s, RETRY_AFTER_S) from None

    def _can_judge(self, call: Call) -> bool:
        return self._table.populated or self._table.knows(call.model_id)

    def _refuse_impossible(self, call: Call) -> None:
        if not self._table.knows(call.model_id):
            raise openai.unknown_model(call.model_id)
        if self._table.lacks_capability(call.model_id, call.capability):
            message = f"The model {shown(call.model_id)} does not serve {call.path}."
            raise openai.bad_request(message, "unsupported_endpoint")

    async def _serve(self, request: web.Request, call: Call, passage: Passage) -> web.StreamResponse:
        """Attempts until one gets a first byte, bounded in number and by when the last may begin."""
        give_up_at = call.arrived_at + self._limits.hold_s
        tried: set[str] = set()
        refused: Refused | None = None
        for attempt in range(self._limits.attempts):
            record = await self._endpoint(call, passage, tried, give_up_at)
            if record is None:
                break
            self.retries += attempt > 0
            try:
                return await self._attempt(request, call, passage, record)
            except Refused as error:
                refused = error
                log.warning("attempt_refused", endpoint_id=record.endpoint_id, problem=str(error), attempt=attempt + 1)
                if error.unreachable:
                    self._prober.suspect(record.endpoint_id)
                else:
                    tried.add(record.endpoint_id)
                    give_up_at = min(give_up_at, _now() + self._limits.retry_s)
            finally:
                if self._table.release(record.endpoint_id):
                    self._emptied()
        if refused is None:
            passage.outcome = Outcome.REJECTED
            self._refuse_impossible(call)
            raise openai.no_endpoint(call.model_id, self._limits.hold_s, RETRY_AFTER_S)
        raise refused.answer

    async def _endpoint(
        self, call: Call, passage: Passage, tried: set[str], give_up_at: float
    ) -> EndpointRecord | None:
        """An endpoint with the request counted as open there; None if none could be had until ``give_up_at``."""
        record = self._choose(call, tried) or await self._held(call, passage, tried, give_up_at)
        if record is not None and not call.streamed:
            passage.tally.no_longer_waiting(passage.number)
        return record

    async def _held(self, call: Call, passage: Passage, tried: set[str], give_up_at: float) -> EndpointRecord | None:
        passage.tally.wait_again(passage.number, passage.arrived_at)
        passage.tally.held += 1
        try:
            async with asyncio.timeout_at(give_up_at):
                while True:
                    await self._changed.wait()
                    record = self._choose(call, tried)
                    if record is not None or not self._table.knows(call.model_id):
                        return record
        except TimeoutError:
            return None
        finally:
            passage.tally.held -= 1

    def _choose(self, call: Call, tried: set[str]) -> EndpointRecord | None:
        return self._table.choose(call.model_id, call.capability, self._clock.now(), tried=tried)

    async def _attempt(
        self, request: web.Request, call: Call, passage: Passage, record: EndpointRecord
    ) -> web.StreamResponse:
        """One engine's answer. Raises ``Refused`` if it ends before the first byte."""
        connection: Connection | None = None
        try:
            try:
                async with asyncio.timeout(self._limits.first_byte_s):
                    connection = await self._pool.connect(record.url)
                    head = await connection.ask(self._request(request, call, record))
                    if head.status >= 500 or head.status in (401, 403):
                        raise await _refusal(head, connection)
                    first = await connection.read()
            except TimeoutError:
                answer = openai.upstream_failed(504, f"The replica sent nothing for {self._limits.first_byte_s:.0f} s.")
                raise Refused(answer, unreachable=False, detail="no first byte in time") from None
            except UpstreamError as error:
                raise _unreachable(str(error)) from None
            if not first:
                raise _unreachable("it ended its answer before the first byte")
            passage.refused = head.status >= 400
            if head.is_event_stream:
                return await self._stream(request, call, passage, connection, head, first)
            return await self._whole(request, call, passage, connection, head, first)
        finally:
            if connection is not None:
                self._pool.release(connection)

    def _request(self, request: web.Request, call: Call, record: EndpointRecord) -> bytes:
        headers = {name: request.headers[name] for name in FORWARDED_HEADERS if name in request.headers}
        headers["Authorization"] = self._keys.authorization(record)
        headers["X-Request-Id"] = call.request_id
        return post(record.url.rstrip("/") + call.path, headers, call.body)

    async def _stream(
        self, request: web.Request, call: Call, passage: Passage, connection: Connection, head: Head, first: bytes
    ) -> web.StreamResponse:
        passage.tally.first_token(passage.number, _now() - call.arrived_at)
        user = web.StreamResponse(status=head.status, headers=_answer_headers(head, call))
        if request.version >= (1, 1):
            user.enable_chunked_encoding()
        watch = StreamWatch()
        try:
            await user.prepare(request)
            await relay_stream(request, user, connection, first, self._limits.idle_s, watch, passage.tally)
            passage.outcome = Outcome.FINISHED
        except Broken as broken:
            self._note_cut(call, broken.reason)
            event = openai.upstream_cut(broken.reason).event()
            await cut(request, user, b"\n\n" + event if watch.midway else event)
        except ConnectionError:
            passage.outcome = Outcome.ABANDONED
        finally:
            usage = watch.usage()
            passage.prompt_tokens = usage.prompt_tokens
            passage.output_tokens = watch.tokens if usage.output_tokens is None else usage.output_tokens
        return user

    async def _whole(
        self, request: web.Request, call: Call, passage: Passage, connection: Connection, head: Head, first: bytes
    ) -> web.StreamResponse:
        """An answer that is no stream is collected first, so that a broken one can still become a proper error."""
        try:
            body, complete = await collect(connection, first, COLLECT_BYTES, self._limits.idle_s)
        except Broken as broken:
            self._note_cut(call, broken.reason)
            raise openai.upstream_cut(broken.reason) from None
        if not complete:
            return await self._large(request, call, passage, connection, head, body)
        if was_aborted(body):
            self._note_cut(call, ENGINE_ABORTED)
            raise openai.upstream_cut(ENGINE_ABORTED)
        usage = find_usage(body)
        passage.prompt_tokens, passage.output_tokens = usage.prompt_tokens, usage.output_tokens
        passage.outcome = Outcome.FINISHED
        return web.Response(status=head.status, body=body, headers=_answer_headers(head, call))

    async def _large(
        self, request: web.Request, call: Call, passage: Passage, connection: Connection, head: Head, begin: bytes
    ) -> web.StreamResponse:
        user = web.StreamResponse(status=head.status, headers=_answer_headers(head, call))
        user.content_length = head.content_length
        try:
            await user.prepare(request)
            await relay_body(user, connection, begin, self._limits.idle_s)
            passage.outcome = Outcome.FINISHED
        except Broken as broken:
            self._note_cut(call, broken.reason)
            await cut(request, user, b"")
        except ConnectionError:
            passage.outcome = Outcome.ABANDONED
        return user

    def _note_cut(self, call: Call, reason: str) -> None:
        log.warning("answer_cut", model_id=call.model_id, request_id=call.request_id, reason=reason)


async def _read(request: web.Request, capability: str, limit_s: float, *, measured: bool) -> Call:
    arrived_at = _now()
    try:
        async with asyncio.timeout(limit_s):
            body = await request.read()
    except TimeoutError:
        raise openai.too_slow("body", limit_s) from None
    except web.RequestPayloadError:
        raise openai.bad_request("The body cannot be read: it breaks off or is not encoded as it says.") from None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise openai.bad_request("The body is not valid JSON, or nested too deeply.") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("model"), str):
        raise openai.bad_request("The body must be a JSON object with the model's name as string in 'model'.")
    request_id = request.headers.get("X-Request-Id", "")[:128] or uuid.uuid4().hex
    streamed, about = asked.get("stream") is True, prompt_tokens_about(asked) if measured else 0
    return Call(request.path, capability, asked["model"], streamed, body, request_id, arrived_at, about)


async def _refusal(head: Head, connection: Connection) -> Refused:
    """What an engine's own error becomes if no other endpoint can do better."""
    detail = f"status {head.status}"
    if head.status in (401, 403):
        answer = openai.upstream_failed(502, "The replica refused the gateway's key.")
        return Refused(answer, unreachable=False, detail=detail)
    retry_after_s = RETRY_AFTER_S if head.status == 503 else None
    body = bytearray()
    while len(body) < ERROR_BYTES and (part := await connection.read()):
        body += part
    message = openai.message_of(bytes(body)) or f"The replica answered {head.status}."
    return Refused(openai.upstream_failed(head.status, message, retry_after_s), unreachable=False, detail=detail)


def _unreachable(detail: str) -> Refused:
    answer = openai.upstream_failed(502, "The connection to the replica failed before it answered.")
    return Refused(answer, unreachable=True, detail=detail)


def _answer_headers(head: Head, call: Call) -> dict[str, str]:
    """Nothing of the engine's header but the type of its body: neither its name nor anything of its key."""
    content_type = head.headers.get("content-type", "application/json")
    return {"Content-Type": content_type, "X-Request-Id": call.request_id, "Cache-Control": "no-store"}


def _now() -> float:
    return asyncio.get_running_loop().time()
