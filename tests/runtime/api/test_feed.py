"""The registry as followers see it: nothing missed, nothing twice, nobody waited for."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import looptime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.app.feed import CHANGES_KEPT, EventStream
from broker.control.loop import Ran
from broker.model.plan import Plan
from broker.model.ports import StepRecord
from broker.model.replica import EndpointRecord
from tests.support.api_world import ApiWorld, api_world, declared
from tests.support.builders import endpoint

pytestmark = pytest.mark.looptime

Told = tuple[str, int, dict[str, Any]]


def parsed(event: str) -> Told:
    lines = dict(line.split(": ", 1) for line in event.strip().splitlines())
    return lines["event"], int(lines["id"]), json.loads(lines["data"])


def commit(world: ApiWorld, *records: EndpointRecord, announce: bool = True) -> None:
    """What a step with these changes of the registry leaves behind, without the step."""
    loop = world.runtime.core.loop
    control = replace(loop.state.control, revision=records[-1].revision)
    loop.state = loop.state.with_changes({("control", ""): control})
    if announce:
        world.runtime._tell(Ran(Plan(0.0, (), ()), records, frozenset(), (), StepRecord(1, 1, 0.0, (), {})))


async def test_a_follower_gets_the_snapshot_then_changes_then_leases() -> None:
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        kind, revision, body = parsed(await anext(events))
        assert (kind, revision, body["cluster"], body["endpoints"]) == ("snapshot", 0, "demo", [])
        commit(world, endpoint(revision=1), endpoint("chat-1-g2", 2))
        assert [parsed(await anext(events))[:2] for _ in range(2)] == [("change", 1), ("change", 2)]
        began = asyncio.get_running_loop().time()
        kind, revision, body = parsed(await anext(events))
        assert (kind, revision, body["at"]) == ("lease", 2, world.runtime.clock.now())
        assert parsed(await anext(events))[0] == "lease"
        assert asyncio.get_running_loop().time() - began == pytest.approx(2, abs=0.01)


async def test_the_real_registry_is_told_from_ready_to_gone() -> None:
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        assert parsed(await anext(events))[0] == "snapshot"
        await world.serve(1)
        kind, _, body = parsed(await anext(events))
        while kind == "lease":
            kind, _, body = parsed(await anext(events))
        assert (kind, body["endpoint"]["phase"], body["endpoint"]["endpoint_id"]) == ("change", "ready", "chat-0-g1")


async def test_leases_come_each_second_however_busy_the_registry_is() -> None:
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        await anext(events)
        kinds = []
        for revision in range(1, 40):
            commit(world, endpoint(revision=revision))
            await asyncio.sleep(0.1)
            kinds.append(parsed(await anext(events))[0])
        assert kinds.count("lease") == 3


async def test_what_is_in_the_snapshot_is_not_told_again() -> None:
    """The state changes before the listeners are told: who comes between them sees the change in the snapshot."""
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        commit(world, endpoint(revision=1), announce=False)
        assert parsed(await anext(events))[1] == 1
        commit(world, endpoint(revision=1))
        commit(world, endpoint(revision=2))
        assert parsed(await anext(events))[:2] == ("change", 2)


async def test_a_change_that_was_never_announced_comes_as_another_snapshot() -> None:
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        await anext(events)
        commit(world, endpoint(revision=3), announce=False)
        assert [parsed(await anext(events))[:2] for _ in range(2)] == [("snapshot", 3), ("lease", 3)]


async def test_models_declared_anew_come_as_another_snapshot() -> None:
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        assert parsed(await anext(events))[2]["models"] == ["chat"]
        world.runtime.offer(declared("embed"))
        await asyncio.sleep(0.5)
        kind, _, body = parsed(await anext(events))
        assert (kind, body["models"]) == ("snapshot", ["embed"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), max_size=12))
def test_no_follower_misses_a_change_or_sees_revisions_fall(steps: list[tuple[int, bool, bool]]) -> None:
    """Each step is (changes, whether a new follower comes right before, whether everybody reads right after)."""

    async def story() -> None:
        async with api_world() as world:
            await asyncio.sleep(0.5)
            followers = []
            revision = 0
            for changes, comes, reads in steps:
                if comes:
                    events = world.feed.events()
                    followers.append((events, [parsed(await anext(events))]))
                records = tuple(endpoint(revision=revision + 1 + index) for index in range(changes))
                revision += changes
                commit(world, *records)
                if reads:
                    for events, told in followers:
                        told.append(parsed(await anext(events)))
            for events, told in followers:
                while told[-1][1] < revision:
                    told.append(parsed(await anext(events)))
                await events.aclose()
                begun = told[0][1]
                changed = [number for kind, number, _ in told if kind == "change"]
                assert changed == list(range(begun + 1, revision + 1))
            assert world.feed.followers == 0

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(story())
    finally:
        loop.close()


async def test_a_follower_too_far_behind_is_cut_off_and_the_others_are_not() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        slow, quick = world.feed.events(), world.feed.events()
        await anext(slow)
        await anext(quick)
        told = []
        for revision in range(1, CHANGES_KEPT + 3):
            commit(world, endpoint(revision=revision))
            told.append(parsed(await anext(quick))[1])
        assert told == list(range(1, CHANGES_KEPT + 3))
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
        await quick.aclose()
        assert world.feed.followers == 0


async def test_who_leaves_is_forgotten() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        followers = [world.feed.events() for _ in range(3)]
        for events in followers:
            await anext(events)
        assert (world.feed.followers, len(world.runtime._listeners)) == (3, 3)
        for events in followers:
            await events.aclose()
        assert (world.feed.followers, len(world.runtime._listeners)) == (0, 0)


async def test_while_the_log_fails_the_lease_stands_still_and_the_stream_lives() -> None:
    async with api_world() as world, aclosing(world.feed.events()) as events:
        await asyncio.sleep(1)
        await anext(events)
        world.log.problem = "disk full"
        await world.until(lambda: world.runtime.log_problem is not None)
        assert [(await anext(events))[0] for _ in range(2)] == [":", ":"]
        first = (await world.get("/v1/endpoints")).json()["at"]
        await asyncio.sleep(3)
        assert (await world.get("/v1/endpoints")).json()["at"] == first
        world.log.problem = ""
        await world.until(lambda: world.runtime.log_problem is None)
        while (event := await anext(events))[0] == ":":
            pass
        assert parsed(event)[0] == "lease"


async def test_streams_end_when_the_broker_stops() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        events = world.feed.events()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.1)
        world.feed.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        late = world.feed.events()
        with pytest.raises(StopAsyncIteration):
            await anext(late)


async def test_a_reader_that_takes_nothing_is_let_go() -> None:
    """The connection's buffers are full: without a limit the stream would wait for ever, with its follower."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 2:
            await asyncio.sleep(3600)

    async with api_world() as world:
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await EventStream(world.feed.events()).stream_response(send)
        assert asyncio.get_running_loop().time() - began < 15
        assert world.feed.followers == 0
        assert sent[-1].get("more_body", True)


async def test_before_the_first_step_there_is_no_registry_rather_than_an_empty_one() -> None:
    async with api_world(first=()) as world:
        for path in ("/v1/endpoints", "/v1/endpoints/stream", "/v1/explain/chat"):
            answer = await world.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")
