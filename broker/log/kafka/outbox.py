"""What processes write to topics beside the leader's transactions: a bounded buffer, and what of it may be dropped.

While Kafka is away, what was given is kept, and written afterwards, what came first first. Beyond the bound old
measurements are dropped, and counted: they would come too late anyway. News of which only the newest matters (what a
gateway has applied and has open, the end of its session) take one place for each key, and are never dropped. What may
have been written before its answer was lost is written again: readers know a message by what it says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from broker.log.kafka.client import Connection, look_at, started, translated
from broker.log.kafka.retrying import retried
from broker.log.kafka.topics import Layout
from broker.model import wire
from broker.model.errors import LogError, MessageTooLarge, WireError
from broker.model.signals import MetricSample, RequestSummary

logger = structlog.get_logger("broker")

MEASUREMENTS_KEPT = 50_000
"""The newest, some 50 MB."""
_WRITTEN_AT_ONCE = 1_000
_WRITTEN_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class News:
    """The newest word on ``key``; ``text`` None is a tombstone."""

    topic: str
    key: str
    text: str | None


Post = MetricSample | RequestSummary | News
Failure = LogError | WireError
_NEVER_WRITTEN = (MessageTooLarge, WireError)


class Outbox:
    """``send`` and ``tell`` never wait; ``run`` writes what they were given. ``kept``: how many measurements may wait;
    ``dropped`` counts those that were given up."""

    def __init__(self, connection: Connection, layout: Layout, kept: int = MEASUREMENTS_KEPT) -> None:
        self.dropped = 0
        self._connection = connection
        self._layout = layout
        self._kept = kept
        self._measurements: deque[MetricSample | RequestSummary] = deque()
        self._news: dict[tuple[str, str], News] = {}
        self._under_way: Sequence[Post] = ()
        self._more = asyncio.Event()
        self._all_written = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Measurements that Kafka has not confirmed yet."""
        return len(self._measurements) + sum(not isinstance(post, News) for post in self._under_way)

    def send(self, sample: MetricSample | RequestSummary) -> None:
        self._measurements.append(sample)
        self._keep_to_bound()
        self._more.set()

    def tell(self, news: News) -> None:
        """In place of what waits of the same key, and before all measurements."""
        self._news[news.topic, news.key] = news
        self._more.set()

    async def run(self) -> None:
        """For ever."""
        await retried("outbox_not_written", self._write_all)

    async def close(self, within_s: float) -> bool:
        """Once nobody runs it any more: write what is left; whether that was done in time."""
        self._all_written.clear()
        writing = asyncio.create_task(self.run())
        try:
            async with asyncio.timeout(within_s):
                await self._all_written.wait()
        except TimeoutError:
            return False
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        return True

    async def _write_all(self) -> None:
        # Idempotent: what is behind a message of the same partition is not written before it.
        producer = self._connection.producer(enable_idempotence=True, max_request_size=self._layout.message_bytes)
        async with started(self._connection, producer):
            while True:
                self._more.clear()
                while self._news or self._measurements:
                    await self._write_some(producer)
                self._all_written.set()
                await self._more.wait()

    async def _write_some(self, producer: Any) -> None:
        """Raises ``LogError`` if some of it could not be written; that waits again then."""
        posts = left = self._under_way = self._taken()
        try:
            errors = await self._errors(producer, posts)
            left = [post for post, error in zip(posts, errors, strict=True) if _is_for_later(error)]
        finally:
            self._under_way = ()
            self._put_back(left)
        for post, error in zip(posts, errors, strict=True):
            if isinstance(error, _NEVER_WRITTEN):
                self._give_up(post, error)
        for error in errors:
            if error is not None and _is_for_later(error):
                raise error

    async def _errors(self, producer: Any, posts: Sequence[Post]) -> list[Failure | None]:
        """Why each was not written, None where it was. Behind one that cannot be given to Kafka now none is tried."""
        given: list[asyncio.Future[Any]] = []
        for post in posts:
            try:
                topic, key, value = _message(post)
                with translated(self._connection):
                    given.append(await producer.send(self._layout.name(topic), value, key))
            except (LogError, WireError) as error:
                given.append(asyncio.get_running_loop().create_future())
                given[-1].set_exception(error)
                if _is_for_later(error):
                    break
        for future in given:
            future.add_done_callback(look_at)
        await asyncio.wait(given, timeout=_WRITTEN_WITHIN_S)
        errors = [self._error(future) for future in given]
        return errors + [errors[-1]] * (len(posts) - len(errors))

    def _error(self, given: asyncio.Future[Any]) -> Failure | None:
        try:
            with translated(self._connection):
                if not given.done():
                    raise TimeoutError(f"not confirmed within {_WRITTEN_WITHIN_S:g} s")
                given.result()
        except (LogError, WireError) as error:
            return error
        return None

    def _give_up(self, post: Post, error: Failure) -> None:
        """It would keep all that comes after it waiting for ever."""
        logger.warning("message_given_up", topic=self._layout.name(_topic(post)), problem=str(error))
        self.dropped += not isinstance(post, News)

    def _taken(self) -> Sequence[Post]:
        news, self._news = list(self._news.values()), {}
        count = min(len(self._measurements), _WRITTEN_AT_ONCE)
        return [*news, *(self._measurements.popleft() for _ in range(count))]

    def _put_back(self, posts: Sequence[Post]) -> None:
        """Where they were: news only if nothing newer was told meanwhile."""
        for post in reversed(posts):
            if isinstance(post, News):
                self._news.setdefault((post.topic, post.key), post)
            else:
                self._measurements.appendleft(post)
        self._keep_to_bound()

    def _keep_to_bound(self) -> None:
        while len(self._measurements) > self._kept:
            self._measurements.popleft()
            self.dropped += 1


def _topic(post: Post) -> str:
    if isinstance(post, News):
        return post.topic
    return "signals" if isinstance(post, MetricSample) else "requests"


def _message(post: Post) -> tuple[str, bytes, bytes | None]:
    """Topic, key and value. Raises ``WireError`` for what JSON cannot hold."""
    if isinstance(post, News):
        return _topic(post), post.key.encode(), None if post.text is None else post.text.encode()
    return _topic(post), post.model_id.encode(), wire.dumps(post).encode()


def _is_for_later(error: Failure | None) -> bool:
    return error is not None and not isinstance(error, _NEVER_WRITTEN)
