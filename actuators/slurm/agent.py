"""The node agent: one file for a bare compute node, standard library only, Python 3.9 or newer.

    TIDEGATE_AGENT='{"broker_url": ...}' TIDEGATE_AGENT_TOKEN=... python3 -I -S agent.py ENGINE ARGUMENT...

It is the job's main process. It starts the engine, lets nobody to it but by the OpenAI paths and with the key, tells
the broker how it stands, passes on the job's signals, and ends when the engine does, with the cause. It is imported
nowhere: a job's script carries this text (``actuators.slurm.script``), so that no file system needs to be shared, and
it fits the broker that wrote the script. ``{host}`` and ``{port}`` in the engine's command are replaced.

Proven here, never taken from log lines: that the port is the engine's (by whose socket listens), that it serves our
model to our key and to nobody else (``/v1/models``), and that an exit nobody asked for is a crash, whatever its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import glob
import hmac
import json
import mmap
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

REPORT_SCHEMA = "tidegate.agent_report/1"

HEARTBEAT_S = 2.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0
ANSWER_WITHIN_S = 5.0
REFUSED_FOR_S = 60.0
"""An agent that was requeued is refused while the broker still counts its earlier run as there."""
FAREWELL_S = 10.0
"""How long the end is told before the job ends without it."""
TICK_S = 0.1
LOOK_EVERY_S = 0.5
SAMPLE_LOADING_EVERY_S = 1.0
SAMPLE_SERVING_EVERY_S = 30.0
"""What an engine shares among its processes it makes while it loads."""
PLACES_TRIED = 5
GIVE_UP_GRACE_S = 5.0
LATE_NOTICE_S = 120.0
"""Slurm warns up to 60 s early and looks at limits every 30 s: notice so much earlier is still of the wall time."""

MOST_HEAD_BYTES = 65536
MOST_LINE_BYTES = 8192
MOST_ANSWER_BYTES = 1000000
MOST_CONNECTIONS = 4096
ACCEPTED_AT_ONCE = 128
SPARE_FILES = 2 * ACCEPTED_AT_ONCE
"""Kept back from connections. Strangers who only connected took all that a job may open, often 1024: the agent could
not reach the engine, the broker or /proc any more."""
BLOCK_BYTES = 65536
HEAD_WITHIN_S = 10.0
IDLE_S = 120.0
HEARD_OUT_S = 2.0
HEARD_OUT_BYTES = 16 * 2**20
FLUSHED_WITHIN_S = 5.0

PAGES_LOOKED_AT = 64
"""At least, of each file of weights, evenly spread: 140 GB have 34 million."""
LOOKED_AT_FOR_S = 5.0
CACHED_SHARE = 0.5

_PATHS = re.compile(r"/v1(?!/(un)?load_lora_adapter)(/[A-Za-z0-9_:~-][A-Za-z0-9_.:~-]*)+/?")
"""The OpenAI paths, in plain characters: nothing that a server behind could read as another path. What vLLM has there
to administer it is none of them."""

_BECOME = """\
import os, signal, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""An engine must not outlive its agent, and not every Slurm ends what has left the job's process group: the kernel
does, by PR_SET_PDEATHSIG, which stays across exec."""


class AgentError(Exception):
    """Ends the agent with one line."""


unsaid: set[str] = set()
"""Why lines of the job's output were lost."""


def say(words: str) -> None:
    try:
        print(f"tidegate agent: {time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)
    except OSError as error:  # a full disk under the job's output must not end a replica that serves
        unsaid.add(error.strerror or str(error))


# What it is told.


@dataclasses.dataclass(frozen=True)
class Settings:
    """The script's word, from ``TIDEGATE_AGENT``. Durations are in seconds.

    ``front`` false exposes the engine itself, with all the paths that it leaves open. ``address`` is where this node is
    reached; by default the one from which it reaches the broker. ``socket_option`` (vLLM's ``--uds``) lets the engine
    listen on a socket in a private folder, which nobody else on the node can open. ``gpu_type`` is the one that the
    job asked for. ``notice_s`` is how long before the wall time the warning signal was asked for.
    """

    broker_url: str
    action_id: str
    cluster: str
    model_id: str
    ordinal: int
    generation: int
    broker_ca: str | None = None
    front: bool = True
    address: str | None = None
    ports: tuple[int, int] = (20000, 29999)
    socket_option: str | None = None
    gpu_type: str | None = None
    key_variables: tuple[str, ...] = ("VLLM_API_KEY",)
    load_timeout_s: float = 1800.0
    stop_grace_s: float = 30.0
    notice_s: float = 600.0


def read_settings(text: str) -> Settings:
    """Raises ``AgentError``. Unknown fields are ignored: the script may be newer than this file."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise AgentError(f"TIDEGATE_AGENT is not JSON ({error}); the job's script sets it") from None
    if not isinstance(given, dict):
        raise AgentError("TIDEGATE_AGENT is no JSON object; the job's script sets it")
    known = {field.name: field for field in dataclasses.fields(Settings)}
    missing = [name for name, field in known.items() if field.default is dataclasses.MISSING and name not in given]
    if missing:
        raise AgentError(f"TIDEGATE_AGENT lacks {', '.join(missing)}; the job's script sets it")
    listed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    settings = Settings(**{name: value for name, value in listed.items() if name in known})
    first, last = settings.ports
    if not 0 < first <= last < 65536:
        raise AgentError(f"ports {first} to {last} are no range between 1 and 65535; mend job.ports of the pool")
    if urllib.parse.urlsplit(settings.broker_url).scheme not in ("http", "https"):
        raise AgentError(f"the broker's address {settings.broker_url!r} is no http:// or https:// URL")
    return settings


# HTTP/1.1, as much of it as a front needs.


class BadMessage(Exception):
    """Not HTTP, or such that two readers could understand it differently."""


class Cut(Exception):
    """The sender went away in the middle of a message."""


class Body:
    """How much of what comes belongs to one message. This one ends with its connection."""

    done = False

    def take(self, data: bytes) -> int:
        """How many of these bytes belong to the body."""
        return len(data)


class Sized(Body):
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def take(self, data: bytes) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        self.done = self._left == 0
        return taken


class Chunked(Body):
    """A body in chunks, passed on as it is: only its end is looked for."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0
        self._line = b""
        self._trailing = False

    def take(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if len(self._line) > MOST_LINE_BYTES:
                raise BadMessage("a line between chunks is too long")
            if self._line.endswith(b"\n"):
                self._end_line()
        return at

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise BadMessage("a line between chunks ends without CR")
        if self._trailing:
            self.done = line == b"\r\n"
            return
        digits = line[:-2].split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", digits):
            raise BadMessage("a chunk's size is no number")
        size = int(digits, 16)
        self._trailing = size == 0
        self._left = size + 2 if size else 0


class Source:
    """A stream that may be read a little too far."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._kept = b""

    async def some(self) -> bytes:
        """What is there; nothing at the end."""
        if self._kept:
            data, self._kept = self._kept, b""
            return data
        return await self._reader.read(BLOCK_BYTES)

    def keep(self, data: bytes) -> None:
        """Give back what belongs to the next message."""
        self._kept = data + self._kept

    async def head(self) -> bytes:
        """A message up to its empty line; nothing at the end."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MOST_HEAD_BYTES:
                raise BadMessage("its head is too large")
            more = await self.some()
            if not more:
                if data:
                    raise Cut("the connection closed within a head")
                return b""
            data += more
        self.keep(data[end + 4 :])
        return data[: end + 4]


@dataclasses.dataclass(frozen=True)
class Head:
    """A first line's three words, and headers as they came with their names in lower case."""

    line: tuple[str, str, str]
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]

    def body(self, otherwise: Body) -> Body:
        """How its body is framed. Raises ``BadMessage`` where two readers might differ."""
        lengths, codings = self.all("content-length"), self.all("transfer-encoding")
        if codings:
            if lengths or [coding.lower() for coding in codings] != ["chunked"]:
                raise BadMessage("its length is said in two ways")
            return Chunked()
        if not lengths:
            return otherwise
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,15}", lengths[0]):
            raise BadMessage("its Content-Length is no number")
        return Sized(int(lengths[0]))

    @property
    def closes(self) -> bool:
        tokens = ",".join(self.all("connection")).lower().replace(" ", "").split(",")
        version = self.line[0] if self.line[0].startswith("HTTP/") else self.line[2]
        return "close" in tokens or (version == "HTTP/1.0" and "keep-alive" not in tokens)


def parse_head(data: bytes) -> Head:
    first, *rest = data[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) == 2 and first.startswith("HTTP/"):
        words.append("")  # a reason phrase may be left out
    if len(words) != 3 or any(ord(character) < 32 for character in first):
        raise BadMessage("its first line is no HTTP")
    headers = []
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or "\n" in value or "\r" in value:
            raise BadMessage("a header is no HTTP")
        headers.append((name.lower(), value.strip(" \t")))
    return Head((words[0], words[1], words[2]), headers)


_ONE_HOP = {"connection", "keep-alive", "proxy-connection", "te", "upgrade", "expect", "authorization", "host"}
"""What is between two neighbours and not passed on; ``authorization`` is replaced."""


def written(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def relay(source: Source, sink: asyncio.StreamWriter, body: Body) -> None:
    """Each block at once as it comes. Raises ``Cut`` where the source ends before the body does."""
    while not body.done:
        data = await source.some()
        if not data:
            if type(body) is Body:
                return
            raise Cut("the connection closed within a body")
        taken = body.take(data)
        source.keep(data[taken:])
        sink.write(data[:taken])
        await sink.drain()


@dataclasses.dataclass(frozen=True)
class Address:
    """Where something listens: a socket's path, or a host and port."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: ssl.SSLContext | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port, ssl=self.tls)


async def ask(address: Address, method: str, path: str, key: str, body: bytes = b"") -> tuple[int, bytes]:
    """(status, body) of one answer. Raises ``OSError``, ``asyncio.TimeoutError``, ``BadMessage`` or ``Cut``."""
    return await asyncio.wait_for(_ask(address, method, path, key, body), ANSWER_WITHIN_S)


async def _ask(address: Address, method: str, path: str, key: str, body: bytes) -> tuple[int, bytes]:
    reader, writer = await address.connect()
    try:
        headers = [("Host", address.host or "localhost"), ("Connection", "close")]
        if key:
            headers.append(("Authorization", f"Bearer {key}"))
        if body:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        writer.write(written(f"{method} {path} HTTP/1.1", headers) + body)
        await writer.drain()
        source = Source(reader)
        head = parse_head(await source.head() or b"\r\n\r\n")
        return int(head.line[1]), await _collect(source, head.body(Body()))
    except ValueError:
        raise BadMessage("its status is no number") from None
    finally:
        writer.close()


async def _collect(source: Source, framing: Body) -> bytes:
    """A whole body, without its chunks' frames."""
    raw = b""
    while not framing.done and (data := await source.some()):
        raw += data[: framing.take(data)]
        if len(raw) > MOST_ANSWER_BYTES:
            raise BadMessage("its answer is too large")
    if not isinstance(framing, Chunked):
        return raw
    content = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            break
        content, raw = content + raw[:length], raw[length + 2 :]
    return content


# The front: who may reach the engine, and by which paths.


class Refusal(Exception):
    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Upstream:
    """The engine as its front reaches it."""

    address: Address
    key: str


class Front:
    """A reverse proxy that lets nothing through but ``/v1/...`` and ``/health`` to holders of the endpoint's key, and
    ``/metrics`` to the broker's. Bodies pass as they come, byte by byte and without waiting for their end. Where there
    are too many connections, the one that has been idle for longest ends."""

    def __init__(self, listener: socket.socket, most_connections: int = MOST_CONNECTIONS) -> None:
        self.endpoint_key = ""
        self.metrics_key = ""
        self.upstream: Upstream | None = None
        self.in_flight = 0
        self._listener = listener
        self._most_connections = most_connections
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._idle: dict[asyncio.Task[None], None] = {}
        self._closing = False

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._listener, backlog=ACCEPTED_AT_ONCE)

    async def close(self) -> None:
        """The engine is gone, or never was: what it has answered still reaches its reader."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for task in self._idle:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=FLUSHED_WITHIN_S)
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= self._most_connections or self._ended_idle():
                await self._converse(Source(reader), writer, task)
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), FLUSHED_WITHIN_S)
        except (OSError, Cut, BadMessage, asyncio.TimeoutError):
            writer.close()  # one connection's end is nobody else's business
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._open.discard(task)

    def _ended_idle(self) -> bool:
        for task in self._idle:
            del self._idle[task]
            task.cancel()
            return True
        return False

    async def _converse(self, client: Source, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        """One request after another on a connection."""
        goes_on = True
        while goes_on and not self._closing:
            self._idle[task] = None
            try:
                client.keep(await asyncio.wait_for(client.some(), IDLE_S))
            except asyncio.CancelledError:
                return
            finally:
                self._idle.pop(task, None)
            try:
                head = await asyncio.wait_for(client.head(), HEAD_WITHIN_S)
                if not head:
                    return
                goes_on = await self._answer(parse_head(head), client, writer)
            except BadMessage as problem:
                return await self._refuse(client, writer, "400 Bad Request", f"this is no request: {problem}")
            except Refusal as refusal:
                return await self._refuse(client, writer, refusal.status, str(refusal))

    async def _refuse(self, client: Source, writer: asyncio.StreamWriter, status: str, words: str) -> None:
        """The end of a connection. What was still being sent is heard a little longer: whoever closes on a sender
        takes back the answer."""
        writer.write(_error(status, words))
        await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        await asyncio.wait_for(self._discard(client), HEARD_OUT_S)

    async def _discard(self, client: Source) -> None:
        left = HEARD_OUT_BYTES
        while left > 0 and (data := await client.some()):
            left -= len(data)

    async def _answer(self, request: Head, client: Source, writer: asyncio.StreamWriter) -> bool:
        """Whether another request may follow on this connection."""
        body = request.body(Sized(0))
        upstream = self._let_in(request)
        if request.all("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        counted = request.line[0] == "POST"
        self.in_flight += counted
        try:
            return await self._exchange(request, body, upstream, client, writer)
        finally:
            self.in_flight -= counted

    def _let_in(self, request: Head) -> Upstream:
        """Where the request goes. Raises ``Refusal``."""
        method, target, version = request.line
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise BadMessage("it is not HTTP/1.1")
        if not self.endpoint_key:
            raise Refusal("503 Service Unavailable", "the replica has no keys yet; ask again")
        shown = request.all("authorization")
        scheme, _, key = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
        ours = hmac.compare_digest(key.encode(), self.endpoint_key.encode())
        brokers = hmac.compare_digest(key.encode(), self.metrics_key.encode())
        if scheme.lower() != "bearer" or not (ours or brokers):
            raise Refusal("401 Unauthorized", "send this replica's key as 'Authorization: Bearer KEY'")
        path = target.partition("?")[0]
        if path == "/metrics" and method == "GET":
            allowed = brokers
        else:
            allowed = ours and method in ("GET", "POST") and (path == "/health" or bool(_PATHS.fullmatch(path)))
        if not allowed:
            raise Refusal("404 Not Found", "this replica answers /v1/... and /health only")
        if self.upstream is None:
            raise Refusal("503 Service Unavailable", "the model is being loaded; ask again")
        return self.upstream

    async def _exchange(
        self, request: Head, body: Body, upstream: Upstream, client: Source, writer: asyncio.StreamWriter
    ) -> bool:
        try:
            engine_reader, engine = await upstream.address.connect()
        except OSError:
            raise Refusal("502 Bad Gateway", "the engine does not answer") from None
        try:
            kept = [(name, value) for name, value in request.headers if name not in _ONE_HOP]
            own = [("host", "localhost"), ("authorization", f"Bearer {upstream.key}"), ("connection", "close")]
            engine.write(written(" ".join(request.line[:2]) + " HTTP/1.1", kept + own))
            with contextlib.suppress(ConnectionError):  # an engine may refuse a body before it has read it
                await relay(client, engine, body)
            return await self._while_wanted(client, self._respond(request, Source(engine_reader), writer)) and body.done
        finally:
            engine.close()

    async def _while_wanted(self, client: Source, response: Any) -> bool:
        """The response, for as long as its reader stays: an engine must not compute for one who left."""
        answering = asyncio.ensure_future(response)
        leaving = asyncio.ensure_future(client.some())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                heard = leaving.result()
                if not heard and not answering.done():
                    raise Cut("the client left")
                client.keep(heard)
            return bool(await answering)
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _respond(self, request: Head, engine: Source, writer: asyncio.StreamWriter) -> bool:
        try:
            head, body = await self._engines_head(engine)
        except (BadMessage, Cut) as problem:
            raise Refusal("502 Bad Gateway", f"the engine gave no answer: {problem}") from None
        status = head.line[1]
        closes = request.closes or type(body) is Body
        kept = [(name, value) for name, value in head.headers if name not in ("connection", "keep-alive")]
        if closes:
            kept.append(("connection", "close"))
        writer.write(written(f"HTTP/1.1 {status} {head.line[2]}", kept))
        try:
            await relay(engine, writer, body)
        except (Cut, BadMessage, OSError) as problem:
            writer.transport.abort()  # an answer cut short must not look like a whole one
            raise Cut(str(problem)) from None
        return not closes

    async def _engines_head(self, engine: Source) -> tuple[Head, Body]:
        """Past interim answers, which say nothing that the client waits for."""
        status = "100"
        while status.startswith("1"):
            raw = await engine.head()
            if not raw:
                raise Cut("it closed the connection")
            head = parse_head(raw)
            version, status, _ = head.line
            if not version.startswith("HTTP/1.") or not re.fullmatch(r"[1-5][0-9][0-9]", status):
                raise BadMessage("its first line is no HTTP")
        return head, Sized(0) if status in ("204", "304") else head.body(Body())


def room_for_connections() -> int:
    """How many connections there are files for, two for each, after raising the limit on them as far as we may."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS + SPARE_FILES
    if files < wanted:
        files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return min(MOST_CONNECTIONS, (files - min(SPARE_FILES, files // 2)) // 2)


def _error(status: str, message: str) -> bytes:
    body = json.dumps({"error": {"message": message, "type": status.partition(" ")[2], "code": int(status[:3])}})
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    if status.startswith("401"):
        headers.append(("www-authenticate", "Bearer"))
    if status.startswith("503"):
        headers.append(("retry-after", "1"))
    return written(f"HTTP/1.1 {status}", headers) + body.encode()


# Ports: taken by binding, confirmed by who listens.


def candidates(ports: tuple[int, int], name: str, ephemeral: tuple[int, int]) -> list[int]:
    """The ports to try, in an order of the name's own, so that the agents of a node do not race for the same one.

    Those from which Linux gives out connections' own ports are left out: they may be taken at any moment.
    """
    first, last = ports
    start = zlib.crc32(name.encode()) % (last - first + 1)
    ordered = [first + (start + step) % (last - first + 1) for step in range(last - first + 1)]
    return [port for port in ordered if not ephemeral[0] <= port <= ephemeral[1]]


def ephemeral_ports() -> tuple[int, int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = file.read().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999


def bound(host: str, ports: Iterable[int]) -> socket.socket:
    """A socket bound to the first free one. Raises ``AgentError``.

    Neither SO_REUSEADDR nor SO_REUSEPORT: a port that another may share, as older vLLM does, is not free.
    """
    problem = "there is none outside the range that Linux gives out by itself"
    for port in ports:
        taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            taken.bind((host, port))
        except OSError as error:
            taken.close()
            problem = error.strerror or str(error)
        else:
            return taken
    raise AgentError(f"no port to listen on at {host} ({problem}); widen or move job.ports of the pool")


def listening(port: int) -> set[int]:
    """The inodes of all sockets that listen on a port, at whatever address."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        found |= {int(row[9]) for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    return found


def strangers_on(port: int, pids: Iterable[int]) -> bool:
    """Whether a socket of none of these processes listens there. False where that cannot be known: containers may
    hide their descriptors, and then only the answer to our key tells."""
    heard = listening(port)  # first: what of ours begins to listen after this must not look like a stranger's
    ours: set[int] = set()
    for pid in pids if heard else ():
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return False
        for name in names:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:["):
                    ours.add(int(link[8:-1]))
    return bool(heard - ours)


def own_address(broker_url: str) -> str:
    """The address from which this node reaches the broker; nothing is sent to find it."""
    parts = urllib.parse.urlsplit(broker_url)
    try:
        family, _, _, _, target = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise AgentError(f"this node has no way to the broker at {broker_url}: {error}") from None


# The engine's processes, and what they leave behind.

_MAPPED = re.compile(rb" (\d+) +(/dev/shm/[^\n]+)$", re.MULTILINE)


def processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def keep_orphans() -> None:
    """What leaves its parent below us becomes our child, not that of whoever adopts orphans: an engine that goes into
    the background was left on its GPUs where Slurm has no cgroups."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # not every build of Python has it

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def reap_orphans(child: int) -> None:
    """Those that have ended, but for ``child``, whose end somebody waits for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != child:
            os.waitpid(ended.si_pid, 0)


def descendants(root: int, session: int | None = None) -> set[int]:
    """The living processes below ``root``, and those of a session.

    No number stands for no session: 0 is that of all whose session began outside a container.
    """
    children: dict[int, list[int]] = {}
    found, living = set(), set()
    for pid in processes():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(pid)
        if fields[0] not in (b"Z", b"X"):
            living.add(pid)
            if int(fields[3]) == session:
                found.add(pid)
    below = list(children.get(root, ()))
    while below:
        pid = below.pop()
        found.add(pid)
        below += children.get(pid, ())
    return found & living


def shared_memory_of(pids: Iterable[int]) -> set[tuple[str, int]]:
    """(path, inode) of what these processes hold of ``/dev/shm`` itself, open or mapped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
            found |= {(os.fsdecode(path), int(inode)) for inode, path in _MAPPED.findall(file.read())}
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link.startswith("/dev/shm/"):
                        found.add((link, os.stat(f"/proc/{pid}/fd/{name}").st_ino))
    return {(path, inode) for path, inode in found if os.path.dirname(path) == "/dev/shm"}


def shared_memory() -> set[tuple[str, int]]:
    """All that is there now."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir("/dev/shm"):
            found.add((entry.path, entry.inode()))
    return found


def remove_shared_memory(made: set[tuple[str, int]]) -> int:
    """Take away what an engine made and nobody holds any more; how many entries that were."""
    removed = 0
    held = shared_memory_of(processes()) if made else set()
    for path, inode in made - held:
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if status.st_ino == inode and status.st_uid == os.getuid():
                os.unlink(path)
                removed += 1
    return removed


def memory_kills(cgroup: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> int:
    """How many processes the kernel has ended in this job's cgroups for want of memory; 0 where that is not told."""
    kills = 0
    with contextlib.suppress(OSError), open(cgroup) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers not in ("", "memory"):
                continue
            parts = ["memory", *path.strip("/").split("/")] if controllers else path.strip("/").split("/")
            leaf = "memory.oom_control" if controllers else "memory.events"
            # The task's, the step's and the job's: any of them may be limited.
            while any(part.startswith("job_") for part in parts):
                kills = max(kills, _count(os.path.join(mount, *parts, leaf)))
                parts.pop()
    return kills


def _count(path: str) -> int:
    try:
        with open(path) as file:
            found = re.search(r"^oom_kill (\d+)", file.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


class Engine:
    """One run of the engine, in a session of its own. ``before``: what was in ``/dev/shm`` before the first run."""

    def __init__(self, command: list[str], environment: dict[str, str], before: set[tuple[str, int]]) -> None:
        self._before = before
        self._kills = memory_kills()
        self._made: set[tuple[str, int]] = set()
        self._others = descendants(os.getpid())  # a prolog may have left something of its own
        become = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())]
        self._process = subprocess.Popen(
            [*become, *command], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal if one ended it; None while it runs."""
        return self._process.poll()

    @property
    def ran_out_of_memory(self) -> bool:
        return memory_kills() > self._kills

    def members(self) -> set[int]:
        """Its living processes, also those that have gone into the background."""
        return descendants(os.getpid(), self._process.pid) - self._others

    def sample(self) -> None:
        """Note what it holds of ``/dev/shm``: once it is dead nobody can tell whose an entry was."""
        self._made |= shared_memory_of(self.members()) - self._before

    def terminate(self) -> None:
        """The main process alone: vLLM's finishes what runs and then ends its engine cores, which would drop their
        requests at once if the signal reached them too."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """All that is left of it."""
        self.sample()
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    async def clear(self) -> None:
        """End what is left of it, and take away its shared memory."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for _ in range(50):
            self.kill()
            if not self.members():
                break
            await asyncio.sleep(TICK_S)
        if removed := remove_shared_memory(self._made):
            say(f"took {removed} entries of the engine out of /dev/shm")


# What the node is, and what it has of the weights already.


def node_class(gpu_type: str | None, environment: dict[str, str], driver: str = "/proc/driver/nvidia") -> str:
    """What tells this kind of node from others: the GPU type that the job asked for, else the one that NVIDIA's driver
    tells, else the partition."""
    if gpu_type:
        return f"gpu:{gpu_type}"
    found: set[str] = set()
    for path in glob.glob(f"{driver}/gpus/*/information"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            found.update(line.partition(":")[2].strip() for line in file if line.startswith("Model:"))
    return "+".join(sorted(found)) or environment.get("SLURM_JOB_PARTITION", "")


def weight_files(command: list[str]) -> list[str]:
    """The files that an engine reads its weights from: those of the folders that its command names (``serve FOLDER``,
    ``--model=FOLDER``). Of a folder with both kinds vLLM reads the first. Raises ``OSError``."""
    folders = {word.partition("=")[2] if word.startswith("-") else word for word in command[1:]}
    files = []
    for folder in sorted(filter(os.path.isdir, folders)):
        names = sorted(os.listdir(folder))
        for ending in (".safetensors", ".bin"):
            if found := [os.path.join(folder, name) for name in names if name.endswith(ending)]:
                files += found
                break
    return files


def share_in_memory(files: list[str]) -> float:
    """How much of the bytes of ``files`` is in this node's page cache, from 0 to 1, by a sample of their pages and
    without reading any. Raises ``OSError``, and ``ImportError`` for a Python without ctypes."""
    cached_bytes = looked_bytes = 0.0
    give_up_at = time.monotonic() + LOOKED_AT_FOR_S
    for path in files:
        size, share = resident(path)
        cached_bytes += size * share
        looked_bytes += size
        if time.monotonic() > give_up_at:  # of a slow file system the first files say enough
            break
    return cached_bytes / looked_bytes if looked_bytes else 0.0


def resident(path: str) -> tuple[int, float]:
    """(a file's size, the share of the pages looked at that are in memory), by ``mincore``. Raises ``OSError``, also
    for another user's file that we may not write: of those Linux says that all is in memory."""
    import ctypes  # not every build of Python has it

    mincore = ctypes.CDLL(None, use_errno=True).mincore
    answer = ctypes.create_string_buffer(1)
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} is another user's, of which Linux does not tell it")
        step = max(1, status.st_size // mmap.PAGESIZE // PAGES_LOOKED_AT) * mmap.PAGESIZE
        looked_at = range(0, status.st_size, step)
        present = 0
        for at in looked_at:
            length = min(mmap.PAGESIZE, status.st_size - at)
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=at) as page:
                address = ctypes.byref(ctypes.c_char.from_buffer(page))
                failed = mincore(address, ctypes.c_size_t(length), answer)
                del address  # a page that is pointed to cannot be let go
            if failed:
                raise OSError(ctypes.get_errno(), f"{path}: mincore failed")
            present += answer.raw[0] & 1
    return status.st_size, present / max(1, len(looked_at))


# The agent.


@dataclasses.dataclass(frozen=True)
class Stop:
    """Why the engine is to go. ``elsewhere``: it is to be started again, on another port."""

    cause: str
    words: str
    grace_s: float
    elsewhere: bool = False


@dataclasses.dataclass
class Status:
    """What the next report says."""

    phase: str = "starting"
    detail: str = ""
    url: str | None = None
    unhealthy_since: float | None = None
    drain: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    start_place: dict[str, Any] | None = None


def job_number(environment: dict[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdigit() else None


class Agent:
    """One replica's life on its node."""

    def __init__(self, settings: Settings, token: str, command: list[str], environment: dict[str, str]) -> None:
        self._before = shared_memory()
        self._settings = settings
        self._command = command
        self._environment = environment
        self._name = f"{settings.model_id}-{settings.ordinal}-g{settings.generation}"
        self._status = Status()
        self._stop: Stop | None = None
        self._ready = False
        end_at = job_number(environment, "SLURM_JOB_END_TIME")
        self._end_at = None if end_at is None else float(end_at)
        self._address = settings.address or own_address(settings.broker_url)
        self._front: Front | None = None
        self._inner_key = secrets.token_hex(32)
        self._endpoint_key = ""
        self._folder = ""
        self._link = Link(settings, token, self._body, self._ordered, self._given_keys, self._refused)

    async def run(self) -> int:
        """The job's exit code: 0 if it ended as it should."""
        keep_orphans()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_terminate)
        loop.add_signal_handler(signal.SIGINT, self._on_terminate)
        loop.add_signal_handler(signal.SIGUSR1, self._on_notice)
        reporting = self._background(self._link.run())
        try:
            end = await self._serve()
        except (AgentError, OSError) as error:
            end = _end("not_started", str(error))
        finally:
            if self._front is not None:
                await self._front.close()
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
        say(f"{self._name} ended: {end['cause']}: {end['detail']}")
        self._tell(phase="ended", end=end, url=None)
        await self._link.say_farewell()
        return 0 if end["cause"] in ("stopped", "expired", "preempted") else 1

    def _tell(self, **changed: Any) -> None:
        self._status = dataclasses.replace(self._status, **changed)
        self._link.news.set()

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task whose failure ends the job: half an agent must not look like one."""
        task = asyncio.ensure_future(work)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                self._ask_to_stop("crashed", f"a mistake in the agent: {task.exception()!r}")

        task.add_done_callback(ended)
        return task

    # Where it listens, and the engine's runs.

    async def _serve(self) -> dict[str, Any]:
        if shutil.which(self._command[0], path=self._environment.get("PATH")) is None:
            raise AgentError(
                f"{self._command[0]} is not on this node's PATH; mend job.modules of the pool or the command"
            )
        if self._settings.front:
            listener = bound(self._address, self._ports())
            self._front = Front(listener, room_for_connections())
            await self._front.open()
            self._tell(url=self._url(listener.getsockname()[1]))
            self._given_keys()
        else:
            await self._until_keys()
        self._status.start_place = await asyncio.to_thread(self._looked_at_node)
        self._folder = tempfile.mkdtemp(prefix="tidegate-", dir="/tmp")  # a socket's path may have 107 characters
        try:
            for attempt in range(PLACES_TRIED):
                if self._stop is not None:
                    return _end(self._stop.cause, self._stop.words)
                end = await self._run_engine(attempt)
                if end is not None:
                    return end
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        raise AgentError(
            f"in {PLACES_TRIED} attempts another process took the engine's port; widen job.ports of the pool"
        )

    def _ports(self, attempt: int = 0) -> list[int]:
        return candidates(self._settings.ports, f"{self._name}/{attempt}", ephemeral_ports())

    def _url(self, port: int) -> str:
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{port}"

    def _looked_at_node(self) -> dict[str, Any]:
        """What loading will depend on, before the engine changes it."""
        kind = node_class(self._settings.gpu_type, self._environment)
        cached = False
        try:
            if files := weight_files(self._command):
                share = share_in_memory(files)
                cached = share >= CACHED_SHARE
                say(f"{share:.0%} of the weights are in this node's memory")
        except (OSError, ImportError) as error:
            say(f"it cannot be told how much of the weights is in this node's memory: {error}")
        return {"node_class": kind, "weights_cached": cached}

    async def _until_keys(self) -> None:
        """Without a front the engine itself asks for the endpoint's key, which only the broker can tell."""
        while self._stop is None and not self._endpoint_key:  # noqa: ASYNC110 - a signal or the broker ends it
            await asyncio.sleep(TICK_S)

    async def _run_engine(self, attempt: int) -> dict[str, Any] | None:
        """Its end; None if it is to be tried on another port."""
        listens_at = "127.0.0.1" if self._front is not None else self._address
        address, command = self._place(listens_at, attempt)
        key = self._inner_key if self._front is not None else self._endpoint_key
        kept = {name: value for name, value in self._environment.items() if not name.startswith("TIDEGATE_")}
        engine = Engine(command, dict(kept, **dict.fromkeys(self._settings.key_variables, key)), self._before)
        self._tell(phase="loading", detail="the engine was started", url=self._status.url if self._front else None)
        watching = self._background(self._watch(engine, Upstream(address, key)))
        try:
            code = await self._until_gone(engine)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            if self._front is not None:
                self._front.upstream = None
            await engine.clear()
        lost = not self._ready and self._stop is None and bool(address.port and listening(address.port))
        if lost or (self._stop is not None and self._stop.elsewhere):
            say(f"port {address.port} was taken by another process; another one is tried")
            self._stop = None
            return None
        return self._judged(engine, code)

    def _place(self, host: str, attempt: int) -> tuple[Address, list[str]]:
        """Where this run of the engine listens, and its command."""
        if self._settings.socket_option and self._front is not None:
            path = os.path.join(self._folder, f"engine{attempt}.sock")
            return Address(path=path), [*self._filled(host, 0), self._settings.socket_option, path]
        with bound(host, self._ports(attempt)) as reserved:
            port: int = reserved.getsockname()[1]
        return Address(host=host, port=port), self._filled(host, port)

    def _filled(self, host: str, port: int) -> list[str]:
        values = {"{host}": host, "{port}": str(port)}
        return [re.sub(r"\{(host|port)\}", lambda found: values[found[0]], argument) for argument in self._command]

    async def _until_gone(self, engine: Engine) -> int:
        """Stop it when that is asked, kill it at the deadline."""
        kill_at: float | None = None
        sample_at = 0.0
        while (code := engine.code) is None:
            now = time.monotonic()
            self._heed_deadline()
            if self._stop is not None and kill_at is None:
                say(f"ending the engine: {self._stop.words}")
                kill_at = now + self._stop.grace_s
                engine.terminate()
            if kill_at is not None and now >= kill_at:
                engine.kill()
            if now >= sample_at:
                with contextlib.suppress(OSError):  # the next look shows it
                    await asyncio.to_thread(engine.sample)  # of a large engine it would hold up tokens
                reap_orphans(engine.pid)
                sample_at = now + (SAMPLE_SERVING_EVERY_S if self._ready else SAMPLE_LOADING_EVERY_S)
            await asyncio.sleep(TICK_S)
        return code

    def _heed_deadline(self) -> None:
        """The broker may be away: a drain that was asked for ends by itself, so that the engine can finish in order."""
        drain = self._status.drain
        if drain is not None and self._stop is None and time.time() >= drain["by"]:
            self._ask_to_stop("expired" if drain["cause"] == "wall_time" else "preempted", "its time has run out")

    def _judged(self, engine: Engine, code: int) -> dict[str, Any]:
        """Why it ended. An exit that nobody asked for is a crash whatever its code: vLLM exits 0 when its engine core
        was killed."""
        words = f"ended by signal {-code}" if code < 0 else f"exited with code {code}"
        if engine.ran_out_of_memory:
            return _end("out_of_memory", f"the kernel ended a process of the job for want of memory; {words}", code)
        if self._stop is not None:
            return _end(self._stop.cause, f"{self._stop.words}; it {words}", code)
        return _end("crashed", f"it {words} though nobody had asked it to; see the job's output", code)

    # Looking at the engine.

    async def _watch(self, engine: Engine, upstream: Upstream) -> None:
        """Until it has proven itself, then whether it still answers. One failed look never ends it: the broker's
        probes decide who is withdrawn."""
        deadline = time.monotonic() + self._settings.load_timeout_s
        while not self._ready:
            if upstream.address.port and strangers_on(upstream.address.port, engine.members()):
                if self._stop is None:
                    words = "another process listens on its port"
                    self._stop = Stop("not_started", words, GIVE_UP_GRACE_S, elsewhere=True)
                return
            problem = await self._problem(upstream)
            if problem is None:
                await asyncio.to_thread(engine.sample)
                self._now_ready(upstream)
            elif problem.startswith("wrong: "):
                return self._ask_to_stop("unhealthy", problem[len("wrong: ") :], GIVE_UP_GRACE_S)
            elif time.monotonic() >= deadline:
                words = f"not ready within {self._settings.load_timeout_s:g} s: {problem}"
                return self._ask_to_stop("unhealthy", words, GIVE_UP_GRACE_S)
            else:
                self._status.detail = problem
                await asyncio.sleep(LOOK_EVERY_S)
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            answers = await self._healthy(upstream)
            if answers == (self._status.unhealthy_since is not None):
                self._tell(unhealthy_since=None if answers else time.time())
                say("the engine answers again" if answers else "the engine does not answer /health")

    def _now_ready(self, upstream: Upstream) -> None:
        self._ready = True
        if self._front is not None:
            self._front.upstream = upstream
            url = self._status.url
        else:
            url = self._url(upstream.address.port)
        draining = self._status.drain is not None
        self._tell(phase="draining" if draining else "ready", detail="", url=url)
        say(f"{self._name} is ready at {url}")

    async def _healthy(self, upstream: Upstream) -> bool:
        try:
            status, _ = await ask(upstream.address, "GET", "/health", upstream.key)
        except (OSError, asyncio.TimeoutError, BadMessage, Cut):
            return False
        return status == 200

    async def _problem(self, upstream: Upstream) -> str | None:
        """Why it is not ready; None if it is. ``wrong: ...`` will not mend itself."""
        try:
            if not await self._healthy(upstream):
                return "/health does not answer 200"
            status, body = await ask(upstream.address, "GET", "/v1/models", upstream.key)
            if status in (401, 403):
                return "wrong: it refuses the key that it was started with"
            if status != 200:
                return f"/v1/models answers {status}"
            served = [str(model["id"]) for model in json.loads(body)["data"]]
            stranger, _ = await ask(upstream.address, "GET", "/v1/models", "not-" + upstream.key)
        except (OSError, asyncio.TimeoutError, BadMessage, Cut) as error:
            return str(error) or type(error).__name__
        except (ValueError, TypeError, KeyError):
            return "wrong: /v1/models answers no list of models"
        if self._settings.model_id not in served:
            return f"wrong: it serves {', '.join(served) or 'nothing'}, not {self._settings.model_id}"
        if stranger not in (401, 403):
            return "wrong: it answers without its key"
        return None

    # What others ask of it.

    def _ask_to_stop(self, cause: str, words: str, grace_s: float | None = None) -> None:
        if self._stop is None or self._stop.elsewhere:
            self._stop = Stop(cause, words, self._settings.stop_grace_s if grace_s is None else grace_s)
            if cause in ("stopped", "expired", "preempted"):
                self._tell(phase="draining", detail=words)

    def _on_terminate(self) -> None:
        now = time.time()
        cause = "stopped"
        if self._status.drain is not None and self._status.drain["cause"] != "terminated":
            cause = "expired" if self._status.drain["cause"] == "wall_time" else "preempted"
        elif self._end_at is not None and self._end_at - now < LATE_NOTICE_S:
            cause = "expired"
        if self._status.drain is None:
            self._tell(drain={"cause": "terminated", "by": now})
        self._ask_to_stop(cause, "told to exit by SIGTERM")

    def _on_notice(self) -> None:
        """The warning signal. What runs may finish, so the engine is ended no earlier than it must be."""
        if self._status.drain is not None:
            return
        now = time.time()
        left_s = self._settings.notice_s if self._end_at is None else max(0.0, self._end_at - now)
        early = left_s > self._settings.notice_s + LATE_NOTICE_S
        if early:
            left_s = self._settings.notice_s
        request = {
            "cause": "preemption" if early else "wall_time",
            "by": now + max(0.0, left_s - self._settings.stop_grace_s),
        }
        say(f"notice of {request['cause']}: asking the broker to drain {self._name}")
        self._tell(drain=request, phase="draining" if self._ready else self._status.phase)

    def _ordered(self, order: str) -> None:
        if order == "stop":
            self._ask_to_stop("stopped", "told to exit by the broker")
        elif order == "drain" and self._status.phase == "ready":
            self._tell(phase="draining", detail="the broker has withdrawn it")
        elif order == "keep" and self._status.phase == "draining" and not (self._status.drain or self._stop):
            self._tell(phase="ready", detail="")

    def _given_keys(self) -> None:
        self._endpoint_key = self._link.keys.get("endpoint_key", "")
        if self._front is not None:
            self._front.endpoint_key = self._endpoint_key
            self._front.metrics_key = self._link.keys.get("metrics_key", "")

    def _refused(self, words: str) -> None:
        self._ask_to_stop("not_started", words, GIVE_UP_GRACE_S)

    def _body(self, boot_id: str, sequence: int) -> dict[str, Any]:
        settings, environment = self._settings, self._environment
        report = dict(
            dataclasses.asdict(self._status),
            boot_id=boot_id,
            sequence=sequence,
            observed_at=time.time(),
            cluster=settings.cluster,
            model_id=settings.model_id,
            ordinal=settings.ordinal,
            generation=settings.generation,
            node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
            job_id=job_number(environment, "SLURM_JOB_ID"),
            restarts=job_number(environment, "SLURM_RESTART_COUNT") or 0,
            in_flight=None if self._front is None else self._front.in_flight,
            end_at=self._end_at,
        )
        if unsaid:
            lost = f"the job's output cannot be written: {', '.join(sorted(unsaid))}"
            report["detail"] = f"{report['detail']}; {lost}" if report["detail"] else lost
        return {"schema": REPORT_SCHEMA, "data": report}


def _end(cause: str, detail: str, code: int | None = None) -> dict[str, Any]:
    signalled = code is not None and code < 0
    return {
        "cause": cause,
        "detail": detail,
        "exit_code": None if signalled else code,
        "exit_signal": -code if code is not None and signalled else None,
    }


class Link:
    """The line to the broker: a registration, then heartbeats. With the broker away it tries on, ever more seldom."""

    def __init__(
        self,
        settings: Settings,
        token: str,
        body: Callable[[str, int], dict[str, Any]],
        ordered: Callable[[str], None],
        given_keys: Callable[[], None],
        refused: Callable[[str], None],
    ) -> None:
        parts = urllib.parse.urlsplit(settings.broker_url)
        secure = parts.scheme == "https"
        context = ssl.create_default_context(cafile=settings.broker_ca) if secure else None
        self._address = Address(parts.hostname or "", parts.port or (443 if secure else 80), tls=context)
        self._path = f"{parts.path.rstrip('/')}/v1/agents/{settings.action_id}"
        self._token = token
        self._body, self._ordered, self._given_keys, self._refused = body, ordered, given_keys, refused
        self._patience_s = settings.load_timeout_s  # one that nobody has heard by then holds its GPUs for nobody
        self._boot_id = secrets.token_hex(8)
        self._sequence = 0
        self._away_since: float | None = None
        self._registered = False
        self._shut_out = False
        self.keys: dict[str, str] = {}
        self.news = asyncio.Event()

    async def run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            self.news.clear()
            try:
                wait_s = await self._report()
                retry_s = FIRST_RETRY_S
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.news.wait(), wait_s)
            except _Unheard as problem:
                self._went_away(str(problem))
                if not self._registered and self._away_for_s() > self._patience_s:
                    self._give_up(f"no broker has heard this agent for {self._patience_s:g} s: {problem}")
                await asyncio.sleep(retry_s)
                retry_s = min(LONGEST_RETRY_S, 2 * retry_s)

    async def say_farewell(self) -> None:
        """The last report, for a bounded time."""
        give_up_at = time.monotonic() + FAREWELL_S
        while time.monotonic() < give_up_at and not self._shut_out:
            try:
                await self._report()
                return
            except _Unheard:
                await asyncio.sleep(FIRST_RETRY_S)

    async def _report(self) -> float:
        """The seconds until the next. Raises ``_Unheard``."""
        self._sequence += 1
        body = json.dumps(self._body(self._boot_id, self._sequence)).encode()
        key = self.keys.get("agent_key", "")
        try:
            status, raw = await ask(self._address, "PUT" if key else "POST", self._path, key or self._token, body)
        except (OSError, asyncio.TimeoutError, BadMessage, Cut, ValueError) as error:
            raise _Unheard(str(error) or type(error).__name__) from None
        answer = _object(raw)
        if status in (401, 403, 409):
            self._turned_away(status, _message(answer))
        given = _object(answer.get("keys"))
        has_keys = {"agent_key", "endpoint_key", "metrics_key"} <= given.keys()
        if status != 200 or not (key or has_keys):
            raise _Unheard(f"it answers {status}: {_message(answer)}")
        self._came_back()
        if has_keys:
            self.keys = {name: str(value) for name, value in given.items()}
            self._given_keys()
        self._ordered(str(answer.get("order")))
        seconds = answer.get("heartbeat_s")
        return float(seconds) if isinstance(seconds, (int, float)) and 0.1 <= seconds <= 60 else HEARTBEAT_S

    def _turned_away(self, status: int, words: str) -> None:
        """A key that has expired is replaced by a new registration. A job that was never let in serves nobody."""
        if self.keys:
            self.keys = {}
            self.news.set()
        elif not self._registered and (status != 409 or self._away_for_s() > REFUSED_FOR_S):
            self._give_up(f"the broker refuses this job ({status}): {words}")
        raise _Unheard(f"it refuses this agent ({status}): {words}")

    def _give_up(self, words: str) -> None:
        self._shut_out = True
        self._refused(words)

    def _away_for_s(self) -> float:
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def _went_away(self, words: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            say(f"the broker does not hear this agent, which goes on and tries again: {words}")

    def _came_back(self) -> None:
        if self._away_since is not None or not self._registered:
            say("the broker hears this agent")
        self._away_since = None
        self._registered = True


class _Unheard(Exception):
    """A report did not reach the broker."""


def _object(value: Any) -> dict[str, Any]:
    """``value``, or what it says in JSON; empty for what is no object."""
    if isinstance(value, bytes):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, dict) else {}


def _message(answer: dict[str, Any]) -> str:
    told = _object(answer.get("error")).get("message")
    return "this is no answer of a broker; see job.broker_url of the pool" if told is None else str(told)


async def _live(settings: Settings, token: str, command: list[str], environment: dict[str, str]) -> int:
    return await Agent(settings, token, command, environment).run()  # made in its loop, to which 3.9 binds its events


def main(command: list[str], environment: dict[str, str]) -> int:
    try:
        settings = read_settings(environment.get("TIDEGATE_AGENT", ""))
        token = environment.get("TIDEGATE_AGENT_TOKEN", "")
        if not token:
            raise AgentError("there is no TIDEGATE_AGENT_TOKEN; the job's script sets it")
        if not command:
            raise AgentError("there is no engine's command; the job's script gives it")
        return asyncio.run(_live(settings, token, command, environment))
    except AgentError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"this node does not let the agent go on: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
