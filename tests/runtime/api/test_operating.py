"""What operators order is durable when the call returns, and reaches the decisions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.app.access import Scope
from broker.model.observation import Observation, Override
from broker.model.replica import ReplicaPhase
from tests.support.api_world import BASE, ApiWorld, api_world, declared

pytestmark = pytest.mark.looptime

WHY: dict[str, Any] = {"because": "a launch event", "author": "ada"}


def override(target: int | None, for_s: float = 600.0, model: str = "chat") -> dict[str, Any]:
    return {"model_id": model, "target": target, "for_s": for_s} | WHY


async def recorded(world: ApiWorld) -> list[Observation]:
    return [seen async for step in world.log.steps() for seen in step.observations]


async def test_an_override_is_in_the_log_when_the_call_returns_and_its_answer_tells_the_target() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        answer = await world.send("POST", "/v1/overrides", override(3))
        told = answer.json()
        assert (told["model_id"], told["target"]) == ("chat", 3)
        assert told["until"] == pytest.approx(world.runtime.clock.now() + 600, abs=0.1)
        assert any(isinstance(seen, Override) and seen.target == 3 for seen in await recorded(world))
        assert world.runtime.core.loop.state.models["chat"].target == 3
        await world.until(lambda: len(world.replicas()) == 3)
        decision = (await world.get("/v1/decisions", model="chat")).json()["decisions"][0]
        assert (decision["code"], decision["target"]) == ("override_target", 3)
        assert "ada: a launch event" in decision["words"]


async def test_the_answer_tells_what_the_bounds_made_of_it() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        assert (await world.send("POST", "/v1/overrides", override(100))).json()["target"] == 4
        assert (await world.send("POST", "/v1/overrides", override(0))).json()["target"] == 1


async def test_a_hold_keeps_the_present_target_and_ends_by_itself() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        answer = await world.send("POST", "/v1/overrides", override(None, 30))
        assert answer.json()["target"] == 1
        model = (await world.get("/v1/models")).json()["models"][0]
        assert (model["override"]["target"], model["override"]["author"]) == (None, "ada")
        assert model["last_code"].endswith("override_hold")
        await asyncio.sleep(31)
        assert (await world.get("/v1/models")).json()["models"][0]["override"] is None


async def test_an_override_can_be_taken_back_and_twice_is_no_error() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        await world.send("POST", "/v1/overrides", override(3))
        for _ in range(2):
            answer = await world.send("DELETE", "/v1/overrides/chat?author=bo", None)
            assert (answer.status_code, answer.json()["until"]) == (200, None)
        assert world.runtime.core.loop.state.models["chat"].override is None


async def test_a_pause_freezes_starts_until_it_is_taken_back() -> None:
    async with api_world() as world:
        await world.serve(1)
        pause = {"scope": "model", "name": "chat", "paused": True} | WHY
        answer = await world.send("POST", "/v1/pauses", pause)
        assert answer.json() == {"scope": "model", "name": "chat", "paused": True}
        await world.send("POST", "/v1/overrides", override(3))
        await asyncio.sleep(5)
        assert len(world.replicas()) == 1
        await world.send("POST", "/v1/pauses", pause | {"paused": False})
        await world.until(lambda: len(world.replicas()) == 3)


@pytest.mark.parametrize(("scope", "name"), [("all", ""), ("pool", "local"), ("model", "chat")])
async def test_each_scope_of_a_pause_is_kept_with_author_and_reason(scope: str, name: str) -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        await world.send("POST", "/v1/pauses", {"scope": scope, "name": name, "paused": True} | WHY)
        (kept,) = world.runtime.core.loop.state.control.pauses
        assert (kept.scope, kept.name, kept.author, kept.because) == (scope, name, "ada", "a launch event")


REFUSED: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("an unknown model", "/v1/overrides", override(1, model="nope"), 404, "no_such_model"),
    ("a negative target", "/v1/overrides", override(-1), 422, "invalid"),
    ("no time", "/v1/overrides", override(1, 0), 422, "invalid"),
    ("more than a year", "/v1/overrides", override(1, 400 * 86400), 422, "invalid"),
    ("no reason", "/v1/overrides", override(1) | {"because": "  "}, 422, "invalid"),
    ("no author", "/v1/overrides", override(1) | {"author": ""}, 422, "invalid"),
    ("an unknown field", "/v1/overrides", override(1) | {"targt": 1}, 422, "invalid"),
    ("an unknown scope", "/v1/pauses", {"scope": "rack", "paused": True} | WHY, 422, "invalid"),
    ("all with a name", "/v1/pauses", {"scope": "all", "name": "chat", "paused": True} | WHY, 422, "invalid"),
    ("an unknown pool", "/v1/pauses", {"scope": "pool", "name": "x", "paused": True} | WHY, 404, "no_such_pool"),
    ("a model without name", "/v1/pauses", {"scope": "model", "paused": True} | WHY, 404, "no_such_model"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"), [r[1:] for r in REFUSED], ids=[f"{r[1]} {r[0]}" for r in REFUSED]
)
async def test_an_order_that_cannot_be_meant_is_refused(path: str, body: Any, status: int, code: str) -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        answer = await world.send("POST", path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert world.runtime.core.loop.state.models["chat"].override is None


async def test_a_body_that_is_not_sent_as_json_is_told_what_it_should_have_said() -> None:
    """What curl sends unless told otherwise."""
    async with api_world() as world:
        await asyncio.sleep(1)
        async with world.client(Scope.OPERATE) as client:
            answer = await client.post("/v1/overrides", data={"model_id": "chat"})
        assert answer.status_code == 422
        assert "send it as application/json" in answer.json()["error"]["message"]


async def test_a_name_of_any_length_makes_a_short_answer() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        answer = await world.get("/v1/explain/" + "x" * 50_000)
        assert (answer.status_code, len(answer.text) < 300) == (404, True)


async def test_a_retired_model_takes_no_override() -> None:
    async with api_world("chat", "embed") as world:
        await world.serve(1, "embed")
        world.runtime.offer(declared("chat"))
        await asyncio.sleep(0.2)
        answer = await world.send("POST", "/v1/overrides", override(2, model="embed"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "retired")
        assert any(r.phase is not ReplicaPhase.READY for r in world.replicas("embed"))


class TestWhileTheLogFails:
    async def test_an_order_is_refused_at_once_and_changes_nothing(self) -> None:
        async with api_world() as world:
            await asyncio.sleep(1)
            world.log.problem = "disk full"
            await world.until(lambda: world.runtime.log_problem is not None)
            answer = await world.send("POST", "/v1/overrides", override(3))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "log")
            assert answer.json()["error"]["message"].startswith("nothing was changed")
            world.log.problem = ""
            await world.until(lambda: world.runtime.log_problem is None)
            await asyncio.sleep(1)
            assert world.runtime.core.loop.state.models["chat"].override is None

    async def test_an_order_whose_own_step_fails_says_that_it_is_pending(self) -> None:
        async with api_world() as world:
            await asyncio.sleep(1.01)
            world.log.problem = "disk full"
            answer = await world.send("POST", "/v1/overrides", override(3))
            assert answer.status_code == 503
            assert "disk full" in answer.json()["error"]["message"]
            assert "takes effect once the log can be written again" in answer.json()["error"]["message"]
            world.log.problem = ""
            await world.until(lambda: world.runtime.core.loop.state.models["chat"].target == 3)

    async def test_an_order_waits_for_a_disk_that_hangs_no_longer_than_five_seconds(self) -> None:
        async with api_world() as world:
            await asyncio.sleep(1.01)
            world.log.gate.clear()
            began = asyncio.get_running_loop().time()
            answer = await world.send("POST", "/v1/overrides", override(3))
            assert answer.status_code == 503
            assert asyncio.get_running_loop().time() - began == pytest.approx(5, abs=0.1)
            world.log.gate.set()
            await world.until(lambda: world.runtime.core.loop.state.models["chat"].target == 3)

    async def test_health_and_everything_that_is_known_still_answer(self) -> None:
        async with api_world() as world:
            await world.serve(1)
            world.log.problem = "disk full"
            await world.until(lambda: world.runtime.log_problem is not None)
            answer = await world.get("/healthz", scope=None)
            assert answer.status_code == 503
            assert (answer.json()["status"], answer.json()["problem"]) == ("degraded", "disk full")
            for path in ("/v1/endpoints", "/v1/models", "/v1/replicas", "/v1/prometheus/targets", "/metrics"):
                assert (await world.get(path)).status_code == 200, path
            world.log.problem = ""
            await world.until(lambda: world.runtime.log_problem is None)
            assert (await world.get("/healthz", scope=None)).json()["status"] == "ok"

    async def test_health_sees_a_disk_that_hangs_without_an_error(self) -> None:
        async with api_world() as world:
            await asyncio.sleep(1)
            world.log.gate.clear()
            await asyncio.sleep(8)
            answer = await world.get("/healthz", scope=None)
            assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
            assert "due for" in answer.json()["problem"]
            world.log.gate.set()
            await asyncio.sleep(2)
            assert (await world.get("/healthz", scope=None)).status_code == 200


async def test_many_orders_at_once_are_each_answered() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        answers = await asyncio.gather(*(world.send("POST", "/v1/overrides", override(n % 4 + 1)) for n in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        kept = [seen for seen in await recorded(world) if isinstance(seen, Override)]
        assert len(kept) == 30
        assert world.runtime._unrecorded == []


async def test_health_tells_who_leads() -> None:
    async with api_world() as world:
        await asyncio.sleep(2)
        body = (await world.get("/healthz", scope=None)).json()
        age_s = body.pop("last_step_age_s")
        assert body == {"status": "ok", "leader": True, "epoch": 1, "problem": None, "version": "9.9"}
        assert 0 <= age_s <= 1.1
        assert world.runtime.clock.now() == BASE + 2
