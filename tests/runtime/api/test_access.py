"""Who is let in, and how a refusal looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.app.access import Scope, Tokens
from broker.app.guard import DISCARD_BYTES
from tests.support.api_world import TOKENS, api_world

pytestmark = pytest.mark.looptime

PLACES = [
    ("GET", "/v1/endpoints", {Scope.READ, Scope.OPERATE, Scope.GATEWAY}),
    ("GET", "/v1/prometheus/targets", {Scope.READ, Scope.OPERATE, Scope.GATEWAY}),
    ("PUT", "/v1/gateways/gw", {Scope.GATEWAY}),
    ("GET", "/v1/models", {Scope.READ, Scope.OPERATE}),
    ("GET", "/v1/replicas", {Scope.READ, Scope.OPERATE}),
    ("GET", "/v1/decisions", {Scope.READ, Scope.OPERATE}),
    ("GET", "/v1/explain/chat", {Scope.READ, Scope.OPERATE}),
    ("GET", "/v1/signals/chat", {Scope.READ, Scope.OPERATE}),
    ("GET", "/metrics", {Scope.READ, Scope.OPERATE}),
    ("POST", "/v1/overrides", {Scope.OPERATE}),
    ("DELETE", "/v1/overrides/chat", {Scope.OPERATE}),
    ("POST", "/v1/pauses", {Scope.OPERATE}),
]


@pytest.mark.parametrize("scope", list(Scope))
async def test_each_scope_opens_its_own_doors_and_no_other(scope: Scope) -> None:
    async with api_world() as world, world.client(scope) as client:
        await asyncio.sleep(1)
        for method, path, open_to in PLACES:
            answer = await client.request(method, path)
            if scope in open_to:
                assert answer.status_code not in (401, 403), path
            else:
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic read-token", "read-token", "Bearer read-token2",
        "Bearer \xff",
    ],
)  # fmt: skip
async def test_nobody_enters_without_a_token_of_the_brokers(header: str | None) -> None:
    async with api_world() as world, world.client(None) as client:
        headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
        for method, path, _ in PLACES:
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), path
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["", " ", "read-token", "operate-token"])
async def test_a_scope_without_a_token_is_closed_to_everybody(token: str) -> None:
    async with api_world(tokens={Scope.OPERATE: "", Scope.GATEWAY: "gateway-token"}) as world:
        async with world.client(None) as client:
            answer = await client.get("/v1/models", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401


async def test_the_scheme_is_read_in_any_case_and_the_token_is_not() -> None:
    async with api_world() as world, world.client(None) as client:
        assert (await client.get("/v1/models", headers={"Authorization": "bearer read-token"})).status_code == 200
        assert (await client.get("/v1/models", headers={"Authorization": "Bearer READ-TOKEN"})).status_code == 401


async def test_health_and_the_document_need_no_token() -> None:
    async with api_world() as world, world.client(None) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.1")


async def test_a_strangers_body_is_not_parsed_and_only_a_part_of_it_read() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 65536
            yield b"{" * 65536

    async with api_world() as world, world.client(None) as client:
        answer = await client.put("/v1/gateways/gw", content=endless())
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert read <= DISCARD_BYTES + 2 * 65536
        wrong = await client.post("/v1/overrides", content=b"{", headers={"Content-Type": "application/json"})
        assert wrong.status_code == 401


async def test_a_stranger_that_sends_nothing_more_is_not_waited_for_long() -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3600)

    async with api_world() as world, world.client(None) as client:
        began = asyncio.get_running_loop().time()
        assert (await client.put("/v1/gateways/gw", content=stuck())).status_code == 401
        assert asyncio.get_running_loop().time() - began < 6


def test_tokens_are_not_shown() -> None:
    assert "token" not in repr(Tokens(TOKENS)).replace("Tokens", "")


WRONG_REQUESTS: list[tuple[str, str, str, Any, int, str]] = [
    ("an unknown path", "GET", "/v1/nothing", None, 404, "not_found"),
    ("the root", "GET", "/", None, 404, "not_found"),
    ("an unknown method", "PATCH", "/v1/overrides", None, 405, "method_not_allowed"),
    ("an unknown model to explain", "GET", "/v1/explain/nope", None, 404, "no_such_model"),
    ("an unknown model's signals", "GET", "/v1/signals/nope", None, 404, "no_such_model"),
    ("an unknown model's replicas", "GET", "/v1/replicas?model=nope", None, 404, "no_such_model"),
    ("an unknown model's override", "DELETE", "/v1/overrides/nope", None, 404, "no_such_model"),
    ("no body", "POST", "/v1/overrides", None, 422, "invalid"),
    ("a body that is a list", "POST", "/v1/overrides", [], 422, "invalid"),
    ("no decisions", "GET", "/v1/decisions?limit=0", None, 422, "invalid"),
    ("too many decisions", "GET", "/v1/decisions?limit=10001", None, 422, "invalid"),
    ("decisions since no time", "GET", "/v1/decisions?since=nan", None, 422, "invalid"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"), [w[1:] for w in WRONG_REQUESTS], ids=[w[0] for w in WRONG_REQUESTS]
)
async def test_a_wrong_request_is_told_so_in_the_one_form(
    method: str, path: str, body: object, status: int, code: str
) -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        answer = await world.send(method, path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"code", "message"}
        assert answer.json()["error"]["message"]


async def test_405_names_what_is_allowed() -> None:
    async with api_world() as world:
        assert "POST" in (await world.send("GET", "/v1/pauses", None)).headers["allow"]


async def test_json_that_ends_too_early_is_told_where() -> None:
    async with api_world() as world, world.client() as client:
        answer = await client.post(
            "/v1/overrides", content=b'{"model_id": ', headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith("body.13: ")


async def test_a_mistake_of_ours_is_an_answer_in_the_one_form_too() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        world.log.mistake = True
        answer = await world.get("/v1/decisions")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
