"""A user's connection: aiohttp's, with a limit of time on headers, and errors in OpenAI's form for what is no HTTP.

aiohttp alone waits an hour for the end of a header, answers what is no HTTP as plain text, and logs it as a traceback.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from gateway import openai
from gateway.openai import ApiError

log = structlog.get_logger(__name__)

IDLE_S = 75.0
"""How long a connection may carry no request. Above the 60 s after which common proxies close theirs."""

LINGER_S = 5.0
"""How long the rest of a body is read that nobody wants, so that its sender lives to see the answer."""


class UserConnection(web.RequestHandler):
    """``busy`` is set by who handles a request, from its whole header to its answer."""

    __slots__ = ("_head_limit", "_head_s", "busy")

    def __init__(self, manager: web.Server, head_s: float) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(manager, loop=loop, keepalive_timeout=IDLE_S, lingering_time=LINGER_S)
        self._head_s = head_s
        self._head_limit: asyncio.TimerHandle | None = None
        self.busy = False

    def data_received(self, data: bytes) -> None:
        if self._head_limit is None and not self.busy:
            self._head_limit = asyncio.get_running_loop().call_later(self._head_s, self._refuse_slow_head)
        super().data_received(data)

    def head_is_whole(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_is_whole()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp answers where no handler could. Its message may quote a key: it goes nowhere."""
        self.head_is_whole()
        if isinstance(exc, HttpProcessingError):
            log.warning("request_malformed", peer=request.remote, problem=type(exc).__name__)
            answer = _malformed(exc)
        else:
            log.error("request_handling_failed", path=request.path, problem=repr(exc))
            answer = openai.gateway_failed()
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, no other one can be sent")
        response = answer.response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What ended the connection outside of any handler: a body of garbage while its rest is read, or a defect."""
        problem = kw.get("exc_info")
        if isinstance(problem, (HttpProcessingError, web.RequestPayloadError)):
            log.warning("request_malformed", peer=self.peername, problem=type(problem).__name__)
        else:
            log.error("connection_failed", peer=self.peername, doing=args, exc_info=problem)

    def _refuse_slow_head(self) -> None:
        self._head_limit = None
        if self.transport is None or self.busy:
            return
        log.warning("request_too_slow", peer=self.peername, limit_s=self._head_s)
        body = openai.too_slow("header", self._head_s).body()
        head = f"HTTP/1.1 408 {HTTPStatus(408).phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.force_close()


def _malformed(error: HttpProcessingError) -> ApiError:
    if isinstance(error, LineTooLong):
        message = "The request's first line or a header is longer than 8190 bytes."
        return ApiError(431, message, kind="invalid_request_error", code="header_too_large")
    message = f"This is no valid HTTP/1.1 request ({type(error).__name__})."
    return openai.bad_request(message, "malformed_request")
