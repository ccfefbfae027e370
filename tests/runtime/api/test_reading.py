"""What the API tells of the committed state, for people, Prometheus and gateways."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from broker.app.__main__ import main, openapi_text
from broker.model import wire
from broker.model.api import EndpointsSnapshot
from broker.model.plan import Decision
from tests.runtime.api.test_operating import override
from tests.support.api_world import BASE, ApiWorld, api_world

pytestmark = pytest.mark.looptime

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


async def test_the_endpoints_are_those_that_gateways_decode() -> None:
    async with api_world() as world:
        await world.serve(1)
        found: EndpointsSnapshot = wire.decode(EndpointsSnapshot, (await world.get("/v1/endpoints")).json())
        assert (found.revision, found.cluster, found.at) == (1, "demo", world.runtime.clock.now())
        assert [(e.endpoint_id, e.model_id, e.phase) for e in found.endpoints] == [("chat-0-g1", "chat", "ready")]


async def test_prometheus_gets_a_target_for_each_endpoint() -> None:
    async with api_world() as world:
        await world.serve(1)
        (group,) = (await world.get("/v1/prometheus/targets")).json()
        assert group["targets"] == ["chat-0-g1.invalid:8000"]
        assert group["labels"] == {
            "__scheme__": "http", "model": "chat", "replica": "chat-0-g1", "tier": "baseline", "phase": "ready",
        }  # fmt: skip


async def test_models_and_replicas_tell_the_state() -> None:
    async with api_world("chat", "embed") as world:
        await world.serve(1, "embed")
        models = {model["model_id"]: model for model in (await world.get("/v1/models")).json()["models"]}
        assert (models["embed"]["target"], models["embed"]["phases"]) == (1, {"ready": 1})
        everything = (await world.get("/v1/replicas")).json()["replicas"]
        assert {replica["model_id"] for replica in everything} == {"chat", "embed"}
        (only,) = (await world.get("/v1/replicas", model="embed")).json()["replicas"]
        assert (only["replica_id"], only["phase"]) == ("embed-0-g1", "ready")


async def test_replicas_come_with_the_pools_and_why_one_is_unknown() -> None:
    async with api_world() as world:
        await world.serve(1)
        (pool,) = (await world.get("/v1/replicas")).json()["pools"]
        assert (pool["pool_id"], pool["unknown_since"], pool["error"]) == ("local", None, "")
        world.pool.fail_next_observe("no slurmctld answers")
        await world.until(lambda: world.runtime.core.loop.state.pools["local"].unknown_since is not None)
        (pool,) = (await world.get("/v1/replicas", model="chat")).json()["pools"]
        assert (pool["unknown_since"], pool["error"]) == (pytest.approx(BASE, abs=60), "no slurmctld answers")


async def test_decisions_come_newest_first_by_model_limit_and_time() -> None:
    async with api_world("chat", "embed") as world:
        for target in (2, 3, 4):
            await asyncio.sleep(2)
            await world.send("POST", "/v1/overrides", override(target))

        async def found(**parameters: Any) -> list[Decision]:
            body = (await world.get("/v1/decisions", **parameters)).json()
            return [wire.decode(Decision, row) for row in body["decisions"]]

        everything = await found(limit=10_000)
        times = [decision.now for decision in everything]
        assert times == sorted(times, reverse=True)
        assert [decision.target for decision in (await found(model="chat", limit=3))] == [4, 3, 2]
        assert {decision.model_id for decision in await found(model="embed")} == {"embed"}
        assert [decision.target for decision in await found(model="chat", since=BASE + 5)] == [4]
        assert await found(model="chat", since=BASE + 1e6) == []
        assert (await world.get("/v1/decisions", model="nope")).status_code == 404


async def test_signals_are_null_before_the_first_snapshot() -> None:
    async with api_world() as world:
        await asyncio.sleep(0.1)
        assert (await world.get("/v1/signals/chat")).json() == {"snapshot": None}
        await asyncio.sleep(2)
        assert (await world.get("/v1/signals/chat")).json()["snapshot"]["model_id"] == "chat"


async def test_explain_tells_the_last_decision() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        await world.send("POST", "/v1/overrides", override(3))
        body = (await world.get("/v1/explain/chat")).json()
        newest = (await world.get("/v1/decisions", model="chat", limit=1)).json()["decisions"][0]
        assert body["decision"] == newest
        assert "chat went from 1 to 3 replicas" in body["words"][0]
        assert any("ada: a launch event" in words for words in body["words"])


async def test_explain_says_so_when_nothing_was_decided() -> None:
    async with api_world() as world:
        await asyncio.sleep(0.5)
        world.log.forgetful = True
        answer = await world.get("/v1/explain/chat")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_decision")


async def families(world: ApiWorld) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    answer = await world.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        family.name: {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(answer.text)
    }


async def test_prometheus_can_read_the_metrics() -> None:
    async with api_world() as world:
        await world.serve(1)
        found = await families(world)
        assert found["tidegate_model_target"] == {(("model", "chat"),): 1.0}
        assert found["tidegate_replicas"] == {(("model", "chat"), ("phase", "ready")): 1.0}
        assert found["tidegate_pool_known"] == {(("pool", "local"),): 1.0}
        assert found["tidegate_registry_revision"] == {(): 1.0}
        assert found["tidegate_healthy"] == {(): 1.0}
        assert 0 <= found["tidegate_last_step_age_seconds"][()] < 2


async def test_a_large_revision_keeps_all_its_digits() -> None:
    from tests.runtime.api.test_feed import commit
    from tests.support.builders import endpoint

    async with api_world() as world:
        await asyncio.sleep(1)
        commit(world, endpoint(revision=12_345_678))
        assert (await families(world))["tidegate_registry_revision"] == {(): 12_345_678.0}


async def test_a_gateway_counts_while_its_session_lives() -> None:
    from tests.runtime.api.test_gateways import put, session

    async with api_world() as world:
        await put(world, session(1))
        assert (await families(world))["tidegate_gateways"] == {(): 1.0}
        await asyncio.sleep(10)
        assert (await families(world))["tidegate_gateways"] == {(): 0.0}


def test_the_committed_document_is_current() -> None:
    assert DOCUMENT.read_text() == openapi_text(), "run: python -m broker.app docs/openapi.json"


def test_the_document_is_written_to_where_it_is_told(tmp_path: Path) -> None:
    assert main([str(tmp_path / "openapi.json")]) == 0
    assert (tmp_path / "openapi.json").read_text() == openapi_text()
    assert main([]) == 2


async def test_every_answer_is_as_the_document_says() -> None:
    document = json.loads(openapi_text())
    checked = 0
    async with api_world() as world:
        await world.serve(1)
        await world.send("POST", "/v1/overrides", override(2))
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if "{gateway_id}" in path or "{action_id}" in path or method == "post" or "stream" in path:
                    continue
                answer = await world.send(method.upper(), path.replace("{model_id}", "chat"), None)
                assert answer.status_code == 200, path
                content = operation["responses"]["200"]["content"]
                assert answer.headers["content-type"].split(";")[0] in content
                if "application/json" in content:
                    schema = content["application/json"]["schema"] | {"components": document["components"]}
                    Draft202012Validator(schema).validate(answer.json())
                    checked += 1
    assert checked >= 9


def test_the_document_tells_of_every_path_its_scope_and_its_errors() -> None:
    document = json.loads(openapi_text())
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path == "/healthz":
                assert "security" not in operation
            else:
                assert operation["security"] == [{"token": []}]
                assert {"401", "403"} <= operation["responses"].keys()
                assert "Scope" in operation["description"], path


def test_every_path_stands_in_the_prose() -> None:
    prose = (DOCUMENT.parent / "http-api.md").read_text()
    for path, operations in json.loads(openapi_text())["paths"].items():
        name = path.replace("{gateway_id}", "{id}").replace("{model_id}", "{model}")
        for method in operations:
            assert f"`{method.upper()} {name}" in prose, f"{method} {path}"
