"""``tidegate dead-letters`` on a real Kafka: what nobody could read is shown, and put back once it can be read."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.log.kafka.client import Connection, started
from broker.log.kafka.dead_letters import Wanted, letters_retried
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import LeadershipRefused
from broker.model.signals import RequestSummary
from broker.model.window_state import DeadLetter
from cli.output import Exit
from tests.integration.kafka.sites import messages, told
from tests.support.command_line import tidegate
from tests.support.real_kafka import RealKafka

pytestmark = pytest.mark.integration

SUMMARY = RequestSummary("chat", "gw", "boot", 1, 1.0, 1.0, 1.0)
READABLE = wire.dumps(SUMMARY).encode()
NEW_GATEWAY: list[Any] = [
    {"topic": "requests", "at": 1.0, "gateway_id": "gw", "reason": "model_id: this field is missing", "message": "{}"}
]


class Topics:
    """A site's topics, as those who write and read them see them."""

    def __init__(self, connection: Connection, layout: Layout, producer: Any) -> None:
        self.connection = connection
        self.layout = layout
        self._producer = producer

    async def send(self, topic: str, value: bytes | None, key: bytes | None = b"chat") -> Any:
        return await self._producer.send_and_wait(self.layout.name(topic), value, key=key, headers=[("source", b"gw")])

    async def bad(self, value: bytes | None, *, key: bytes = b"chat", reason: str = "it was bad") -> DeadLetter:
        """A message, and the letter that a worker wrote of it."""
        sent = await self.send("requests", value, key)
        at = sent.timestamp / 1e3
        letter = DeadLetter(sent.topic, sent.partition, sent.offset, at, reason, (value or b"").decode())
        await self.letter(letter)
        return letter

    async def letter(self, letter: DeadLetter) -> None:
        await self.send("dead-letters", wire.dumps(letter).encode(), None)

    async def read(self, topic: str) -> list[Any]:
        return await messages(self.connection, self.layout, topic)


@pytest.fixture
async def topics(log: KafkaLog, kafka: RealKafka, kafka_cluster: str) -> AsyncIterator[Topics]:
    connection = Connection((kafka.bootstrap_servers,))
    async with started(connection, connection.producer()) as producer:
        yield Topics(connection, Layout(kafka_cluster, partitions=2), producer)


async def listed(folder: Path, *words: str) -> list[dict[str, Any]]:
    status, document = await to_thread(told, folder, "dead-letters", "list", *words)
    assert status == Exit.OK
    return list(document["letters"])


async def retry(folder: Path, *words: str) -> tuple[int, dict[int, str]]:
    """The exit status, and what was done to each letter."""
    status, document = await to_thread(told, folder, "dead-letters", "retry", *words)
    return status, {one["number"]: one["done"] for one in document["letters"]}


async def test_letters_are_listed_the_newest_first_with_what_chooses_among_them(
    topics: Topics, log: KafkaLog, tmp_path: Path
) -> None:
    await log.acquire_leadership("a broker")
    await log.append("dead-letters", NEW_GATEWAY)
    await log.close()
    first, second = await topics.bad(b"\x1b[31m{"), await topics.bad(None)
    signal = replace(first, topic=topics.layout.name("signals"), at=100.0)
    await topics.letter(signal)
    found = await listed(tmp_path)
    assert [(one["topic"], one["partition"], one["offset"], one["gateway_id"]) for one in found] == [
        ("signals", signal.partition, signal.offset, None),
        ("requests", second.partition, second.offset, None),
        ("requests", first.partition, first.offset, None),
        ("requests", None, None, "gw"),
    ]
    assert [one["number"] for one in found] == sorted((one["number"] for one in found), reverse=True)
    assert [one["at"] for one in await listed(tmp_path, "--topic", "signals")] == [100.0]
    assert [one["at"] for one in await listed(tmp_path, "--since", "1h")] == [second.at, first.at]
    assert len(await listed(tmp_path, "--limit", "1")) == 1
    shown = await to_thread(tidegate, "dead-letters", "list", "-n", "3", "--site", tmp_path / "site.yaml")
    assert shown.exit_code == Exit.OK
    assert "\x1b" not in shown.stdout
    for words in ("it was bad", r"\x1b[31m{", f"requests {first.partition}:{first.offset}", "Only the newest 3"):
        assert words in shown.stdout


async def test_what_can_be_read_by_now_goes_back_once_as_it_was_and_the_rest_is_left_and_told(
    topics: Topics, tmp_path: Path
) -> None:
    good = await topics.bad(READABLE)
    await topics.letter(good)  # found bad by two workers, one after the other
    await topics.bad(b"{")
    numbers = [one["number"] for one in await listed(tmp_path)][::-1]
    assert await retry(tmp_path, "--all", "--dry-run") == (
        Exit.FAILED, {numbers[0]: "would be put back", numbers[2]: "left"},
    )  # fmt: skip
    assert await retry(tmp_path, "--all") == (Exit.FAILED, {numbers[0]: "put back", numbers[2]: "left"})
    first, *_, again = [one for one in await topics.read("requests") if one.value == READABLE]
    assert (again.key, again.headers, again.partition) == (first.key, first.headers, first.partition)
    assert await retry(tmp_path, "--all") == (Exit.FAILED, {numbers[2]: "left"})
    assert await retry(tmp_path, str(numbers[0])) == (Exit.OK, {numbers[0]: "put back before"})
    assert [one.value for one in await topics.read("requests")].count(READABLE) == 2
    assert [one["retried_at"] is None for one in await listed(tmp_path)] == [True, False, False]


LEFT = {
    "still unreadable": (b"{", "not JSON"),
    "of another's key": (wire.dumps(replace(SUMMARY, model_id="code")).encode(), "its key is"),
    "without a value": (None, "it is empty"),
}


@pytest.mark.parametrize(("value", "words"), LEFT.values(), ids=LEFT.keys())
async def test_a_message_that_is_still_unreadable_is_left_with_the_reason(
    topics: Topics, tmp_path: Path, value: bytes | None, words: str
) -> None:
    await topics.bad(value)
    (number,) = [one["number"] for one in await listed(tmp_path)]
    result = await to_thread(tidegate, "dead-letters", "retry", str(number), "--site", tmp_path / "site.yaml")
    assert (result.exit_code, words in result.stdout, "1 left" in result.stdout) == (Exit.FAILED, True, True)
    assert len(await topics.read("requests")) == 1


async def test_what_lies_nowhere_any_more_is_left_with_the_reason(
    topics: Topics, log: KafkaLog, tmp_path: Path
) -> None:
    await log.acquire_leadership("a broker")
    await log.append("dead-letters", NEW_GATEWAY)
    await log.close()
    there = await topics.bad(READABLE)
    await topics.letter(replace(there, at=there.at - 1.0))  # of a topic that was deleted and made anew
    await topics.letter(replace(there, offset=there.offset + 7))
    await topics.letter(replace(there, partition=9))
    await topics.letter(replace(there, topic="elsewhere"))
    status, document = await to_thread(told, tmp_path, "dead-letters", "retry", "--all")
    gone = "the message is gone by now: Kafka keeps it for as long as the topic's retention.ms says"
    assert (status, [one["problem"] for one in document["letters"]]) == (
        Exit.FAILED,
        [
            "it came by HTTP, from gateway gw, and lies in no topic",
            *[gone] * 3,
            "it lies in elsewhere, which nobody reads for measurements",
            "",
        ],
    )
    assert await retry(tmp_path, "4711") == (Exit.FAILED, {4711: "left"})


async def test_of_two_who_put_back_at_once_the_later_goes_on(topics: Topics, tmp_path: Path) -> None:
    await topics.bad(READABLE)
    (number,) = [one["number"] for one in await listed(tmp_path)]
    first = letters_retried(
        topics.connection, topics.layout, [number, 4711], Wanted(), lambda *_: None, SystemClock().now, dry_run=False
    )
    assert (await anext(first)).number == 4711  # it has read all letters by now, and knows of no mark
    assert await retry(tmp_path, "--all") == (Exit.OK, {number: "put back"})
    with pytest.raises(LeadershipRefused, match="goes on in place of this one"):
        await anext(first)
    assert len(await topics.read("requests")) == 2


async def test_records_that_are_no_letters_are_counted_and_stop_nothing(topics: Topics, tmp_path: Path) -> None:
    for value in (b"{", b"[]", b'{"schema": "tidegate.lease/1", "data": {}}', None):
        await topics.send("dead-letters", value, b"somebody")
    await topics.bad(b"{")
    status, document = await to_thread(told, tmp_path, "dead-letters", "list")
    assert (status, len(document["letters"]), document["foreign"]) == (Exit.OK, 1, 4)
    assert (await retry(tmp_path, "--all"))[0] == Exit.FAILED
