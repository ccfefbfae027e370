"""The gateway's HTTP/1.1 client towards engines: a small one of its own.

Own code over a library: a gateway spends its life on handing small chunks from one connection to another. With
aiohttp's client each chunk costs a parser, a buffer, a future and a task switch, measured at 100 µs a chunk on the
machine of the benchmarks; here a chunk goes from the socket to the user's connection in one call, in less than half of
that, which is the difference between one core and two for 300 streams. It speaks only what engines speak: POST with a
length, answers with a length, in chunks or until the connection closes.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

HEAD_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
PENDING_BYTES = 256 * 1024
SIZE_LINE_BYTES = 4096
INTERIM_ANSWERS = 20
"""How many 1xx may come before an answer; engines send one at most."""

_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")

Sink = Callable[[bytes], None]


class UpstreamError(Exception):
    """The connection failed, or what came over it is no HTTP."""


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's status and header; names are in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def content_length(self) -> int | None:
        length = self.headers.get("content-length")
        return None if length is None else int(length)

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


class Connection(asyncio.BufferedProtocol):
    """One connection, carrying one exchange after another: ``ask``, then ``read`` or ``pump`` until the end.

    Bytes are received into ``buffer``, which all connections of an event loop may share: it is emptied before the loop
    goes on. asyncio's own way takes 256 KiB for each read and gives them back at once; whether the allocator asks the
    kernel for fresh pages each time depends on its history, and where it does, a token costs 18 µs more.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.idle_since = 0.0
        self.closed = False
        self._reset()

    def _reset(self) -> None:
        self.head: Head | None = None
        self.ended = False
        self._decode: Callable[[bytes], None] = self._read_head
        self._rest = b""
        self._left = 0
        self._within_chunks = False
        self._interim = 0
        self._pending: list[bytes] = []
        self._sink: Sink | None = None
        self.paused = False

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow on it."""
        if self.closed or not self.ended or self.head is None or self._decode == self._until_close:
            return False
        return self.head.headers.get("connection", "").lower() != "close"

    async def ask(self, request: bytes) -> Head:
        """Send a request and wait for the head of its answer. Raises ``UpstreamError``."""
        self._reset()
        self._transport.write(request)
        while self.head is None:
            await self._wait()
        return self.head

    async def read(self) -> bytes:
        """The next part of the body, empty at its end. Raises ``UpstreamError`` if it broke off before."""
        while not self._pending and not self.ended:
            await self._wait()
        part = b"".join(self._pending)
        self._pending.clear()
        self.resume()
        return part

    def pump(self, sink: Sink) -> None:
        """From now on hand every part to ``sink`` as it comes; what it raises comes out of ``finished_or_paused``."""
        pending, self._pending = self._pending, []
        self._sink = sink
        for part in pending:
            self._deliver(part)

    async def finished_or_paused(self) -> None:
        """Wait for the end of a pumped body, or for ``pause``. Raises what ``sink`` raised, or ``UpstreamError``."""
        while not (self.ended or self.paused):
            await self._wait()
        if self._error is not None and not isinstance(self._error, UpstreamError):
            raise self._error

    def pause(self) -> None:
        if not self.paused and not self.closed:
            self.paused = True
            self._transport.pause_reading()
            self._wake()

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once: an engine that is still generating must notice."""
        self.closed = True
        self._transport.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.receive(bytes(self._buffer[:nbytes]))

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the connection, in whatever pieces they come."""
        if self.ended:
            self._fail(UpstreamError("it sent more than its answer"))
            return
        try:
            self._decode(data)
        except (ValueError, IndexError) as error:
            self._fail(UpstreamError(f"its answer is no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is None and self._error is None and not self.ended and self._decode == self._until_close:
            self._end()
        elif self._error is None:
            self._error = UpstreamError(str(exc) if exc else "it closed the connection")
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def _end(self) -> None:
        self.ended = True
        self._wake()

    def _deliver(self, part: bytes) -> None:
        if self._sink is not None:
            try:
                self._sink(part)
            except Exception as error:  # it belongs to whoever waits for the end
                self._fail(error)
            return
        self._pending.append(part)
        if sum(map(len, self._pending)) > PENDING_BYTES:
            self.pause()
        self._wake()

    def _read_head(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = _parse_head(self._rest[:end])
            self._rest = self._rest[end + 4 :]
            if head.status >= 200:
                body, self._rest = self._rest, b""
                self.head = head
                self._wake()
                self._begin_body(head, body)
                return
            self._interim += 1
            if self._interim > INTERIM_ANSWERS or head.status == 101:
                raise ValueError(f"status {head.status} in place of an answer")
        if len(self._rest) > HEAD_BYTES:
            raise ValueError("the header does not end")

    def _begin_body(self, head: Head, body: bytes) -> None:
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            self._decode = self._in_chunks
        elif head.status in (204, 304) or head.content_length == 0:
            self._end()
        elif head.content_length is not None:
            self._left = head.content_length
            self._decode = self._with_length
        else:
            self._decode = self._until_close
        if body:
            self.receive(body)

    def _until_close(self, data: bytes) -> None:
        self._deliver(data)

    def _with_length(self, data: bytes) -> None:
        if len(data) > self._left:
            raise ValueError("the body is longer than it said")
        self._left -= len(data)
        self._deliver(data)
        if not self._left:
            self._end()

    def _in_chunks(self, data: bytes) -> None:
        """RFC 9112, section 7.1. The line break after a chunk is read as the beginning of the next size line."""
        at_size_line = self._rest == b"\r\n" if self._within_chunks else not self._rest
        if at_size_line and not self._left and (part := _lone_chunk(data)):
            self._rest, self._within_chunks = b"\r\n", True
            self._deliver(part)
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        parts: list[bytes] = []
        position, last = 0, False
        while not last:
            if self._left:
                part = data[position : position + self._left]
                parts.append(part)
                position += len(part)
                self._left -= len(part)
            if self._left:
                break
            if self._within_chunks and not b"\r\n".startswith(data[position : position + 2]):
                raise ValueError("a chunk that is not of its size")
            begin = position + 2 if self._within_chunks else position
            end = data.find(b"\r\n", begin)
            if end >= 0:
                self._left = _chunk_size(data[begin:end])
                last = self._left == 0
            if end < 0 or (last and (end := _trailer_end(data, end)) < 0):
                self._rest = data[position:]
                last = False
                if len(self._rest) > SIZE_LINE_BYTES:
                    raise ValueError("a chunk without a size")
                break
            position = end + 2
            self._within_chunks = True
        if body := b"".join(parts):
            self._deliver(body)
        if last:
            self._end()
            if len(data) > end + 2:
                raise ValueError("something follows the last chunk")


class Pool:
    """Connections to engines, kept ``keepalive_s`` for the next request. ``request`` gives one with its answer's head;
    give it back with ``release``."""

    def __init__(self, connect_s: float, keepalive_s: float) -> None:
        self._connect_s = connect_s
        self._keepalive_s = keepalive_s
        self._idle: dict[tuple[str, int, bool], list[Connection]] = {}
        self._in_use: dict[Connection, tuple[str, int, bool]] = {}
        self._tls: ssl.SSLContext | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))

    async def connect(self, url: str) -> Connection:
        """A connection to the host of ``url``. Raises ``UpstreamError``."""
        address = _address_of(url)
        connection = self._take_idle(address)
        if connection is None:
            connection = await self._open(*address)
        self._in_use[connection] = address
        return connection

    def release(self, connection: Connection) -> None:
        """Keep it for another exchange if it can have one, close it at once otherwise."""
        address = self._in_use.pop(connection)
        if not connection.reusable:
            connection.abort()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.setdefault(address, []).append(connection)

    def close(self) -> None:
        for connection in [*self._in_use, *(each for idle in self._idle.values() for each in idle)]:
            connection.abort()
        self._idle.clear()

    def _take_idle(self, address: tuple[str, int, bool]) -> Connection | None:
        """The one used last, if it is fresh enough; all that are not are closed."""
        oldest = asyncio.get_running_loop().time() - self._keepalive_s
        fresh: list[Connection] = []
        for connection in self._idle.pop(address, []):
            if connection.closed or connection.idle_since < oldest:
                connection.abort()
            else:
                fresh.append(connection)
        taken = fresh.pop() if fresh else None
        if fresh:
            self._idle[address] = fresh
        return taken

    async def _open(self, host: str, port: int, secure: bool) -> Connection:
        if secure and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._buffer), host, port, ssl=self._tls if secure else None
                )
        except TimeoutError:
            raise UpstreamError(f"no connection within {self._connect_s:g} s") from None
        except OSError as error:
            raise UpstreamError(error.strerror or str(error)) from None
        return connection


def _address_of(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken there. Raises ``UpstreamError``: a registry may hold anything."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UpstreamError(f"its address {url[:200]!r} is none: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UpstreamError(f"its address {url[:200]!r} is none of http")
    secure = parts.scheme == "https"
    return host, port or (443 if secure else 80), secure


def post(url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST request. ``headers`` come from a parsed request or from us, so they hold no line breaks."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def _parse_head(text: bytes) -> Head:
    status_line, *lines = text.decode("latin-1").split("\r\n")
    status = _STATUS_LINE.fullmatch(status_line)
    if status is None:
        raise ValueError(f"its first line is {status_line[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if _CONTROL.search(line):
            raise ValueError(f"a control character within the header {name[:40]!r}")
        if name == "content-length" and (not _LENGTH.fullmatch(value) or headers.get(name, value) != value):
            raise ValueError(f"its length is {value[:40]!r}")
        headers[name] = value
    if "transfer-encoding" in headers:
        headers.pop("content-length", None)  # RFC 9112, section 6.3: it means nothing beside a transfer encoding
    return Head(int(status[1]), headers)


def _chunk_size(line: bytes) -> int:
    size = _CHUNK_SIZE.fullmatch(line)
    if size is None:
        raise ValueError(f"the chunk size {line[:40]!r}")
    return int(size[1], 16)


def _lone_chunk(data: bytes) -> bytes:
    """The body of the one whole chunk that ``data`` is, as nearly every token comes; empty if it is anything else."""
    end = data.find(b"\r\n", 0, SIZE_LINE_BYTES)
    if end > 0 and data.endswith(b"\r\n") and _chunk_size(data[:end]) == len(data) - end - 4:
        return data[end + 2 : -2]
    return b""


def _trailer_end(data: bytes, end: int) -> int:
    """Where the last line break of the trailer begins, whose size line ends at ``end``; -1 if it is not here yet."""
    found = data.find(b"\r\n\r\n", end)
    return found + 2 if found >= 0 else -1
