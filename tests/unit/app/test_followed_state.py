"""The state as others follow it: what is told anew, and that nothing of it is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.app.followed_state import FollowedState
from broker.log.codec import to_text
from broker.log.kafka.client import Connection
from broker.log.kafka.messages import LEASE_KEY, Found
from broker.log.kafka.reader import Reader
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import LogUnreachable
from broker.model.state import Entity, ModelState
from tests.support.builders import model_spec, replica


def entity(offset: int, key: str, value: Entity, version: int = 1) -> Found:
    text = to_text(wire.encode(value, Entity))
    return Found(key.encode(), text.encode(), {"schema": f"tidegate.entity/{version}"}, offset, offset * 1000)


MODEL = entity(1, "model/chat", ModelState("chat", model_spec("chat"), target=1))
REPLICA = entity(2, "replica/chat-0-g1", replica())
LEASE = Found(LEASE_KEY, b"{}", {"schema": "tidegate.lease/1"}, 3, 3000)
TOO_NEW = entity(4, "replica/chat-1-g1", replica("chat-1-g1"), version=99)
OTHER_MODEL = entity(6, "model/code", ModelState("code", model_spec("code"), target=1))
GONE = Found(b"replica/chat-0-g1", None, {}, 5, 5000)


class FakeReader(Reader):
    """A topic of these messages, of which the first ``read_to`` can be read now."""

    def __init__(self, *found: Found) -> None:
        super().__init__(Connection(("127.0.0.1:1",)), Layout("t"), 1.0)
        self.read_to = len(found)
        self._found = found

    async def forwards(
        self, topic: str, partition: int = 0, first: int | None = None, end: int | None = None, least_end: int = 0
    ) -> AsyncIterator[Found]:
        for number, found in enumerate(self._found):
            if number >= self.read_to:
                raise LogUnreachable("Kafka is away")
            if found.offset >= (first or 0):
                yield found


async def test_each_change_is_told_once_with_its_time() -> None:
    followed = FollowedState(FakeReader(MODEL, REPLICA, LEASE))
    assert await followed.read() == {"chat": 2.0}
    assert await followed.read() == {}
    assert followed.state.replicas_of("chat").keys() == {"chat-0-g1"}
    assert followed.changed_at == {"chat": 2.0}


async def test_what_was_read_before_kafka_went_away_is_told_when_it_is_back() -> None:
    reader = FakeReader(MODEL, OTHER_MODEL)
    followed = FollowedState(reader)
    reader.read_to = 1
    with pytest.raises(LogUnreachable):
        await followed.read()
    reader.read_to = 2
    assert await followed.read() == {"chat": 1.0, "code": 6.0}


async def test_what_cannot_be_understood_is_passed_over() -> None:
    followed = FollowedState(FakeReader(MODEL, TOO_NEW, GONE))
    assert await followed.read() == {"chat": 1.0}
