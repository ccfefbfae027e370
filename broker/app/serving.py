"""An application on a socket of this machine, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from broker.model.errors import ConfigError

HEAD_WITHIN_S = 10.0
BACKLOG = 128
"""Connections that may wait to be accepted. Out of files, asyncio tries and logs each of them, once a second."""


class _Connection(H11Protocol):
    """Ends where no whole request has come for ``head_within_s``: strangers without a token who only connect would hold
    every file that the broker may open, and with 128 of them nobody reached its API any more."""

    head_within_s = HEAD_WITHIN_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._look_later()

    @property
    def _last_request(self) -> RequestResponseCycle | None:
        return self.cycle

    def _look_later(self) -> None:
        self.loop.call_later(self.head_within_s, self._look, self._last_request)

    def _look(self, before: RequestResponseCycle | None) -> None:
        """``before`` was the last request a while ago."""
        last = self._last_request
        if last is before and (last is None or last.response_complete):
            self.transport.close()
        elif not self.transport.is_closing():
            self._look_later()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the broker's own say when everything ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: object, host: str, port: int, *, head_within_s: float = HEAD_WITHIN_S) -> AsyncIterator[str]:
    """Serve the API on a socket bound before, so that a taken port is an error in words and port 0 is known.

    Raises ``ConfigError``.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the API cannot listen on {host}:{port}: {error.strerror or error}; set api.port in site.yaml"
        ) from None
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=type("_Connection", (_Connection,), {"head_within_s": head_within_s}),
        backlog=BACKLOG,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise ConfigError(f"the API did not start on {host}:{port}")
            await asyncio.sleep(0.01)
        yield f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
