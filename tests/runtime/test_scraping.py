"""Reading a metrics page from a socket: whole, however many pieces it comes in, and never without a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from broker.app.scraping import read_page
from broker.model.errors import WireError
from signals.ingest.vllm_metrics import MAX_PAGE_BYTES
from tests.support.serving import Served

LINE = b'vllm:num_requests_running{model_name="chat"} 3.0\n'


class PageServer(Served):
    """Sends ``pieces`` with pauses, so that each is read by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.status = 200

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        return application

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)
        return response


@pytest.fixture
async def server() -> AsyncIterator[PageServer]:
    served = PageServer()
    await served.start()
    yield served
    await served.stop()


async def fetched(server: PageServer) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as answer:
        return await read_page(answer)


async def test_a_page_that_comes_in_pieces_is_read_to_its_end(server: PageServer) -> None:
    server.pieces = [LINE * 1000] * 5
    assert await fetched(server) == LINE * 5000


async def test_a_page_longer_than_any_real_one_is_refused_unread(server: PageServer) -> None:
    server.pieces = [LINE * 10000] * (MAX_PAGE_BYTES // (len(LINE) * 10000) + 2)
    with pytest.raises(WireError, match="longer than"):
        await fetched(server)


async def test_an_error_page_is_no_metrics_page(server: PageServer) -> None:
    server.status = 500
    with pytest.raises(WireError, match="answers 500"):
        await fetched(server)
