"""What every request passes before its handler: a limit on its body, its token; and the one form of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.app.access import Scope as TokenScope
from broker.app.access import Tokens
from broker.app.bodies import ErrorAnswer, ErrorBody, validation_problems
from broker.model import wire
from broker.model.errors import LogError, shown

logger = structlog.get_logger("broker")

BODY_LIMIT_BYTES = 8 * 2**20

DISCARD_BYTES = 8 * BODY_LIMIT_BYTES
_DISCARD_S = 60.0
_DISCARD_PAUSE_S = 5.0
"""A sender that goes on is heard for a minute: with five seconds for all, 9 MB over a slow line ended in a reset."""

_CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}
_CODES: Mapping[int, str] = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    """Ends a request with an error in the API's own form."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


def error_answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    speakable = message.encode("utf-8", "replace").decode()  # what was sent may hold halves of characters
    return JSONResponse(wire.encode(ErrorAnswer(ErrorBody(code, speakable))), status_code=status, headers=headers)


def add_errors(app: FastAPI) -> None:
    """Every error, foreseen or not, as ``{"error": {"code", "message"}}``."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return error_answer(error.status, error.code, str(error), error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, HTTPStatus(error.status_code).name.lower())
        words = f"{request.method} {request.url.path}: {error.detail}; /openapi.json lists what there is"
        return error_answer(error.status_code, code, words, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = validation_problems(error.errors())
        sent_as = request.headers.get("content-type", "")
        if request.method == "POST" and "json" not in sent_as:
            problems.append(f"the body came as Content-Type {shown(sent_as)}: send it as application/json")
        return error_answer(422, "invalid", "; ".join(problems))

    @app.exception_handler(LogError)
    async def log_error(_: Request, error: LogError) -> JSONResponse:
        return error_answer(503, "log", str(error))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        logger.error("request_failed", method=request.method, path=request.url.path, problem=repr(error))
        return error_answer(500, "internal", "the broker failed at this request; its log says where")


def guarded(tokens: Tokens, *scopes: TokenScope) -> type[APIRoute]:
    """A class of routes that only holders of a token of one of ``scopes`` reach."""
    wanted = frozenset(scopes)
    needed = " or ".join(sorted(scope.value for scope in wanted))

    def check(request: Request) -> None:
        granted = tokens.scopes_of(bearer(request))
        if not granted:
            raise unknown_token()
        if not granted & wanted:
            raise Problem(403, "forbidden", f"this token may not do that; it needs the scope {needed}")

    return guarded_by(check)


def guarded_by(check: Callable[[Request], None]) -> type[APIRoute]:
    """A class of routes that a request reaches only if ``check`` does not raise.

    A route class and no dependency, since FastAPI reads and parses a body before it asks any dependency: a stranger
    must not make the broker parse anything.
    """

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def checked(request: Request) -> Response:
                check(request)
                return await handler(request)

            return checked

    return Guarded


def bearer(request: Request) -> str:
    """The token that is shown. Raises ``Problem`` if there is none."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise Problem(401, "unauthorized", "send a token as 'Authorization: Bearer TOKEN'", _CHALLENGE)
    return presented.strip()


def unknown_token() -> Problem:
    return Problem(401, "unauthorized", "this token is not one of the broker's", _CHALLENGE)


class BodyLimit:
    """ASGI middleware: refuses bodies over ``BODY_LIMIT_BYTES``, by their declared length or while they come.

    A request that is refused before its body was read is read to its end first, a bounded part of it: a client that
    is still sending when the connection closes loses the answer with it. Beyond 64 MiB or a minute it does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else None
        if headers is None or not ("content-length" in headers or "transfer-encoding" in headers):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)

        async def send_after_body(message: Message) -> None:
            await body.discard()
            await send(message)

        declared = headers.get("content-length", "0")
        try:
            if declared.isdigit() and int(declared) > BODY_LIMIT_BYTES:
                raise _TooLarge
            await self._app(scope, body.receive, send_after_body)
        except _TooLarge:
            words = f"the body is larger than {BODY_LIMIT_BYTES} bytes; send less at once"
            answer = error_answer(413, "too_large", words, {"Connection": "close"})
            await answer(scope, body.receive, send_after_body)


class _TooLarge(BaseException):
    """Passes FastAPI, which makes a 400 of whatever ``Exception`` reading a body ends with."""


class _Body:
    """One request's body on its way in."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._taken = 0
        self._more = True

    async def receive(self) -> Message:
        message = await self._next()
        if self._taken > BODY_LIMIT_BYTES:
            raise _TooLarge
        return message

    async def discard(self) -> None:
        """Read what is still to come, up to a limit of bytes and time, while the sender goes on sending."""
        try:
            async with asyncio.timeout(_DISCARD_S):
                while self._more and self._taken <= DISCARD_BYTES:
                    async with asyncio.timeout(_DISCARD_PAUSE_S):
                        await self._next()
        except TimeoutError:
            pass
        self._more = False

    async def _next(self) -> Message:
        message = await self._receive()
        self._taken += len(message.get("body", b""))
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message
