"""What the node agent's front costs for each token of 100 concurrent streams at 30 tokens/s, in processor time.

The front is a process of its own, so that its time is its own; engine and users are here.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

import psutil

from actuators.slurm.agent import Address, Front, Upstream, bound
from benchmarks.base import Measurement

STREAMS = 100
TOKENS = 90
TOKENS_PER_S = 30.0
ROUNDS = 2
KEY = "key"

_EVENT = b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","choices":[{"index":0,"text":" token"}]}\n\n'
_TOKEN = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
_BODY = b'{"stream": true}'
_REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (
    KEY.encode(), len(_BODY), _BODY,
)  # fmt: skip


async def _engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(_BODY)
    loop = asyncio.get_running_loop()
    writer.write(_HEAD)
    next_at = loop.time()
    for _ in range(TOKENS):
        writer.write(_TOKEN)
        next_at += 1 / TOKENS_PER_S
        await asyncio.sleep(max(0.0, next_at - loop.time()))
    writer.write(_END)
    writer.close()


async def _user(port: int, starts_in_s: float) -> None:
    await asyncio.sleep(starts_in_s)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(_REQUEST)
    await reader.readuntil(b"\r\n" + _END)
    writer.close()


async def _measure() -> float:
    """Processor seconds of the front for each token."""
    server = await asyncio.start_server(_engine, "127.0.0.1", 0, limit=2**20)
    engine_port = server.sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.bench_agent_front", str(engine_port)]
    front = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert front.stdout is not None
    try:
        port = int(await front.stdout.readline())
        process = psutil.Process(front.pid)
        before = process.cpu_times()
        for _ in range(ROUNDS):
            await asyncio.gather(*(_user(port, index / STREAMS) for index in range(STREAMS)))
        after = process.cpu_times()
        used_s = after.user - before.user + after.system - before.system
        return used_s / (ROUNDS * STREAMS * TOKENS)
    finally:
        front.kill()
        await front.wait()
        server.close()


def run() -> list[Measurement]:
    per_token_us = 1e6 * asyncio.run(_measure())
    return [Measurement("agent_front", round(per_token_us, 1), "us for each token", 100.0)]


async def _serve(engine_port: int) -> None:
    listener = bound("127.0.0.1", [0])
    front = Front(listener)
    front.endpoint_key, front.metrics_key = KEY, "metrics"
    front.upstream = Upstream(Address(host="127.0.0.1", port=engine_port), "inner")
    await front.open()
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
