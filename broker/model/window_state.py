"""What workers and scrapers tell each other through topics: the settled past of a window, messages that nobody could
read, that one lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.signals import Signal


@dataclass(frozen=True, slots=True)
class LastGood:
    """The last usable value of a signal, and the tick at which it was."""

    value: float
    tick: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """Who should report from ``at`` on."""

    at: float
    replica_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WindowState:
    """What is settled of one model's window: with the samples that the log still has, all that a successor needs.

    ``settled_at``: no sample of that time or earlier can change anything any more; ``first_tick``: where ``values``
    begin, one for each second up to the last tick at or before ``settled_at``, as little-endian doubles, NaN where the
    signal was not usable, of the signals that policies look back on. ``last_good`` is of all signals. ``sequence`` is
    the next snapshot's.
    """

    model_id: str
    sequence: int
    settled_at: float
    first_tick: int
    values: Mapping[Signal, bytes] = field(default_factory=dict)
    last_good: Mapping[Signal, LastGood] = field(default_factory=dict)
    expected: tuple[Expectation, ...] = ()


SHOWN_CHARACTERS = 2_000
"""Of a message that nobody could read."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody could read, and where it lies: ``message`` is only its beginning. ``retried_at``: the time
    at which it was put back into its topic; only the later of its two letters has it."""

    topic: str
    partition: int
    offset: int
    at: float
    reason: str
    message: str = ""
    retried_at: float | None = None

    @classmethod
    def of(cls, topic: str, partition: int, offset: int, at: float, reason: str, value: bytes | None) -> DeadLetter:
        """With the beginning of what it carried."""
        beginning = (value or b"")[:SHOWN_CHARACTERS].decode("utf-8", "replace")
        return cls(topic, partition, offset, at, reason, beginning)


@dataclass(frozen=True, slots=True)
class ScraperBeat:
    """That this scraper lives and reads its share; each run of one has a name of its own."""

    name: str
