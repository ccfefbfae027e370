"""What users may send that is no request, or too slow to be one: an error in OpenAI's form, one line in the log."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tests.integration.gateway.site import QUICK, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

HURRIED = replace(QUICK, head_s=0.2, body_s=0.2)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"


async def sent(site: Site, *parts: bytes, pause_s: float = 0.0) -> tuple[int, dict[str, str]]:
    """Status and error of what the gateway answers to raw bytes, and that it closes the connection then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    error: dict[str, str] = json.loads(body)["error"]
    return int(head.split()[1]), error


async def test_a_header_that_does_not_end_is_refused_in_time(site: Site) -> None:
    await site.start(limits=HURRIED)
    status, error = await sent(site, HEAD, b"X-Slow: 1", pause_s=0.05)
    assert (status, error["type"], error["code"]) == (408, "invalid_request_error", "request_timeout")


async def test_a_second_header_that_does_not_end_is_refused_in_time(site: Site) -> None:
    await site.start(limits=HURRIED)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
    assert b"200" in await reader.readline()
    writer.write(HEAD)
    async with asyncio.timeout(10):
        assert b"HTTP/1.1 408" in await reader.read()
    writer.close()


async def test_a_body_that_does_not_end_is_refused_in_time(site: Site) -> None:
    await site.start(limits=HURRIED)
    status, error = await sent(site, HEAD + b"Content-Length: 100\r\n\r\n", b"{", b"}", pause_s=0.05)
    assert (status, error["code"]) == (408, "request_timeout")


async def test_the_time_for_a_header_does_not_run_while_an_answer_is_waited_for(site: Site) -> None:
    await site.start(limits=HURRIED)
    site.engines[0].may_finish.clear()
    asked = asyncio.create_task(site.ask())
    await eventually(lambda: site.engines[0].received)
    await asyncio.sleep(2 * HURRIED.head_s)
    site.engines[0].may_finish.set()
    assert (await asked).events[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \r\n\r\n", 400, "malformed_request", id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 400, "malformed_request", id="another protocol"),
        pytest.param(b"GET /v1/models HTTP/9.9\r\n\r\n", 400, "malformed_request", id="unknown version"),
        pytest.param(HEAD + b"no colon\r\n\r\n", 400, "malformed_request", id="header without colon"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\n", 400, "malformed_request", id="negative length"),
        pytest.param(HEAD + b"X: " + b"y" * 20_000 + b"\r\n\r\n", 431, "header_too_large", id="huge header"),
        pytest.param(HEAD + b"X: y\r\n" * 500 + b"\r\n", 400, "malformed_request", id="hundreds of headers"),
        pytest.param(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "header_too_large", id="huge path"),
    ],
)
async def test_what_is_no_http_is_answered_and_logged_in_one_line(
    site: Site, request_bytes: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    await site.start()
    with capture_logs() as lines:
        answered, error = await sent(site, request_bytes)
    assert (answered, error["code"]) == (status, code)
    assert [line["event"] for line in lines].count("request_malformed") == 1
    assert not caplog.records


async def test_a_malformed_request_puts_no_key_into_log_or_answer(site: Site) -> None:
    await site.start()
    with capture_logs() as lines:
        _, error = await sent(site, HEAD + b"Authorization: Bearer hush\x00hush\r\n\r\n")
    assert "hush" not in str(lines) + str(error)


async def test_a_chunked_body_of_garbage_is_a_bad_request(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    await site.start()
    status, error = await sent(site, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert not caplog.records


async def test_a_body_that_is_not_encoded_as_it_says_is_a_bad_request(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await site.start()
    status, error = await sent(site, HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd")
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert not caplog.records


async def test_hundreds_of_users_who_leave_at_once_leave_nothing_behind(site: Site) -> None:
    await site.start()
    site.engines[0].may_finish.clear()
    body = json.dumps({"model": "chat", "stream": True}).encode()
    users = []
    for _ in range(300):
        _, writer = await asyncio.open_connection("127.0.0.1", site.gateway.port)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        users.append(writer)
    await eventually(lambda: site.gateway.table.in_flight() == {"chat-0-g1": 300})
    for writer in users:
        writer.transport.abort()
    await eventually(lambda: not site.gateway.table.in_flight())
    await eventually(lambda: all(each.disconnected.is_set() for each in site.engines[0].received))
    site.engines[0].may_finish.set()
    assert (await site.ask()).events[-1] == "[DONE]"
