"""The dead letters of a site: what could not be read, and what of it is put back where it came from.

A message is put back in one transaction with the mark that says so, so that it never is twice: whoever begins to put
back deposes whoever is at it, and sees all marks that were written before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from broker.log.kafka.client import Connection, abandon, cause_of, look_at, start, stop, translated
from broker.log.kafka.messages import Found, record_from, timestamp_ms
from broker.log.kafka.reader import Reader
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import LeadershipRefused, WireError
from broker.model.window_state import DeadLetter

DEAD_LETTERS = "dead-letters"
SOURCES = ("signals", "requests")
"""The topics that a message may be put back to."""
ORIGINS = (*SOURCES, "gateway-sessions")
"""Topics whose messages may end as letters. What a gateway said of itself is out of date by then, and stays one."""

_AT_ONCE = 100
"""Letters in one transaction."""
_GIVEN_UP_AFTER_MS = 10_000
"""By Kafka, should we be killed amid a transaction: until then it holds up who reads behind it."""

Place = tuple[str, int | None, int | None, float]
"""Which message: topic, partition, offset, and its time, as a topic that was made anew counts from 0 again."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter. ``number`` is its offset among them; ``topic`` is without the site's prefix. ``partition`` and
    ``offset`` say where the message lies, None for one that came by HTTP from ``gateway_id``; ``message`` is its
    beginning. ``retried_at``: when the message was put back."""

    number: int
    at: float
    topic: str
    reason: str
    message: str
    partition: int | None = None
    offset: int | None = None
    gateway_id: str | None = None
    retried_at: float | None = None

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.offset, self.at


@dataclass(slots=True)
class Listed:
    """The newest letters first. ``more``: there are older ones. ``foreign``: how many records are no letters."""

    letters: list[Letter] = field(default_factory=list)
    more: bool = False
    foreign: int = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """What came of the letter of this number. ``problem`` says why its message was not put back; ``before``: it had
    been already."""

    number: int
    letter: Letter | None
    problem: str = ""
    before: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant: of one topic, unless that is empty, and not older than ``since``."""

    topic: str = ""
    since: float = 0.0

    def has(self, letter: Letter) -> bool:
        return letter.at >= self.since and self.topic in ("", letter.topic)


async def listed(connection: Connection, layout: Layout, wanted: Wanted, limit: int) -> Listed:
    """Changes nothing. Raises ``LogError``."""
    found, put_back = Listed(), dict[Place, float]()
    async with _opened(connection, layout) as reader:
        first = await reader.since(DEAD_LETTERS, timestamp_ms(wanted.since))
        async for record in reader.backwards(DEAD_LETTERS):  # that a message was put back is told before its letter
            if first is None or record.offset < first or found.more:
                break
            letter = letter_from(record, layout)
            if letter is None:
                found.foreign += 1
            elif letter.retried_at is not None:
                put_back[letter.place] = letter.retried_at
            elif wanted.has(letter):
                found.more = len(found.letters) == limit
                if not found.more:
                    found.letters.append(replace(letter, retried_at=put_back.get(letter.place)))
    return found


async def letters_retried(
    connection: Connection, layout: Layout, numbers: Collection[int], wanted: Wanted,
    read: Callable[[str, Found], object], now: Callable[[], float], *, dry_run: bool,
) -> AsyncIterator[Retry]:  # fmt: skip
    """Put back what can be read: the letters of these ``numbers``, or without any, all that wait and are ``wanted``.
    ``read`` raises ``WireError`` for a message of a topic that nobody can read yet.

    Raises ``LeadershipRefused`` if another has begun to do so meanwhile, and ``LogError``. What was not told by then
    may have been done too: it bears the mark if so, and is left alone the next time.
    """
    async with _opened(connection, layout) as reader, _producer(connection, layout, dry_run) as producer:
        letters, put_back = await _read_all(reader, layout, numbers, wanted)
        for number in sorted(set(numbers) - letters.keys()):
            yield Retry(number, None, "there is no such letter: `tidegate dead-letters list` tells their numbers")
        batch: list[tuple[Letter, Found]] = []
        for letter in letters.values():
            if letter.place in put_back:
                if numbers:
                    yield Retry(letter.number, letter, before=True)
                continue
            try:
                found = await _message(reader, letter)
                read(letter.topic, found)
            except WireError as error:
                yield Retry(letter.number, letter, str(error))
                continue
            put_back.add(letter.place)  # more than one reader may have found it bad
            batch.append((letter, found))
            if len(batch) == _AT_ONCE:
                for done in await _put_back(connection, layout, producer, batch, now()):
                    yield done
                batch = []
        for done in await _put_back(connection, layout, producer, batch, now()):
            yield done


def letter_from(record: Found, layout: Layout) -> Letter | None:
    """None for what is no letter."""
    try:
        told = record_from(record)
        if isinstance(told, dict) and "schema" in told:
            told = wire.encode(wire.unwrapped(DeadLetter, told))
        if not isinstance(told, dict):
            return None
        letter: Letter = wire.decode(Letter, told | {"number": record.offset})
    except WireError:
        return None
    return replace(letter, topic=letter.topic.removeprefix(f"{layout.prefix}."))


@asynccontextmanager
async def _opened(connection: Connection, layout: Layout) -> AsyncIterator[Reader]:
    reader = Reader(connection, layout)
    try:
        yield reader
    finally:
        await reader.close()


@asynccontextmanager
async def _producer(connection: Connection, layout: Layout, dry_run: bool) -> AsyncIterator[Any]:
    """One that deposes every earlier one; None where nothing is to be written."""
    if dry_run:
        yield None
        return
    producer = connection.producer(
        transactional_id=f"{layout.prefix}.{DEAD_LETTERS}", transaction_timeout_ms=_GIVEN_UP_AFTER_MS,
        max_request_size=layout.message_bytes,
    )  # fmt: skip
    await start(connection, producer)
    try:
        yield producer
    except BaseException:
        await abandon(producer)
        raise
    await stop(producer)


async def _read_all(
    reader: Reader, layout: Layout, numbers: Collection[int], wanted: Wanted
) -> tuple[dict[int, Letter], set[Place]]:
    """The letters that are meant, and what was put back by now."""
    letters, put_back = dict[int, Letter](), set[Place]()
    async for record in reader.forwards(DEAD_LETTERS):
        letter = letter_from(record, layout)
        if letter is not None and letter.retried_at is not None:
            put_back.add(letter.place)
        elif letter is not None and (letter.number in numbers if numbers else wanted.has(letter)):
            letters[letter.number] = letter
    return letters, put_back


async def _message(reader: Reader, letter: Letter) -> Found:
    """Raises ``WireError`` where there is none to be put back, and ``LogError``."""
    if letter.partition is None or letter.offset is None:
        raise WireError(f"it came by HTTP, from gateway {letter.gateway_id}, and lies in no topic")
    if letter.topic not in SOURCES:
        raise WireError(f"it lies in {letter.topic}, which nobody reads for measurements")
    found, place = None, (letter.topic, letter.partition)
    exists = 0 <= letter.partition < await reader.partitions(letter.topic)
    if exists and 0 <= letter.offset < await reader.end(*place):
        found = await anext(reader.forwards(*place, letter.offset, letter.offset + 1), None)
    if found is None or found.at_ms / 1e3 != letter.at:
        raise WireError("the message is gone by now: Kafka keeps it for as long as the topic's retention.ms says")
    return found


async def _put_back(
    connection: Connection, layout: Layout, producer: Any, batch: Sequence[tuple[Letter, Found]], at: float
) -> list[Retry]:
    """All of ``batch`` or nothing."""
    if producer is not None and batch:
        try:
            with translated(connection):
                await _in_one_transaction(layout, producer, batch, at)
        except LeadershipRefused:
            raise LeadershipRefused(
                "another `tidegate dead-letters retry` has begun on this log: it goes on in place of this one"
            ) from None
    return [Retry(letter.number, letter) for letter, _ in batch]


async def _in_one_transaction(layout: Layout, producer: Any, batch: Sequence[tuple[Letter, Found]], at: float) -> None:
    try:
        async with producer.transaction():
            # Whoever was deposed is told so by the commit; Python would complain of what else knows of it.
            producer._txn_manager.wait_for_transaction_end().add_done_callback(look_at)
            for letter, found in batch:
                headers = [(name, word.encode()) for name, word in found.headers.items()]
                name = layout.name(letter.topic)
                back = await producer.send(name, found.value, key=found.key, headers=headers)
                mark = await producer.send(layout.name(DEAD_LETTERS), _mark(letter, layout, at), partition=0)
                for sent in (back, mark):
                    sent.add_done_callback(look_at)
    except BaseException as error:
        raise cause_of(producer, error) from None


def _mark(letter: Letter, layout: Layout, at: float) -> bytes:
    """The letter once more, with the time at which its message was put back."""
    place = (layout.name(letter.topic), letter.partition or 0, letter.offset or 0, letter.at)
    return wire.dumps(DeadLetter(*place, letter.reason, retried_at=at)).encode()
