"""CPU that one emulator uses for 300 concurrent streams of 30 tokens/s each; the reader is another process."""

from __future__ import annotations

import asyncio
import json
import time

import psutil

from benchmarks.base import Measurement
from tests.support.emulator_process import emulator

STREAMS = 300
WARM_UP_S = 2.0
WINDOW_S = 10.0


class StreamReader(asyncio.Protocol):
    """Asks for one stream and counts its tokens; raw, so that the reader is cheap."""

    def __init__(self) -> None:
        self.tokens = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        body = json.dumps({"prompt": list(range(32)), "max_tokens": 1000, "ignore_eos": True, "stream": True}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        transport.write(head.encode() + b"\r\n\r\n" + body)

    def data_received(self, data: bytes) -> None:
        self.tokens += data.count(b"data: {")


async def measure(host: str, port: int, pid: int) -> tuple[float, float]:
    """CPU seconds of the process per second, and tokens per second, over the window."""
    loop = asyncio.get_running_loop()
    connections = [await loop.create_connection(StreamReader, host, port) for _ in range(STREAMS)]
    process = psutil.Process(pid)
    await asyncio.sleep(WARM_UP_S)
    before, began, tokens_before = process.cpu_times(), time.perf_counter(), sum(r.tokens for _, r in connections)
    await asyncio.sleep(WINDOW_S)
    after, wall_s = process.cpu_times(), time.perf_counter() - began
    tokens = sum(reader.tokens for _, reader in connections) - tokens_before
    for transport, _ in connections:
        transport.abort()
    return (after.user + after.system - before.user - before.system) / wall_s, tokens / wall_s


def run() -> list[Measurement]:
    with emulator("--profile", "steady-30") as replica:
        cpu, tokens_per_s = asyncio.run(measure(replica.host, replica.port, replica.process.pid))
    details = {"streams": STREAMS, "tokens_per_s": round(tokens_per_s), "us_per_token": round(cpu / tokens_per_s * 1e6)}
    return [Measurement("emulator_streams", round(cpu, 3), "cores", 0.5, details=details)]
