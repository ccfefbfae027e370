"""Agents on nodes: who may register, what they are given and told, and what is remembered of them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from broker.app.agents import AgentTable
from broker.app.guard import Problem
from broker.clock import LoopClock
from broker.model import wire
from broker.model.agents import AgentEnd, AgentOrder, AgentPhase, AgentReport, EndCause
from broker.model.identity import action_id, endpoint_key, metrics_key, registration_token
from broker.model.replica import ReplicaPhase
from tests.runtime.api.test_gateways import put, session
from tests.runtime.api.test_operating import override
from tests.support.api_world import BASE, SITE_SECRET, TOKENS, ApiWorld, api_world

pytestmark = pytest.mark.looptime

LAUNCH = action_id("launch", "demo", "chat", 0, 1)
TOKEN = registration_token(SITE_SECRET, LAUNCH)


def report(sequence: int = 1, **changes: Any) -> AgentReport:
    told: dict[str, Any] = {
        "boot_id": "0123456789abcdef",
        "sequence": sequence,
        "observed_at": BASE,
        "cluster": "demo",
        "model_id": "chat",
        "ordinal": 0,
        "generation": 1,
        "phase": AgentPhase.LOADING,
        "node": "n1",
    }
    return AgentReport(**(told | changes))


async def send(world: ApiWorld, method: str, token: str, told: AgentReport | str, name: str = LAUNCH) -> httpx.Response:
    content = told if isinstance(told, str) else wire.dumps(told)
    async with world.client(None) as client:
        headers = {"Authorization": f"Bearer {token}"}
        return await client.request(method, f"/v1/agents/{name}", content=content, headers=headers)


async def registered(world: ApiWorld) -> str:
    """The key of a registered agent."""
    answer = await send(world, "POST", TOKEN, report())
    assert answer.status_code == 200, answer.text
    key: str = answer.json()["keys"]["agent_key"]
    return key


async def test_a_jobs_token_is_exchanged_for_the_keys_that_its_agent_needs() -> None:
    async with api_world() as world:
        answer = (await send(world, "POST", TOKEN, report())).json()
        assert (answer["order"], answer["heartbeat_s"]) == ("keep", 2.0)
        assert answer["keys"]["endpoint_key"] == endpoint_key(SITE_SECRET, "chat-0-g1", 1)
        assert answer["keys"]["metrics_key"] == metrics_key(SITE_SECRET, "chat-0-g1", 1)
        heard = world.agents.latest(LAUNCH)
        assert heard == report()
        beat = await send(world, "PUT", answer["keys"]["agent_key"], report(2, phase=AgentPhase.READY))
        assert (beat.status_code, beat.json()["keys"]) == (200, None)
        assert world.agents.latest(LAUNCH) == report(2, phase=AgentPhase.READY)


async def test_another_jobs_token_opens_nothing() -> None:
    async with api_world() as world:
        another = registration_token(SITE_SECRET, action_id("launch", "demo", "chat", 0, 2))
        for token in ("wrong", another, *TOKENS.values(), await registered(world)):
            answer = await send(world, "POST", token, report())
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        answer = await send(world, "PUT", TOKEN, report(2))
        assert answer.status_code == 401


async def test_an_agents_tokens_open_no_other_door() -> None:
    async with api_world() as world:
        for token in (TOKEN, await registered(world)):
            async with world.client(None) as client:
                for path in ("/v1/endpoints", "/v1/models", "/metrics"):
                    assert (await client.get(path, headers={"Authorization": f"Bearer {token}"})).status_code == 401


async def test_a_token_speaks_for_its_own_replica_alone() -> None:
    async with api_world() as world:
        answer = await send(world, "POST", TOKEN, report(generation=2))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_a_key_is_of_one_run_of_the_agent() -> None:
    async with api_world() as world:
        key = await registered(world)
        answer = await send(world, "PUT", key, report(2, boot_id="fedcba9876543210"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_a_key_expires_and_is_replaced_before() -> None:
    async with api_world() as world:
        key = await registered(world)
        await asyncio.sleep(500)
        renewed = (await send(world, "PUT", key, report(2))).json()["keys"]["agent_key"]
        await asyncio.sleep(500)
        assert (await send(world, "PUT", key, report(3))).status_code == 401
        assert (await send(world, "PUT", renewed, report(3))).status_code == 200


async def test_a_new_broker_takes_heartbeats_of_agents_that_it_never_saw() -> None:
    async with api_world() as world:
        key = await registered(world)
    async with api_world() as world:
        assert world.agents.latest(LAUNCH) is None
        assert (await send(world, "PUT", key, report(9))).status_code == 200
        assert world.agents.latest(LAUNCH) == report(9)


async def test_a_second_run_is_refused_while_the_first_is_heard() -> None:
    second = report(boot_id="fedcba9876543210", node="n2")
    async with api_world() as world:
        await registered(world)
        answer = await send(world, "POST", TOKEN, second)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "another_agent")
        assert "n1" in answer.json()["error"]["message"]
        await asyncio.sleep(16)
        assert (await send(world, "POST", TOKEN, second)).status_code == 200
        assert world.agents.latest(LAUNCH) == second


async def test_a_silent_agent_says_nothing_but_its_end_is_kept() -> None:
    end = AgentEnd(EndCause.CRASHED, "it exited with code 0 though nobody had asked it to", 0)
    async with api_world() as world:
        key = await registered(world)
        await asyncio.sleep(16)
        assert world.agents.latest(LAUNCH) is None
        await send(world, "PUT", key, report(2, phase=AgentPhase.ENDED, end=end))
        await asyncio.sleep(600)
        heard = world.agents.latest(LAUNCH)
        assert heard is not None
        assert heard.end == end


async def test_an_older_report_changes_nothing() -> None:
    async with api_world() as world:
        key = await registered(world)
        await send(world, "PUT", key, report(5, phase=AgentPhase.READY))
        assert (await send(world, "PUT", key, report(4))).status_code == 200
        assert world.agents.latest(LAUNCH) == report(5, phase=AgentPhase.READY)


async def test_what_the_actuator_says_reaches_the_agent() -> None:
    async with api_world() as world:
        key = await registered(world)
        world.agents.tell(LAUNCH, AgentOrder.STOP)
        assert (await send(world, "PUT", key, report(2))).json()["order"] == "stop"


async def test_a_replica_that_is_being_drained_is_told_so_and_reports_more_often() -> None:
    """It hears of the end of its last stream by the answer to a report: a job is to be gone soon after that."""
    async with api_world() as world:
        await put(world, session(1))  # a gateway that never acknowledges: the drain waits for it
        await world.send("POST", "/v1/overrides", override(2))
        await world.serve(2)
        await put(world, session(2))
        await world.send("POST", "/v1/overrides", override(1))
        await world.until(lambda: any(r.phase is ReplicaPhase.DRAINING for r in world.replicas()))
        orders = {}
        for replica in world.replicas():
            name = action_id("launch", "demo", replica.model_id, replica.ordinal, replica.generation)
            told = report(ordinal=replica.ordinal, generation=replica.generation)
            answer = await send(world, "POST", registration_token(SITE_SECRET, name), told, name)
            orders[replica.phase] = answer.json()["order"], answer.json()["heartbeat_s"]
        assert orders == {ReplicaPhase.READY: ("keep", 2.0), ReplicaPhase.DRAINING: ("drain", 0.5)}


async def test_an_agent_whose_replica_is_over_is_told_to_exit() -> None:
    """Slurm calls a job ended whose node was set DOWN; its engine served on there, known to nobody."""
    async with api_world() as world:
        await world.serve()
        world.pool.crash("chat-0-g1")
        await world.until(lambda: world.replicas()[0].phase is ReplicaPhase.FAILED)
        assert (await send(world, "POST", TOKEN, report())).json()["order"] == "stop"


BAD_BODIES = [
    ("no JSON", "{", "not JSON"),
    ("no envelope", "{}", "needs the fields schema and data"),
    ("another schema", '{"schema": "tidegate.receipt/1", "data": {}}', "'agent_report' is expected"),
    ("a newer version", '{"schema": "tidegate.agent_report/2", "data": {}}', "newer than 1"),
    ("nothing in it", '{"schema": "tidegate.agent_report/1", "data": {}}', "data.boot_id: this field is missing"),
    ("half a character in a name", wire.dumps(report(model_id="\ud800")), "whole characters"),
    ("a boot id in words", wire.dumps(report(boot_id="../../etc")), "boot_id"),
]


@pytest.mark.parametrize(("body", "words"), [b[1:] for b in BAD_BODIES], ids=[b[0] for b in BAD_BODIES])
async def test_a_bad_report_is_refused_in_words(body: str, words: str) -> None:
    async with api_world() as world:
        answer = await send(world, "POST", TOKEN, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
        assert words in answer.json()["error"]["message"]


async def test_a_huge_report_is_refused() -> None:
    async with api_world() as world:
        answer = await send(world, "POST", TOKEN, report(detail="x" * 70_000))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_fields_that_are_not_known_yet_are_ignored() -> None:
    newer = wire.dumps(report()).replace('"node":', '"weather":"fine","node":')
    async with api_world() as world:
        assert (await send(world, "POST", TOKEN, newer)).status_code == 200


async def test_the_table_is_bounded_and_forgets_the_longest_silent_first() -> None:
    table = AgentTable(LoopClock(BASE))
    for generation in range(10_003):
        table.hear(report(generation=generation))
        await asyncio.sleep(0.0001)
    assert [table.latest(report(generation=g).action_id) is not None for g in (0, 1, 2, 3, 10_002)] == [
        False, False, False, True, True,
    ]  # fmt: skip


async def test_a_run_that_has_ended_makes_room_for_the_next_at_once() -> None:
    table = AgentTable(LoopClock(BASE))
    table.hear(report(1, phase=AgentPhase.ENDED, end=AgentEnd(EndCause.STOPPED)))
    table.hear(report(boot_id="fedcba9876543210"))
    with pytest.raises(Problem, match="another run"):
        table.hear(report(2))
