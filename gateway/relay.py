"""The inner loop: an engine's bytes to a user, chunk by chunk, and the end of a stream that broke.

300 streams of 30 tokens a second pass here 9,000 times a second, so a chunk of a stream starts no task, timer or
coroutine: it is looked at, framed and written to the user's connection in the call that received it.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

from gateway.sse import WITHOUT_DONE, StreamWatch
from gateway.tally import ModelTally
from gateway.upstream import Connection, UpstreamError

UNSENT_BYTES = 256 * 1024
"""How much may wait for a slow user before the engine's connection is paused."""

LOOK_AGAIN_S = 0.02
CUT_PATIENCE_S = 2.0


class Broken(Exception):
    """An answer that did not come through whole; ``reason`` is for the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _StreamSink:
    """Writes each part of one stream to one user. ``last_at`` is when the last one came."""

    __slots__ = ("_chunked", "_connection", "_seen", "_tally", "_time", "_user", "_watch", "last_at")

    def __init__(
        self, user: asyncio.Transport, chunked: bool, connection: Connection, watch: StreamWatch, tally: ModelTally
    ) -> None:
        self._user = user
        self._chunked = chunked
        self._connection = connection
        self._watch = watch
        self._tally = tally
        self._time = asyncio.get_running_loop().time
        self._seen = watch.events
        self.last_at = self._time()

    def __call__(self, part: bytes) -> None:
        watch = self._watch
        allowed = watch.feed(part)
        if watch.fault:
            self._write(part[:allowed])
            raise Broken(watch.fault)
        self._write(part)
        now = self._time()
        events = watch.events - self._seen - watch.done
        if events > 0:
            if self._seen:
                self._tally.tokens_between(now - self.last_at, events)
            self._seen = watch.events
        self.last_at = now

    def _write(self, part: bytes) -> None:
        user = self._user
        if user.is_closing():
            raise ConnectionResetError
        if part:
            user.write(b"%x\r\n%b\r\n" % (len(part), part) if self._chunked else part)
        if user.get_write_buffer_size() > UNSENT_BYTES:
            self._connection.pause()

    async def until_sent(self) -> None:
        """Wait until a slow user has taken what it was sent, then go on."""
        while self._user.get_write_buffer_size() > UNSENT_BYTES // 2 and not self._user.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)
        self._connection.resume()


async def relay_stream(
    request: web.Request,
    user: web.StreamResponse,
    connection: Connection,
    first: bytes,
    idle_s: float,
    watch: StreamWatch,
    tally: ModelTally,
) -> None:
    """Pass events on as they come, until the engine has said that it is done. ``user`` is prepared.

    Raises ``Broken`` if it ended otherwise, ``ConnectionError`` if the user went away.
    """
    loop = asyncio.get_running_loop()
    allowed = watch.feed(first)
    await user.write(first[:allowed])
    if watch.fault:
        raise Broken(watch.fault)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    sink = _StreamSink(transport, user.chunked, connection, watch, tally)
    connection.pump(sink)
    while not connection.ended:
        try:
            async with asyncio.timeout_at(sink.last_at + idle_s):
                await connection.finished_or_paused()
                if connection.paused:
                    await sink.until_sent()
        except TimeoutError:
            if sink.last_at + idle_s <= loop.time():
                raise Broken(f"nothing moved for {idle_s:.0f} s") from None
        except UpstreamError as error:
            if watch.done:
                return
            raise Broken(f"the connection to the replica broke ({error})") from None
    if not watch.done:
        raise Broken(WITHOUT_DONE)


async def relay_body(user: web.StreamResponse, connection: Connection, first: bytes, idle_s: float) -> None:
    """Pass a body on as it comes, until its end. Raises as ``relay_stream`` does."""
    part = first
    while part:
        try:
            async with asyncio.timeout(idle_s):
                await user.write(part)
                part = await connection.read()
        except TimeoutError:
            raise Broken(f"nothing moved for {idle_s:.0f} s") from None
        except UpstreamError as error:
            raise Broken(f"the connection to the replica broke ({error})") from None


async def collect(connection: Connection, first: bytes, limit: int, idle_s: float) -> tuple[bytes, bool]:
    """The body, and whether it is all of it: no more than about ``limit`` bytes are taken. Raises ``Broken``."""
    parts, size = [first], len(first)
    try:
        async with asyncio.timeout(idle_s):
            while size <= limit:
                part = await connection.read()
                if not part:
                    return b"".join(parts), True
                parts.append(part)
                size += len(part)
    except TimeoutError:
        raise Broken(f"it was not whole within {idle_s:.0f} s") from None
    except UpstreamError as error:
        raise Broken(f"the connection to the replica broke ({error})") from None
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
