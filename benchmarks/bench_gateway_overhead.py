"""What the gateway adds to the time to first token of 300 concurrent streams at 30 tokens/s.

Rounds with and without the gateway alternate in one run against the same engine, so that both meet the same machine.
Engine, gateway and load generator are processes of their own; engine and generator are raw asyncio protocols, spread
evenly over time, so that on two cores most of the work left is the gateway's.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from benchmarks.base import Measurement
from broker.model.replica import EndpointRecord, ReplicaPhase, Tier
from gateway.settings import SECRET_VARIABLE, TOKEN_VARIABLE
from tests.support.fake_broker import GATEWAY_TOKEN, FakeBroker
from tests.support.ports import free_port

STREAMS = 300
TOKENS = 60
TOKENS_PER_S = 30.0
ROUNDS = 4
ROUND_S = 6.0
SETTLE_S = 2.5
SLOTS = 32

_BODY = b'{"model":"chat","stream":true,"messages":[{"role":"user","content":"' + b"word " * 100 + b'"}]}'
_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"chat","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOKEN = _chunk(_EVENT)
_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Wheel:
    """Every stream's next token, in slots of about a millisecond: one timer serves all streams."""

    def __init__(self) -> None:
        self.slots: list[dict[_EngineConnection, int]] = [{} for _ in range(SLOTS)]
        self.now = 0

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            next_at += 1.0 / TOKENS_PER_S / SLOTS
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            self.now = (self.now + 1) % SLOTS
            slot = self.slots[self.now]
            for connection, left in list(slot.items()):
                if left == 0:
                    del slot[connection]
                    connection.write(_END)
                else:
                    slot[connection] = left - 1
                    connection.write(_TOKEN)


class _EngineConnection(asyncio.Protocol):
    def __init__(self, wheel: _Wheel) -> None:
        self._wheel = wheel
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.endswith(b"}"):
            self._buffer = b""
            self.write(_HEAD + _TOKEN)
            self._wheel.slots[self._wheel.now][self] = TOKENS - 1
        elif self._buffer.startswith(b"GET") and self._buffer.endswith(b"\r\n\r\n"):
            self._buffer = b""
            self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        for slot in self._wheel.slots:
            slot.pop(self, None)


async def _engine(port: int) -> None:
    wheel = _Wheel()
    await asyncio.get_running_loop().create_server(lambda: _EngineConnection(wheel), "127.0.0.1", port)
    await wheel.turn()


@dataclass
class _Seen:
    """What the load generator saw in the measured part of a round."""

    first_token_s: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0
    measuring: bool = False


class _User(asyncio.Protocol):
    """One connection that asks again as soon as its stream has ended."""

    def __init__(self, port: int, seen: _Seen) -> None:
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (port, len(_BODY), _BODY)
        )
        self._seen = seen
        self._asked_at = 0.0
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self._begun = False
        self._asked_at = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        seen = self._seen
        if seen.measuring:
            seen.tokens += data.count(b"\n\n")
            seen.failed += data.startswith(b"data:")  # a chunk without its frame
            if not self._begun:
                seen.first_token_s.append(time.perf_counter() - self._asked_at)
                seen.failed += not data.startswith(b"HTTP/1.1 200")
        self._begun = True
        if data.endswith(b"0\r\n\r\n"):
            self._ask()


async def _round(port: int, seen: _Seen, processes: list[psutil.Process]) -> list[float]:
    """One round of load; each process's share of a core while it was measured."""
    loop = asyncio.get_running_loop()
    users: list[_User] = []
    for _ in range(STREAMS):
        _, user = await loop.create_connection(lambda: _User(port, seen), "127.0.0.1", port)
        users.append(user)
        await asyncio.sleep(TOKENS / TOKENS_PER_S / STREAMS)
    await asyncio.sleep(SETTLE_S)
    began, before = time.perf_counter(), list(map(_cpu_s, processes))
    seen.measuring = True
    await asyncio.sleep(ROUND_S)
    seen.measuring = False
    after, took_s = list(map(_cpu_s, processes)), time.perf_counter() - began
    for user in users:
        user.transport.abort()
    await asyncio.sleep(0.2)
    return [(end - begin) / took_s for begin, end in zip(before, after, strict=True)]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _measure() -> tuple[_Seen, _Seen, list[list[float]]]:
    """What was seen without and with the gateway, and in each round with it the shares of gateway, engine and users."""
    engine_port, gateway_port = free_port(), free_port()
    broker = FakeBroker(lease_every_s=1.0)
    await broker.start()
    url = f"http://127.0.0.1:{engine_port}"
    broker.publish(EndpointRecord("chat-0-g1", "chat", url, ReplicaPhase.READY, 1, Tier.BASELINE, 0))
    environment = os.environ | {TOKEN_VARIABLE: GATEWAY_TOKEN, SECRET_VARIABLE: "benchmark"}
    engine = [sys.executable, "-m", "benchmarks.bench_gateway_overhead", str(engine_port)]
    gateway = [sys.executable, "-m", "cli", "gateway", "--port", str(gateway_port), "--broker", broker.url]
    direct, through = _Seen(), _Seen()
    shares: list[list[float]] = []
    try:
        with (
            _process(engine, environment) as engine_process,
            _process([*gateway, "--shutdown", "1s"], environment) as gateway_process,
        ):
            processes = [psutil.Process(each) for each in (gateway_process.pid, engine_process.pid, os.getpid())]
            await _answers(engine_port)
            await _answers(gateway_port)
            await asyncio.sleep(0.5)
            for _ in range(ROUNDS):
                await _round(engine_port, direct, processes)
                shares.append(await _round(gateway_port, through, processes))
    finally:
        await broker.stop()
    return direct, through, shares


async def _answers(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run() -> list[Measurement]:
    direct, through, shares = asyncio.run(_measure())
    quantiles = {
        name: [cut * 1000 for cut in statistics.quantiles(seen.first_token_s, n=100)]
        for name, seen in (("direct", direct), ("through", through))
    }
    details = {
        "streams": STREAMS,
        "direct_p50_ms": round(quantiles["direct"][49], 3),
        "through_p50_ms": round(quantiles["through"][49], 3),
        "requests_measured": len(direct.first_token_s) + len(through.first_token_s),
        "failed": direct.failed + through.failed,
    }
    tokens_per_s = through.tokens / ROUNDS / ROUND_S
    cores = [statistics.fmean(share) for share in zip(*shares, strict=True)]
    cpu_us = [round(share / tokens_per_s * 1e6, 1) for share in cores]
    processor = {
        "tokens_per_s": round(tokens_per_s),
        "cpu_us_per_token": dict(zip(("gateway", "engine", "users"), cpu_us, strict=True)),
    }
    return [
        Measurement("gateway_overhead", _added(quantiles, 50), "ms added TTFT p50", 3.0, details=details),
        Measurement("gateway_overhead_p99", _added(quantiles, 99), "ms added TTFT p99", 15.0),
        Measurement("gateway_cpu", round(cores[0], 3), "cores", 1.0, details=processor),
    ]


def _added(quantiles: dict[str, list[float]], percent: int) -> float:
    return round(quantiles["through"][percent - 1] - quantiles["direct"][percent - 1], 3)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_engine(int(sys.argv[1])))
