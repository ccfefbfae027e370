"""The inner loop: an engine's bytes to a user, chunk by chunk, and the end of a stream that broke.

300 streams of 30 tokens a second pass here 9,000 times a second, so nothing in the loop starts a task or a timer,
parses or logs: the idle time-out is moved forward once a second, not with every chunk.
"""

from __future__ import annotations

import asyncio
import socket
import struct

import aiohttp
from aiohttp import web

from gateway.sse import WITHOUT_DONE, StreamWatch
from gateway.tally import ModelTally

REARM_S = 1.0
CUT_PATIENCE_S = 2.0


class Broken(Exception):
    """An answer that did not come through whole; ``reason`` is for the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def relay_stream(
    user: web.StreamResponse,
    content: aiohttp.StreamReader,
    first: bytes,
    idle_s: float,
    watch: StreamWatch,
    tally: ModelTally,
) -> None:
    """Pass events on as they come, until the engine has said that it is done.

    Raises ``Broken`` if it ended otherwise, ``ConnectionError`` if the user went away.
    """
    loop_time = asyncio.get_running_loop().time
    chunk = first
    last_at = armed_at = loop_time()
    seen = 0
    try:
        async with asyncio.timeout(idle_s) as idle:
            while chunk:
                allowed = watch.feed(chunk)
                if watch.fault:
                    await user.write(chunk[:allowed])
                    raise Broken(watch.fault)
                now = loop_time()
                if watch.events > seen and not watch.done:
                    if seen:
                        tally.tokens_between(now - last_at, watch.events - seen)
                    seen, last_at = watch.events, now
                if now - armed_at > REARM_S:
                    idle.reschedule(now + idle_s)
                    armed_at = now
                await user.write(chunk)
                try:
                    chunk = await content.readany()
                except (aiohttp.ClientError, OSError) as error:
                    if not watch.done:
                        raise Broken(_words(error)) from None
                    chunk = b""
    except TimeoutError:
        raise Broken(f"nothing moved for {idle_s:.0f} s") from None
    if not watch.done:
        raise Broken(WITHOUT_DONE)


async def relay_body(user: web.StreamResponse, content: aiohttp.StreamReader, first: bytes, idle_s: float) -> None:
    """Pass a body on as it comes, until its end. Raises as ``relay_stream`` does."""
    chunk = first
    try:
        async with asyncio.timeout(idle_s) as idle:
            while chunk:
                await user.write(chunk)
                idle.reschedule(asyncio.get_running_loop().time() + idle_s)
                try:
                    chunk = await content.readany()
                except (aiohttp.ClientError, OSError) as error:
                    raise Broken(_words(error)) from None
    except TimeoutError:
        raise Broken(f"nothing moved for {idle_s:.0f} s") from None


async def collect(content: aiohttp.StreamReader, first: bytes, limit: int, idle_s: float) -> tuple[bytes, bool]:
    """The body, and whether it is all of it: no more than about ``limit`` bytes are taken. Raises ``Broken``."""
    parts, size = [first], len(first)
    try:
        async with asyncio.timeout(idle_s):
            while size <= limit:
                chunk = await content.readany()
                if not chunk:
                    return b"".join(parts), True
                parts.append(chunk)
                size += len(chunk)
    except TimeoutError:
        raise Broken(f"it was not whole within {idle_s:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(_words(error)) from None
    return b"".join(parts), False


async def cut(request: web.Request, user: web.StreamResponse, last_words: bytes) -> None:
    """End a response that has begun so that it cannot be taken for a whole one.

    ``last_words`` are sent if the user still reads. Then the connection closes without the final chunk that HTTP/1.1
    wants; HTTP/1.0 has no such mark, there the connection is reset.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    try:
        if last_words:
            await user.write(last_words)
        async with asyncio.timeout(CUT_PATIENCE_S):
            while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except (ConnectionError, TimeoutError):
        pass  # the user is gone or does not read: there is nobody to tell
    if request.version < (1, 1):
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _words(error: Exception) -> str:
    return f"the connection to the replica broke ({type(error).__name__})"
