"""``tidegate gateway`` as a process: its end by signal, its words for what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any

import aiohttp
import pytest

from broker.model.replica import ReplicaPhase
from gateway.settings import SECRET_VARIABLE, TOKEN_VARIABLE
from tests.integration.gateway.site import Site
from tests.support.fake_broker import GATEWAY_TOKEN
from tests.support.fake_engine import SITE_SECRET
from tests.support.waiting import eventually, until_answered

pytestmark = pytest.mark.integration


async def start(*arguments: str, token: str = GATEWAY_TOKEN, errors: int = PIPE) -> asyncio.subprocess.Process:
    environment = os.environ | {TOKEN_VARIABLE: token, SECRET_VARIABLE: SITE_SECRET.decode()}
    command = [sys.executable, "-m", "cli", "gateway", *arguments]
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=DEVNULL, stderr=errors)


async def line_of(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """The next log line of this event."""
    assert process.stderr is not None
    while True:
        line: dict[str, Any] = json.loads(await process.stderr.readline())
        if line["event"] == event:
            return line


async def test_sigterm_lets_streams_finish_and_ends_the_session(site: Site) -> None:
    await site.broker.start()
    engine = await site.add_engine(0)
    process = await start("--broker", site.broker.url, "--port", "0", "--shutdown", "20s")
    try:
        port = (await line_of(process, "gateway_listens"))["port"]
        engine.may_finish.clear()
        async with aiohttp.ClientSession() as users:
            body = b'{"model":"chat","stream":true}'
            async with users.post(f"http://127.0.0.1:{port}/v1/completions", data=body) as response:
                await response.content.readany()
                process.send_signal(signal.SIGTERM)
                await line_of(process, "gateway_stops")
                engine.may_finish.set()
                assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    assert site.broker.reports[-1]["closed"]
    assert site.broker.records[engine.endpoint_id].phase is ReplicaPhase.READY
    await eventually(lambda: site.broker.summaries()[-1].finished == 1)


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        pytest.param(["--broker", "http://127.0.0.1:1"], "", "set TIDEGATE_GATEWAY_TOKEN", id="no token"),
        pytest.param(["--broker", "127.0.0.1"], "t", "not an http address", id="no address"),
        pytest.param(["--broker", "http://x", "--host", "0.0.0.0"], "t", "without a keys file", id="open to all"),
        pytest.param(["--broker", "http://x", "--keys", "/nowhere"], "t", "cannot read the keys file", id="no file"),
        pytest.param(["--broker", "http://x", "--hold", "long"], "t", "not a duration", id="no duration"),
        pytest.param(
            ["--broker", "http://x", "--request-log", "/nowhere/log"], "t", "cannot write the request log", id="no log"
        ),
    ],
)
async def test_what_cannot_work_is_told_without_a_traceback(arguments: list[str], token: str, words: str) -> None:
    process = await start(*arguments, token=token)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert words in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_a_gateway_whose_log_lines_cannot_be_written_follows_the_registry_again(site: Site) -> None:
    """Its reader gone, the line of a lost stream ended the part that follows the registry, and its telling too."""
    await site.broker.start()
    reading, writing = os.pipe()
    process = await start("--broker", site.broker.url, "--port", "0", errors=writing)
    os.close(writing)
    try:
        with os.fdopen(reading) as lines:
            line = json.loads(await asyncio.to_thread(lines.readline))
        site.broker.begin_anew()
        await site.add_engine(0)
        async with aiohttp.ClientSession() as users:
            address, key = f"http://127.0.0.1:{line['port']}", "tidegate_gateway_log_lines_lost_total"

            async def told() -> dict[str, Any]:
                body: dict[str, Any] = await (await users.get(f"{address}/healthz")).json()
                return body

            health = await until_answered(told, lambda body: body["endpoints"], "the endpoint is known")
            assert health["status"] == "ok"
            metrics = await (await users.get(f"{address}/metrics")).text()
            assert re.search(rf"^{key} [1-9]", metrics, re.MULTILINE)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
