"""A gateway's session, by HTTP or by its topic: what it reports arrives, garbage harms nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from broker.app.access import Scope as TokenScope
from broker.app.gateway_topic import GatewayTopic
from broker.app.guard import BODY_LIMIT_BYTES, BodyLimit
from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.observation import Override
from broker.model.replica import ReplicaPhase
from broker.model.signals import Signal
from broker.model.state import GatewayState
from broker.model.window_state import SHOWN_CHARACTERS
from tests.support.api_world import BASE, ApiWorld, api_world
from tests.support.builders import request_summary

pytestmark = pytest.mark.looptime


def session(sequence: int = 1, **changes: Any) -> dict[str, Any]:
    body = {"boot_id": "boot-1", "sequence": sequence, "applied_revision": 0, "observed_at": BASE, "in_flight": {}}
    return body | changes


def gateways(world: ApiWorld) -> dict[str, GatewayState]:
    return dict(world.runtime.core.loop.state.gateways)


async def put(world: ApiWorld, body: Any, name: str = "gw") -> Any:
    answer = await world.send("PUT", f"/v1/gateways/{name}", body, TokenScope.GATEWAY)
    await asyncio.sleep(0.2)
    return answer


@dataclass
class Written:
    """A message as aiokafka gives it."""

    key: bytes | None
    value: bytes | None
    timestamp: float
    partition: int = 0
    offset: int = 7


def topic_of(world: ApiWorld) -> GatewayTopic:
    return GatewayTopic(Connection(()), Layout("t"), world.runtime)


def message(body: Any, name: str = "gw", at: float | None = None) -> Written:
    value = json.dumps({"schema": "tidegate.gateway_session/1", "data": body}).encode()
    return Written(name.encode("utf-8", "surrogatepass"), value, 1e3 * (at or 0.0))


async def write(world: ApiWorld, body: Any, name: str = "gw") -> Any:
    await topic_of(world).take([message(body, name, world.runtime.clock.now())])
    await asyncio.sleep(0.2)


either_way = pytest.mark.parametrize("tell", [pytest.param(put, id="http"), pytest.param(write, id="topic")])
"""``tell`` a session by the one or the other."""

Tell = Callable[..., Awaitable[Any]]


@either_way
async def test_a_report_reaches_the_state(tell: Tell) -> None:
    async with api_world() as world:
        await world.serve(1)
        await tell(world, session(7, applied_revision=1, in_flight={"chat-0-g1": 3}))
        known = gateways(world)["gw/boot-1"]
        assert (known.sequence, known.applied_revision, known.in_flight) == (7, 1, {"chat-0-g1": 3})


async def test_a_report_by_http_is_answered_with_the_revision() -> None:
    async with api_world() as world:
        await world.serve(1)
        answer = await put(world, session(7, applied_revision=1))
        assert (answer.status_code, answer.json()) == (200, {"revision": 1})


@either_way
async def test_a_sequence_that_goes_back_is_ignored(tell: Tell) -> None:
    async with api_world() as world:
        await tell(world, session(7, in_flight={"chat-0-g1": 5}))
        for sequence in (7, 6, 0):
            await tell(world, session(sequence, in_flight={"chat-0-g1": 9}))
        assert (gateways(world)["gw/boot-1"].sequence, gateways(world)["gw/boot-1"].in_flight) == (7, {"chat-0-g1": 5})
        await tell(world, session(1, boot_id="boot-2"))
        assert gateways(world)["gw/boot-2"].sequence == 1


@either_way
async def test_a_closed_session_is_over(tell: Tell) -> None:
    async with api_world() as world:
        await tell(world, session(1))
        await tell(world, session(2, closed=True))
        assert gateways(world) == {}


@either_way
async def test_a_drain_waits_for_who_has_not_applied_it_and_for_what_is_open_there(tell: Tell) -> None:
    async with api_world() as world:
        sequence = 0

        async def report(applied_revision: int, **in_flight: int) -> None:
            """For some seconds, longer than a session lasts."""
            nonlocal sequence
            for _ in range(8):
                sequence += 1
                await tell(world, session(sequence, applied_revision=applied_revision, in_flight=in_flight))
                await asyncio.sleep(0.8)

        await order(world, 2)
        await world.serve(2)
        before = world.runtime.core.loop.state.control.revision
        await report(before)
        await order(world, 1)
        (drained,) = [replica.replica_id for replica in world.replicas() if replica.phase is ReplicaPhase.DRAINING]
        for applied_revision, in_flight in ((before, 0), (before + 1, 1)):
            await report(applied_revision, **{drained: in_flight})
            assert world.runtime.core.loop.state.replicas["chat"][drained].phase is ReplicaPhase.DRAINING
        await report(before + 1)
        assert world.runtime.core.loop.state.replicas["chat"][drained].phase is not ReplicaPhase.DRAINING


async def order(world: ApiWorld, target: int) -> None:
    now = world.runtime.clock.now()
    await world.runtime.record(Override("chat", "test", "a test", now, now + 3600.0, target))


@either_way
async def test_who_is_silent_is_waited_for_no_longer_than_a_session(tell: Tell) -> None:
    async with api_world() as world:
        await tell(world, session(1))
        await asyncio.sleep(4)
        assert gateways(world)
        await asyncio.sleep(2)
        assert gateways(world) == {}


STALE = "gateway_session_stale"


async def test_a_session_that_has_lain_in_the_topic_for_longer_than_one_lasts_says_nothing() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        topic, now = topic_of(world), world.runtime.clock.now()
        await topic.take([message(session(sequence), at=now - 7.0 + sequence) for sequence in (1, 2)])
        await topic.take([message(session(2), "other", at=now - 4.5)])
        await topic.take([message(session(1), "ahead", at=now + 60.0)])
        await asyncio.sleep(0.2)
        assert gateways(world).keys() == {"other/boot-1", "ahead/boot-1"}
        assert [(line["gateway_id"], line["age_s"]) for line in world.logged if line["event"] == STALE] == [("gw", 6.0)]


POISON = [
    ("no text", b"\xff", b"gw", "not JSON"),
    ("empty", None, b"gw", "it is empty"),
    (
        "of another schema",
        b'{"schema": "tidegate.receipt/1", "data": {}}',
        b"gw",
        "a 'receipt' where a 'gateway_session'",
    ),
    ("of a version to come", b'{"schema": "tidegate.gateway_session/9", "data": {}}', b"gw", "version 9"),
    ("without a field", b'{"schema": "tidegate.gateway_session/1", "data": {"boot_id": "b"}}', b"gw", "sequence"),
    ("nobody's", json.dumps({}).encode(), None, "key: a gateway's id has 1 to 200 characters, not 0"),
    ("of one whose name is no text", b"{}", b"\xff", "key: b'\\xff' is no text"),
    ("of one whose name is endless", b"{}", b"x" * 201, "key: a gateway's id has 1 to 200 characters, not 201"),
]


@pytest.mark.parametrize(("value", "key", "reason"), [p[1:] for p in POISON], ids=[p[0] for p in POISON])
async def test_a_message_that_is_no_session_goes_to_the_dead_letters_and_the_rest_arrives(
    value: bytes | None, key: bytes | None, reason: str
) -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        now = world.runtime.clock.now()
        await topic_of(world).take([Written(key, value, 1e3 * now), message(session(1), at=now)])
        await asyncio.sleep(0.2)
        assert gateways(world).keys() == {"gw/boot-1"}
        (letter,) = await dead_letters(world)
        assert (letter["topic"], letter["partition"], letter["offset"]) == ("t.gateway-sessions", 0, 7)
        assert reason in letter["reason"], letter["reason"]


async def test_much_garbage_in_the_topic_leaves_few_dead_letters() -> None:
    async with api_world() as world:
        await topic_of(world).take([Written(b"gw", b"{", 1e3 * BASE)] * 500)
        assert len(await dead_letters(world)) == 20


async def test_summaries_are_measurements_of_their_model() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        for sequence in range(1, 6):
            summary = wire.encode(request_summary(sequence=sequence, at=BASE + sequence))
            await put(world, session(sequence, summaries=[summary]))
            await asyncio.sleep(0.8)
        snapshot = world.runtime.core.loop.state.models["chat"].snapshot
        assert snapshot is not None
        assert snapshot.reading(Signal.QUEUE_AGE).value is not None
        assert await dead_letters(world) == []


async def test_a_summary_belongs_to_the_gateway_that_sends_it_whatever_it_says() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        summary = wire.encode(request_summary()) | {"gateway_id": "another", "received_at": 9e99}
        await put(world, session(1, summaries=[summary]))
        assert await dead_letters(world) == []


async def dead_letters(world: ApiWorld) -> list[Any]:
    return [letter async for letter in world.log.records("dead-letters")]


BAD_SUMMARIES = [
    ("no object", 7, "this is not an object"),
    ("a list", [1], "this is not an object"),
    ("nothing", {}, "model_id: this field is missing"),
    ("a count that is text", {"arrived": "3"}, "arrived: '3' is not a whole number"),
    ("a sketch that is none", {"queue_age": "%%"}, "queue_age: not a sketch"),
    ("a count beyond all doubles", {"waiting": 10**400}, "waiting: it must be from 0 to 2**53"),
    ("a count below nothing", {"arrived": -1}, "arrived: it must be from 0 to 2**53"),
    ("an interval whose microseconds overflow", {"interval_s": 1e308}, "interval_s: 1e+308 is not from 0 to 604800"),
    ("a time that never was", {"oldest_waiting_since": -1e308}, "oldest_waiting_since: -1e+308 is not a time"),
    ("a request that waits since 1970", {"oldest_waiting_since": 0.0}, "oldest_waiting_since: 0 is 1700000001 s off"),
    (
        "a request that comes tomorrow",
        {"oldest_waiting_since": BASE + 1e6},
        "oldest_waiting_since: 1.701e+09 is 999999 s",
    ),
    (
        "more open requests than can be",
        {"in_flight": 2**50},
        "in_flight: 1125899906842624 is more than one gateway can",
    ),
    ("more arrivals than can be", {"arrived": 2**50}, "arrived: 1125899906842624 in 1 s is more than one gateway can"),
    ("half a character", {"model_id": "\ud800", "arrived": None}, "arrived: None is not a whole number"),
]


@pytest.mark.parametrize(("changes", "reason"), [b[1:] for b in BAD_SUMMARIES], ids=[b[0] for b in BAD_SUMMARIES])
async def test_a_bad_summary_goes_to_the_dead_letters_and_the_rest_arrives(changes: Any, reason: str) -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        good = wire.encode(request_summary(at=BASE + 1))
        bad = good | changes if isinstance(changes, dict) and changes else changes
        answer = await put(world, session(1, summaries=[bad, good], in_flight={"chat-0-g1": 1}))
        assert answer.status_code == 200
        assert gateways(world)["gw/boot-1"].in_flight == {"chat-0-g1": 1}
        (letter,) = await dead_letters(world)
        assert (letter["topic"], letter["gateway_id"]) == ("requests", "gw")
        assert letter["reason"].startswith(reason)


async def test_much_garbage_leaves_few_and_short_dead_letters() -> None:
    async with api_world() as world:
        await put(world, session(1, summaries=[{"model_id": "x" * 5000}] * 500))
        letters = await dead_letters(world)
        assert len(letters) == 20
        assert all(len(letter["message"]) == SHOWN_CHARACTERS for letter in letters)


async def test_a_report_is_taken_while_dead_letters_cannot_be_written() -> None:
    async with api_world() as world:
        await asyncio.sleep(1)
        world.log.problem = "disk full"
        answer = await put(world, session(1, summaries=[{}]))
        assert answer.status_code == 200
        world.log.problem = ""
        await world.until(lambda: "gw/boot-1" in gateways(world))


async def test_a_summary_of_an_unknown_model_is_no_error() -> None:
    async with api_world() as world:
        await put(world, session(1, summaries=[wire.encode(request_summary("elsewhere"))]))
        assert await dead_letters(world) == []


REFUSED = [
    ("no boot id", {"boot_id": ""}),
    ("an endless boot id", {"boot_id": "x" * 201}),
    ("a negative sequence", {"sequence": -1}),
    ("a sequence beyond what JSON readers keep", {"sequence": 2**60}),
    ("a negative count", {"in_flight": {"chat-0-g1": -1}}),
    ("a time that is not a number", {"observed_at": float("nan")}),
    ("a time without end", {"observed_at": float("inf")}),
    ("more open requests than can be", {"in_flight": {"chat-0-g1": 2**50}}),
    ("half a character", {"boot_id": "\ud800"}),
    ("half a character for an endpoint", {"in_flight": {"\ud800": 1}}),
    ("too many summaries", {"summaries": [{}] * 10_001}),
]


@either_way
@pytest.mark.parametrize("changes", [r[1] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_a_report_that_the_log_could_not_keep_is_refused(changes: dict[str, Any], tell: Tell) -> None:
    """What reached the state and then had no JSON form once ended the control loop."""
    async with api_world() as world:
        await asyncio.sleep(1)
        answer = await tell(world, session(1) | changes)
        if answer is None:
            assert len(await dead_letters(world)) == 1
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
        await asyncio.sleep(2)
        assert gateways(world) == {}
        assert world.runtime.problem is None


async def test_an_endless_name_is_refused() -> None:
    async with api_world() as world:
        assert (await put(world, session(1), name="x" * 201)).status_code == 422


async def test_nesting_without_end_is_refused() -> None:
    async with api_world() as world, world.client(TokenScope.GATEWAY) as client:
        content = b'{"summaries": ' + b"[" * 200_000
        answer = await client.put("/v1/gateways/gw", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert set(answer.json()["error"]) == {"code", "message"}


@pytest.mark.parametrize("declared", [True, False], ids=["of declared length", "in chunks"])
async def test_a_huge_body_is_refused(declared: bool) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(BODY_LIMIT_BYTES // 65536 + 1000):
            read += 1
            yield b" " * 65536

    async with api_world() as world, world.client(TokenScope.GATEWAY) as client:
        content = b" " * (BODY_LIMIT_BYTES + 1) if declared else chunks()
        answer = await client.put("/v1/gateways/gw", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert read <= 8 * BODY_LIMIT_BYTES // 65536 + 2


@pytest.mark.parametrize(
    ("pause_s", "heard_out"), [pytest.param(0.25, True, id="slow"), pytest.param(20.0, False, id="stalled")]
)
async def test_the_sender_of_a_huge_body_is_heard_out_before_it_is_refused(pause_s: float, heard_out: bool) -> None:
    left, answered_with_left = 9 * 16, -1

    async def receive() -> Message:
        nonlocal left
        await asyncio.sleep(pause_s)
        left -= 1
        return {"type": "http.request", "body": b" " * 65536, "more_body": left > 0}

    async def send(message: Message) -> None:
        nonlocal answered_with_left
        if message["type"] == "http.response.start":
            assert message["status"] == 413
            answered_with_left = left

    async def reached(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("a body that is too large reaches nobody")

    headers = [(b"content-length", b"%d" % (9 * 2**20))]
    await BodyLimit(reached)({"type": "http", "headers": headers}, receive, send)
    assert (answered_with_left == 0) is heard_out


async def test_a_body_just_within_the_limit_is_taken() -> None:
    async with api_world() as world, world.client(TokenScope.GATEWAY) as client:
        content = json.dumps(session(1)).encode()
        content += b" " * (BODY_LIMIT_BYTES - len(content))
        answer = await client.put("/v1/gateways/gw", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200
