"""An application on a socket of this machine, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from broker.model.errors import ConfigError


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the broker's own say when everything ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: object, host: str, port: int) -> AsyncIterator[str]:
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
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=2)  # type: ignore[arg-type]
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
