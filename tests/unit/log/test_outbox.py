"""What waits for Kafka: it is written in order once Kafka takes it, and only old measurements are ever dropped."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError, NotEnoughReplicasError

from broker.log.kafka.client import Connection
from broker.log.kafka.outbox import News, Outbox
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.signals import MetricSample, RequestSummary
from tests.support.builders import START, request_summary

pytestmark = pytest.mark.looptime

SAMPLE = MetricSample("chat", "chat-0-g1", START, START, requests_running=1.0)

Refuses = Callable[[str, int], Exception | None]
"""Why the message of this topic, the so many-th that was given, is not taken."""


def takes_all(topic: str, number: int) -> Exception | None:
    return None


@dataclass
class FakeKafka:
    """``written`` has what was taken, as topic, key and value. ``away``: no producer starts. ``confirms`` cleared: no
    answer comes."""

    written: list[tuple[str, str, bytes | None]] = field(default_factory=list)
    away: bool = False
    at_once: Refuses = takes_all
    later: Refuses = takes_all
    confirms: asyncio.Event = field(default_factory=asyncio.Event)
    given: int = 0

    @property
    def sequences(self) -> list[int]:
        """Of the summaries, in order."""
        values = [value for topic, _, value in self.written if topic == "t.requests"]
        return [wire.loads(RequestSummary, value or b"").sequence for value in values]


class FakeProducer:
    def __init__(self, kafka: FakeKafka) -> None:
        self._kafka = kafka

    async def start(self) -> None:
        if self._kafka.away:
            raise KafkaConnectionError("nobody there")

    async def stop(self) -> None:
        """It has nothing to end."""

    async def send(self, topic: str, value: bytes | None, key: bytes) -> asyncio.Task[None]:
        self._kafka.given += 1
        if (error := self._kafka.at_once(topic, self._kafka.given)) is not None:
            raise error
        return asyncio.create_task(self._answered(topic, value, key, self._kafka.given))

    async def _answered(self, topic: str, value: bytes | None, key: bytes, number: int) -> None:
        await self._kafka.confirms.wait()
        if (error := self._kafka.later(topic, number)) is not None:
            raise error
        self._kafka.written.append((topic, key.decode(), value))


@dataclass(frozen=True)
class FakeConnection(Connection):
    kafka: FakeKafka = field(default_factory=FakeKafka)

    def producer(self, **arguments: Any) -> FakeProducer:
        return FakeProducer(self.kafka)


@dataclass
class World:
    kafka: FakeKafka
    outbox: Outbox

    def measure(self, *sequences: int) -> None:
        for sequence in sequences:
            self.outbox.send(request_summary(sequence=sequence))


@contextlib.asynccontextmanager
async def world(kept: int = 1000, *, runs: bool = True, **kafka_is: Any) -> AsyncIterator[World]:
    kafka = FakeKafka(**kafka_is)
    kafka.confirms.set()
    made = World(kafka, Outbox(FakeConnection((), kafka=kafka), Layout("t"), kept))
    running = asyncio.create_task(made.outbox.run() if runs else asyncio.sleep(0))
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


def session(text: str, key: str = "gw") -> News:
    return News("gateway-sessions", key, text)


async def test_measurements_go_to_the_topic_of_their_kind_by_model_in_the_order_in_which_they_came() -> None:
    async with world() as made:
        made.outbox.send(SAMPLE)
        made.measure(1, 2)
        made.outbox.send(request_summary("code", sequence=7))
        await asyncio.sleep(1)
        assert [(topic, key) for topic, key, _ in made.kafka.written] == [
            ("t.signals", "chat"), ("t.requests", "chat"), ("t.requests", "chat"), ("t.requests", "code"),
        ]  # fmt: skip
        assert made.kafka.sequences == [1, 2, 7]
        assert (made.outbox.waiting, made.outbox.dropped) == (0, 0)


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param({"at_once": lambda topic, number: KafkaTimeoutError() if number == 3 else None}, id="at once"),
        pytest.param(
            {"later": lambda topic, number: NotEnoughReplicasError() if 3 <= number <= 5 else None}, id="later"
        ),
        pytest.param({"later": lambda topic, number: OSError("lost") if number <= 11 else None}, id="several times"),
    ],
)
async def test_what_kafka_does_not_take_now_is_written_later_in_order(refusal: dict[str, Any]) -> None:
    async with world(**refusal) as made:
        made.measure(1, 2, 3, 4, 5)
        await asyncio.sleep(0.5)
        made.measure(6)
        await asyncio.sleep(10)
        assert made.kafka.sequences == [1, 2, 3, 4, 5, 6]
        assert (made.outbox.waiting, made.outbox.dropped) == (0, 0)


async def test_what_kafka_does_not_confirm_is_written_again() -> None:
    async with world() as made:
        made.kafka.confirms.clear()
        made.measure(1, 2)
        await asyncio.sleep(10.5)
        made.kafka.confirms.set()
        await asyncio.sleep(5)
        assert made.kafka.sequences == [1, 2, 1, 2]
        assert (made.outbox.waiting, made.outbox.dropped) == (0, 0)


async def test_while_kafka_is_away_the_oldest_measurements_are_dropped_and_counted_and_news_never() -> None:
    async with world(kept=3, away=True) as made:
        made.outbox.tell(session("applied 1"))
        made.outbox.tell(session("other", key="gw-2"))
        made.measure(*range(1, 8))
        made.outbox.tell(session("closed"))
        await asyncio.sleep(5)
        assert (made.outbox.waiting, made.outbox.dropped) == (3, 4)
        made.kafka.away = False
        await asyncio.sleep(5)
        assert made.kafka.written[:2] == [
            ("t.gateway-sessions", "gw", b"closed"), ("t.gateway-sessions", "gw-2", b"other"),
        ]  # fmt: skip
        assert made.kafka.sequences == [5, 6, 7]
        assert (made.outbox.waiting, made.outbox.dropped) == (0, 4)


async def test_what_came_back_does_not_count_as_newer_than_what_was_told_meanwhile() -> None:
    async with world(kept=3) as made:
        made.kafka.confirms.clear()
        made.kafka.later = lambda topic, number: None if number > 5 else OSError("lost")
        made.outbox.tell(session("old"))
        made.measure(1, 2, 3)
        await asyncio.sleep(0.1)
        assert made.outbox.waiting == 3, "what is under way is not there yet"
        made.outbox.tell(session("new"))
        made.measure(4, 5)
        made.kafka.confirms.set()
        await asyncio.sleep(5)
        assert [value for topic, _, value in made.kafka.written if topic == "t.gateway-sessions"] == [b"new"]
        assert (made.kafka.sequences, made.outbox.dropped) == ([3, 4, 5], 2)


@pytest.mark.parametrize("when", ["at_once", "later"])
async def test_what_kafka_will_never_take_keeps_nobody_waiting(when: str) -> None:
    def too_large(topic: str, number: int) -> Exception | None:
        return MessageSizeTooLargeError() if number == 2 else None

    async with world() as made:
        setattr(made.kafka, when, too_large)
        made.measure(1, 2, 3)
        await asyncio.sleep(5)
        assert (made.kafka.sequences, made.kafka.given) == ([1, 3], 3)
        assert (made.outbox.waiting, made.outbox.dropped) == (0, 1)


async def test_what_has_no_form_on_the_wire_keeps_nobody_waiting() -> None:
    async with world() as made:
        made.outbox.send(replace(SAMPLE, kv_cache_use=math.nan))
        made.measure(1)
        await asyncio.sleep(5)
        assert (made.kafka.sequences, made.kafka.given, made.outbox.dropped) == ([1], 1, 1)


async def test_what_is_left_is_written_when_it_is_closed() -> None:
    async with world(runs=False) as made:
        made.measure(1, 2)
        made.outbox.tell(News("gateway-sessions", "gw", None))
        assert await made.outbox.close(within_s=2.0)
        assert made.kafka.sequences == [1, 2]
        assert ("t.gateway-sessions", "gw", None) in made.kafka.written


async def test_closing_waits_no_longer_than_it_is_told_for_a_kafka_that_is_away() -> None:
    async with world(runs=False, away=True) as made:
        made.measure(1)
        assert not await made.outbox.close(within_s=2.0)
        assert made.outbox.waiting == 1
