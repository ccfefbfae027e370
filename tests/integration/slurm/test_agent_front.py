"""The front of the node agent, between a client and an engine that the test plays byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from actuators.slurm.agent import Address, Front, Upstream, bound

pytestmark = pytest.mark.integration

KEY, METRICS_KEY, INNER_KEY = "endpoint-key", "metrics-key", "inner-key"
LIMIT_S = 10.0

Play = Callable[["Wire"], Awaitable[None]]


@dataclass
class Wire:
    """One side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT_S)).decode()

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), LIMIT_S)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), LIMIT_S)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class PlayedEngine:
    """Plays the same to each connection; keeps what went wrong in its part."""

    play: Play
    heads: list[str] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        try:
            self.heads.append(await wire.head())
            await self.play(wire)
        except Exception as problem:
            self.problems.append(problem)
        finally:
            writer.close()


@dataclass
class Stage:
    front: Front
    engine: PlayedEngine
    port: int

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Wire]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def answer(self, request: bytes) -> bytes:
        """All that a connection gives back."""
        async with self.client() as client:
            await client.send(request)
            return await client.rest()


@asynccontextmanager
async def stage(play: Play, most_connections: int = 100) -> AsyncIterator[Stage]:
    engine = PlayedEngine(play)
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0)
    listener = bound("127.0.0.1", [0])
    front = Front(listener, most_connections)
    front.endpoint_key, front.metrics_key = KEY, METRICS_KEY
    engine_port = server.sockets[0].getsockname()[1]
    front.upstream = Upstream(Address(host="127.0.0.1", port=engine_port), INNER_KEY)
    await front.open()
    try:
        yield Stage(front, engine, listener.getsockname()[1])
    finally:
        await front.close()
        server.close()
        await asyncio.sleep(0)


def request(method: str, path: str, body: bytes = b"", key: str | None = KEY, headers: str = "") -> bytes:
    shown = f"Authorization: Bearer {key}\r\n" if key is not None else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: node\r\n{shown}{length}{headers}\r\n".encode() + body


async def says_ok(wire: Wire) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def never(wire: Wire) -> None:
    raise AssertionError("nobody may reach the engine")


def closing(path: str, key: str | None = KEY, method: str = "GET") -> bytes:
    return request(method, path, key=key, headers="Connection: close\r\n")


REFUSED = [
    ("completions without a key", closing("/v1/completions", None, "POST"), 401),
    ("models without a key", closing("/v1/models", None), 401),
    ("health without a key", closing("/health", None), 401),
    ("a wrong key", closing("/v1/models", "wrong"), 401),
    ("the engine's own key", closing("/v1/models", INNER_KEY), 401),
    ("another scheme", request("GET", "/v1/models", key=None, headers=f"Authorization: Basic {KEY}\r\n"), 401),
    ("two keys", request("GET", "/v1/models", headers=f"Authorization: Bearer {KEY}\r\n"), 401),
    ("invocations", closing("/invocations", method="POST"), 404),
    ("invocations without a key", closing("/invocations", None, "POST"), 401),
    ("tokenize", closing("/tokenize", method="POST"), 404),
    ("the root", closing("/"), 404),
    ("server info", closing("/server_info"), 404),
    ("adapters", closing("/v1/load_lora_adapter", method="POST"), 404),
    ("metrics to a gateway", closing("/metrics"), 404),
    ("models to the broker's metrics key", closing("/v1/models", METRICS_KEY), 404),
    ("a way up", closing("/v1/../invocations", method="POST"), 404),
    ("a hidden way up", closing("/v1/%2e%2e/invocations", method="POST"), 404),
    ("a doubled slash", closing("//invocations", method="POST"), 404),
    ("a whole address", closing("http://elsewhere/v1/models"), 404),
    ("another method", closing("/v1/models", method="TRACE"), 404),
    ("lengths in two ways", request("POST", "/v1/completions", b"x", headers="Transfer-Encoding: chunked\r\n"), 400),
    ("two lengths", request("POST", "/v1/completions", b"x", headers="Content-Length: 2\r\n"), 400),
    ("a length that is none", request("POST", "/v1/completions", headers="Content-Length: -1\r\n"), 400),
    ("another coding", request("POST", "/v1/completions", headers="Transfer-Encoding: gzip, chunked\r\n"), 400),
    ("a folded header", request("GET", "/v1/models", headers="X: a\r\n b: c\r\n"), 400),
    ("no HTTP", b"hello\r\n\r\n", 400),
    ("an endless head", b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 400),
]


@pytest.mark.parametrize(("sent", "status"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_what_is_not_for_everybody_never_reaches_the_engine(sent: bytes, status: int) -> None:
    async with stage(never) as world:
        answer = await world.answer(sent)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b'{"error": {"message": ' in answer
        assert world.engine.heads == []


@pytest.mark.parametrize(
    ("path", "key"),
    [("/v1/models", KEY), ("/health", KEY), ("/metrics", METRICS_KEY), ("/v1/responses/r-1?stream=true", KEY)],
)
async def test_the_openai_paths_pass_with_the_engines_own_key(path: str, key: str) -> None:
    async with stage(says_ok) as world:
        answer = await world.answer(closing(path, key))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok")
        (head,) = world.engine.heads
        assert head.startswith(f"GET {path} HTTP/1.1\r\n")
        assert f"authorization: Bearer {INNER_KEY}\r\n" in head
        assert key not in head


async def test_before_there_is_an_engine_the_key_is_checked_and_the_rest_is_loading() -> None:
    async with stage(never) as world:
        world.front.upstream = None
        assert (await world.answer(closing("/v1/models"))).startswith(b"HTTP/1.1 503 ")
        assert (await world.answer(closing("/v1/models", "wrong"))).startswith(b"HTTP/1.1 401 ")
        world.front.endpoint_key = ""
        assert (await world.answer(closing("/v1/models", ""))).startswith(b"HTTP/1.1 503 ")


async def test_a_stream_passes_byte_for_byte_and_each_token_at_once() -> None:
    chunks = [b"data: {\xff\x00}\n\n", b"0\r\n\r\n", b"x" * 100_000, b"data: [DONE]\n\n"]
    frames = [b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    end = b"0\r\nTrailer: x\r\n\r\n"
    heard = asyncio.Event()

    async def streams(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for frame in frames:
            await wire.send(frame[:3])
            await wire.send(frame[3:])
            await asyncio.wait_for(heard.wait(), LIMIT_S)  # the next one comes only when this one has arrived
            heard.clear()
        await wire.send(end)

    async with stage(streams) as world, world.client() as client:
        await client.send(request("POST", "/v1/completions", b'{"stream": true}'))
        assert "transfer-encoding: chunked" in await client.head()
        for frame in frames:
            assert await client.exactly(len(frame)) == frame
            heard.set()
        assert await client.exactly(len(end)) == end
        assert world.engine.problems == []


async def test_a_body_in_chunks_passes_byte_for_byte_and_the_next_request_follows_on_its_connection() -> None:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    bodies: list[bytes] = []

    async def reads(wire: Wire) -> None:
        if len(bodies) == 0:
            bodies.append(await wire.exactly(len(body)))
        await says_ok(wire)

    first = request("POST", "/v1/completions", headers="Transfer-Encoding: chunked\r\n") + body
    async with stage(reads) as world:
        answer = await world.answer(first + closing("/v1/models"))
        assert bodies == [body]
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert [head.split()[1] for head in world.engine.heads] == ["/v1/completions", "/v1/models"]


async def test_a_second_request_hidden_in_a_body_stays_a_body() -> None:
    hidden = request("POST", "/invocations")
    seen: list[bytes] = []

    async def reads(wire: Wire) -> None:
        seen.append(await wire.exactly(len(hidden)))
        await says_ok(wire)

    async with stage(reads) as world:
        answer = await world.answer(request("POST", "/v1/completions", hidden, headers="Connection: close\r\n"))
        assert (seen, answer.count(b"HTTP/1.1")) == ([hidden], 1)


async def test_an_answer_cut_short_does_not_look_whole() -> None:
    """Pitfall 22: a truncation that looks like success."""

    async def dies(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")

    async with stage(dies) as world, world.client() as client:
        await client.send(request("POST", "/v1/completions", b"{}"))
        await client.head()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.exactly(100)


@pytest.mark.parametrize("begun", [False, True], ids=["before the first token", "between two tokens"])
async def test_the_engine_learns_at_once_that_a_client_has_left(begun: bool) -> None:
    left = asyncio.Event()

    async def computes(wire: Wire) -> None:
        await wire.exactly(2)
        if begun:
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        assert await wire.rest() == b""
        left.set()

    async with stage(computes) as world:
        async with world.client() as client:
            await client.send(request("POST", "/v1/completions", b"{}"))
            if begun:
                await client.head()
            else:
                await asyncio.sleep(0.1)
            assert world.front.in_flight == 1
        await asyncio.wait_for(left.wait(), LIMIT_S)
        assert world.engine.problems == []


async def test_an_engine_that_is_gone_is_an_answer() -> None:
    async with stage(says_ok) as world:
        world.front.upstream = Upstream(Address(path="/nowhere/engine.sock"), INNER_KEY)
        assert (await world.answer(closing("/v1/models"))).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 O", id="half of a head"),
        pytest.param(b"-ERR unknown command\r\n\r\n", id="what is no HTTP"),
        pytest.param(b"HTTP/1.1 fine\r\n\r\n", id="a status that is none"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
    ],
)
async def test_an_engine_that_gives_no_answer_is_an_answer(said: bytes) -> None:
    """As the client's mistake, which it was told as, no gateway would try it elsewhere."""

    async def says(wire: Wire) -> None:
        await wire.send(said)

    async with stage(says) as world:
        assert (await world.answer(closing("/v1/models"))).startswith(b"HTTP/1.1 502 ")


async def test_a_chunk_that_is_none_ends_the_answer_and_nothing_is_put_into_it() -> None:
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"

    async def garbles(wire: Wire) -> None:
        await wire.send(begun)
        await asyncio.sleep(0.1)
        await wire.send(b"zz\r\n")

    async with stage(garbles) as world, world.client() as client:
        await client.send(request("POST", "/v1/completions", b"{}"))
        assert "200 OK" in await client.head()
        assert await client.rest() == b"2\r\nhi\r\n"


async def test_strangers_who_only_connect_shut_nobody_out() -> None:
    async with stage(says_ok, most_connections=4) as world, AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(world.client()) for _ in range(4)]
        assert (await world.answer(closing("/v1/models"))).startswith(b"HTTP/1.1 200 ")
        assert await strangers[0].rest() == b""  # the one that has been idle for longest


async def test_who_waits_for_leave_to_send_a_body_gets_it() -> None:
    async def reads(wire: Wire) -> None:
        assert await wire.exactly(5) == b"hello"
        await says_ok(wire)

    async with stage(reads) as world, world.client() as client:
        await client.send(request("POST", "/v1/completions", headers="Content-Length: 5\r\nExpect: 100-continue\r\n"))
        assert await client.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.head()).startswith("HTTP/1.1 200 OK")
        assert world.engine.problems == []


async def test_a_stranger_who_sends_much_still_hears_why_he_is_refused() -> None:
    async with stage(never) as world:
        answer = await world.answer(request("POST", "/v1/completions", b"x" * 2_000_000, "wrong"))
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_what_the_engine_answered_before_it_went_still_reaches_a_slow_reader() -> None:
    body = b"x" * 3_000_000

    async def answers(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with stage(answers) as world, world.client() as idle, world.client() as client:
        await client.send(request("POST", "/v1/completions", b"{}"))
        await client.head()
        closing = asyncio.create_task(world.front.close())
        await asyncio.sleep(0.2)
        assert await client.exactly(len(body)) == body
        assert await idle.rest() == b""
        await asyncio.wait_for(closing, LIMIT_S)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", world.port)
