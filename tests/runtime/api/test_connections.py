"""Connections to the broker's API that bring no request."""

from __future__ import annotations

import asyncio

from broker.app.serving import serving

ANSWER_WITHIN_S = 10.0


async def _app(scope: object, receive: object, send: object) -> None:
    """Answers by two lines, the second long after the first."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"a", "more_body": True})  # type: ignore[operator]
    await asyncio.sleep(0.5)
    await send({"type": "http.response.body", "body": b"b"})  # type: ignore[operator]


async def test_one_that_sends_no_whole_head_in_time_is_ended_and_one_that_is_being_answered_is_not() -> None:
    """Two hundred half-sent heads made the API of a broker that may open 128 files unreachable."""
    async with serving(_app, "127.0.0.1", 0, head_within_s=0.1) as address:
        host, port = address.removeprefix("http://").split(":")
        silent, half, asking = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        half[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        asking[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(ANSWER_WITHIN_S):
            assert [await silent[0].read(), await half[0].read()] == [b"", b""]
            assert (await asking[0].readuntil(b"ab")).startswith(b"HTTP/1.1 200")
            assert await asking[0].read() == b""
        for _, writer in (silent, half, asking):
            writer.close()
            await writer.wait_closed()
