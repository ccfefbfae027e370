"""The HTTP client towards engines reads every framing in every fragmentation, and takes nothing broken for whole."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream import Connection, Pool, UpstreamError, post


class FakeTransport(asyncio.Transport):
    """Keeps what is written and whether it was told to close or pause."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.paused = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def connect() -> tuple[Connection, FakeTransport]:
    connection, transport = Connection(memoryview(bytearray(1024))), FakeTransport()
    connection.connection_made(transport)
    return connection, transport


async def exchange(fragments: list[bytes], *, close: bool = False) -> tuple[Connection, bytes]:
    connection, _ = connect()
    return connection, await received_by(connection, fragments, close=close)


async def received_by(connection: Connection, fragments: list[bytes], *, close: bool = False) -> bytes:
    asking = asyncio.create_task(connection.ask(b"request"))
    await asyncio.sleep(0)
    for fragment in fragments:
        connection.receive(fragment)
    if close:
        connection.connection_lost(None)
    await asking
    body = b""
    while part := await connection.read():
        body += part
    return body


def fragments_of(answer: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(answer) + 1) for place in places), len(answer)]
    return [answer[begin:end] for begin, end in itertools.pairwise(edges) if begin < end]


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


places = st.lists(st.integers(0, 3000), max_size=20)


@given(st.lists(st.binary(max_size=60)), places, st.sampled_from([b"", b"X-A: b\r\n"]))
async def test_chunks_are_put_together(parts: list[bytes], places: list[int], trailer: bytes) -> None:
    answer = chunked(*parts, trailer=trailer)
    connection, body = await exchange(fragments_of(answer, places))
    assert body == b"".join(parts)
    assert connection.reusable


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1), places, st.integers(1, 2000))
async def test_a_chunked_body_that_breaks_off_is_an_error(parts: list[bytes], places: list[int], missing: int) -> None:
    answer = chunked(*parts)
    head = answer.index(b"\r\n\r\n") + 4
    answer = answer[: max(head, len(answer) - missing)]
    with pytest.raises(UpstreamError):
        await exchange(fragments_of(answer, places), close=True)


@given(st.binary(min_size=1, max_size=200), places)
async def test_a_body_with_a_length_ends_there(body: bytes, places: list[int]) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    connection, received = await exchange(fragments_of(answer, places))
    assert received == body
    assert connection.reusable


async def test_a_body_shorter_than_its_length_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="closed"):
        await exchange([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"], close=True)


async def test_a_body_without_length_ends_with_the_connection() -> None:
    connection, body = await exchange([b"HTTP/1.1 200 OK\r\n\r\nabc", b"def"], close=True)
    assert body == b"abcdef"
    assert not connection.reusable


async def test_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    _, body = await exchange([interim + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", b"x"])
    assert body == b"x"


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    connection, _ = await exchange([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"])
    assert not connection.reusable


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 many OK\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1\r\n\r\n", id="short status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, id="endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="bad length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", id="negative chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 5000, id="endless chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", id="more than its length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789", id="length in Python's spelling"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(b"HTTP/1.1 -5 OK\r\n\r\n", id="negative status"),
        pytest.param(b"HTTP/1.1 99999 OK\r\nContent-Length: 1\r\n\r\na", id="status of five digits"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Type: a\nSet-Cookie: b\r\n\r\n", id="line feed in a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Type: a\x01b\r\n\r\n", id="control character in a header"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 15_000, id="interim answers without end"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", id="another protocol from here on"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab", id="chunk size with 0x"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n", id="chunk over its size"
        ),
    ],
)
async def test_what_is_no_http_is_an_error_and_closes_the_connection(answer: bytes) -> None:
    connection, transport = connect()
    with pytest.raises(UpstreamError):
        await received_by(connection, [answer])
    assert transport.aborted


async def test_a_length_beside_chunks_means_nothing() -> None:
    answer = chunked(b"whole").replace(b"200 OK\r\n", b"200 OK\r\nContent-Length: 2\r\n")
    connection, body = await exchange([answer])
    assert body == b"whole"
    assert connection.head is not None
    assert connection.head.content_length is None


async def test_a_second_answer_right_behind_the_last_chunk_closes_the_connection() -> None:
    connection, body = await exchange([chunked(b"mine") + chunked(b"somebody else's")])
    assert body == b"mine"
    assert not connection.reusable


async def test_a_body_without_length_whose_connection_is_reset_is_an_error() -> None:
    connection, _ = connect()
    asking = asyncio.create_task(connection.ask(b"request"))
    await asyncio.sleep(0)
    connection.receive(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    await asking
    assert await connection.read() == b"half"
    connection.connection_lost(ConnectionResetError("reset by peer"))
    with pytest.raises(UpstreamError, match="reset by peer"):
        await connection.read()


async def test_bytes_after_the_answer_close_the_connection() -> None:
    connection, _ = await exchange([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"])
    connection.receive(b"more")
    assert not connection.reusable


async def test_a_pumped_body_goes_to_its_sink_as_it_comes() -> None:
    connection, _ = connect()
    asking = asyncio.create_task(connection.ask(b"request"))
    await asyncio.sleep(0)
    connection.receive(chunked(b"first")[:-5])
    await asking
    seen: list[bytes] = []
    connection.pump(seen.append)
    connection.receive(b"2\r\nse\r\n")
    assert seen == [b"first", b"se"]
    connection.receive(b"0\r\n\r\n")
    await connection.finished_or_paused()


async def test_what_a_sink_raises_reaches_who_waits_for_the_end() -> None:
    connection, transport = connect()
    asking = asyncio.create_task(connection.ask(b"request"))
    await asyncio.sleep(0)

    def sink(part: bytes) -> None:
        raise ConnectionResetError("user gone")

    connection.receive(chunked(b"all at once"))
    await asking
    connection.pump(sink)
    with pytest.raises(ConnectionResetError, match="user gone"):
        await connection.finished_or_paused()
    assert transport.aborted


async def test_a_body_that_nobody_reads_pauses_the_connection() -> None:
    connection, transport = connect()
    asking = asyncio.create_task(connection.ask(b"request"))
    await asyncio.sleep(0)
    connection.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + b"x" * 300_000)
    await asking
    assert transport.paused
    await connection.read()
    assert not transport.paused


def test_a_request_names_its_host_path_and_length() -> None:
    text = post("http://engine:8000/v1/completions", {"X-A": "é"}, b"{}")
    assert text.startswith(b"POST /v1/completions HTTP/1.1\r\nHost: engine:8000\r\nContent-Length: 2\r\n")
    assert text.endswith(b"X-A: \xc3\xa9\r\n\r\n{}")


@pytest.mark.parametrize(
    "url", ["", "not an address", "ftp://a", "http://", "http://[::bad", "http://a:99999", "http://a:port", "//a"]
)
async def test_an_address_that_is_none_is_an_error_in_words(url: str) -> None:
    with pytest.raises(UpstreamError, match="address"):
        await Pool(1.0, 1.0).connect(url)


async def test_all_connections_may_receive_into_the_same_buffer() -> None:
    buffer = memoryview(bytearray(64))
    connections = [Connection(buffer) for _ in range(2)]
    asking = []
    for connection in connections:
        connection.connection_made(FakeTransport())
        asking.append(asyncio.create_task(connection.ask(b"request")))
    await asyncio.sleep(0)
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body for body in (b"one", b"two")]
    for begin in range(0, len(answers[0]), 10):
        for connection, answer in zip(connections, answers, strict=True):
            piece = answer[begin : begin + 10]
            connection.get_buffer(-1)[: len(piece)] = piece
            connection.buffer_updated(len(piece))
    await asyncio.gather(*asking)
    assert [await connection.read() for connection in connections] == [b"one", b"two"]
