"""What the core needs from the world: a durable log, a clock, something that carries out effects.

Methods are coroutines so that a database or a broker can stand behind them; the in-memory implementations never
suspend, which lets the simulator drive the same code without an event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.model.making import quickly_made
from broker.model.observation import Observation, Receipt
from broker.model.plan import Decision, Effect
from broker.model.replica import EndpointRecord
from broker.model.spec import JsonValue
from broker.model.state import BrokerState, Changes


class Clock(Protocol):
    """Time for shells. Pure code gets ``now`` as an argument instead."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for ages of leases."""
        ...

    async def sleep_until(self, when: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Epoch:
    """One term of leadership; a later leader has a higher ``number``. ``holder`` says who, for messages."""

    number: int
    holder: str


@quickly_made
@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step, whole: what it consumed and what it made. Written in one transaction, or not at all.

    ``number`` counts steps over the log's whole life. ``changes`` are the state's changed entities, ``registry``
    the endpoint records that changed. ``decisions`` are those worth telling (something differs from the last).
    """

    number: int
    epoch: int
    now: float
    observations: tuple[Observation, ...]
    changes: Changes
    decisions: tuple[Decision, ...] = ()
    effects: tuple[Effect, ...] = ()
    registry: tuple[EndpointRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The whole state after step ``number``: where a replay may begin."""

    number: int
    now: float
    state: BrokerState


class Log(Protocol):
    """The durable memory. One leader at a time writes; anyone may read.

    Raises ``LogError`` (``LeadershipRefused``, ``SchemaTooNew``, ``LogDamaged``) with words for the operator.
    """

    def reader(self) -> Log:
        """Another one of the same memory, which leads nothing: an event loop needs one of its own."""
        ...

    async def acquire_leadership(self, holder: str) -> Epoch:
        """Become the only writer, or raise ``LeadershipRefused`` naming who is."""
        ...

    def may_act(self) -> bool:
        """Whether this broker leads for certain, so that it may touch a pool: asked right before each effect."""
        ...

    async def load(self) -> Checkpoint:
        """The state after the last committed step; an empty one at number 0 for a new log."""
        ...

    async def commit(self, record: StepRecord) -> None:
        """Write one step. When this returns, it survives a power cut. Numbers must follow without a gap."""
        ...

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep a full state to replay from."""
        ...

    def checkpoints(self) -> AsyncIterator[Checkpoint]:
        """All kept checkpoints, oldest first."""
        ...

    async def checkpoint_before(self, now: float) -> Checkpoint | None:
        """The newest kept checkpoint of a time before ``now``; the others are not read."""
        ...

    def steps(self, after: int = 0) -> AsyncIterator[StepRecord]:
        """Committed steps with a number above ``after``, in order."""
        ...

    async def decisions(self, model_id: str | None = None, *, since: float = 0.0, limit: int = 100) -> list[Decision]:
        """The newest ``limit`` decisions, newest first."""
        ...

    async def endpoints(self) -> list[EndpointRecord]:
        """The registry after the last step, by endpoint id, tombstones left out."""
        ...

    async def append(self, topic: str, records: Sequence[JsonValue]) -> None:
        """Add records to a topic outside the steps (``signals``, ``requests``, ``usage``, ``dead-letters``)."""
        ...

    def records(self, topic: str) -> AsyncIterator[JsonValue]: ...

    async def trim(self, before: float) -> None:
        """Forget steps, decisions and records older than ``before``, but nothing that the newest checkpoint older
        than that needs for a replay."""
        ...

    async def close(self) -> None: ...


class Runner(Protocol):
    """Carries out effects, each under its time-out, a bounded number at once."""

    async def execute(self, effect: Effect) -> Receipt:
        """The pool's answer; foreign errors become a receipt, never an exception."""
        ...
