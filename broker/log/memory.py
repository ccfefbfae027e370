"""A log that lives as long as its store object: for the simulator and for tests.

No method ever suspends, so that a driver without an event loop can run the same code as the production runtime.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from broker.log.rules import not_leading, require_next, require_past
from broker.model.errors import LeadershipRefused
from broker.model.plan import Decision
from broker.model.ports import Checkpoint, Epoch, StepRecord
from broker.model.replica import EndpointRecord, ReplicaPhase
from broker.model.spec import JsonValue
from broker.model.state import BrokerState, Entity, EntityKey


@dataclass(slots=True)
class MemoryStore:
    """What outlives a ``MemoryLog``, as a file outlives a process. ``records`` hold the step they came after.

    With ``keeps_steps`` false there is no history to replay: a simulated month would keep 10 GB of it for nobody.
    """

    keeps_steps: bool = True
    epoch: Epoch = field(default_factory=lambda: Epoch(0, ""))
    led: bool = False
    number: int = 0
    now: float = 0.0
    trimmed: int = 0
    entities: dict[EntityKey, Entity] = field(default_factory=dict)
    endpoints: dict[str, EndpointRecord] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    records: dict[str, list[tuple[int, JsonValue]]] = field(default_factory=lambda: defaultdict(list))


class MemoryLog:
    """The ``Log`` port over a ``MemoryStore``; logs that share a store are brokers that share a file."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._store = MemoryStore() if store is None else store
        self._epoch: Epoch | None = None

    def reader(self) -> MemoryLog:
        return MemoryLog(self._store)

    async def acquire_leadership(self, holder: str) -> Epoch:
        store = self._store
        if self._epoch is not None:
            return self._epoch
        if store.led:
            raise LeadershipRefused(f"this log in memory is led by {store.epoch.holder}: close that one first")
        store.led = True
        store.epoch = self._epoch = Epoch(store.epoch.number + 1, holder)
        return self._epoch

    def may_act(self) -> bool:
        return self._epoch is not None

    async def load(self) -> Checkpoint:
        store = self._store
        return Checkpoint(store.number, store.now, BrokerState().with_changes(store.entities))

    async def commit(self, record: StepRecord) -> None:
        store = self._leading()
        require_next(record, epoch=store.epoch.number, last=store.number)
        for key, entity in record.changes.items():
            if entity is None:
                store.entities.pop(key, None)
            else:
                store.entities[key] = entity
        for endpoint in record.registry:
            if endpoint.phase is ReplicaPhase.GONE:
                store.endpoints.pop(endpoint.endpoint_id, None)
            else:
                store.endpoints[endpoint.endpoint_id] = endpoint
        if store.keeps_steps:
            store.steps.append(record)
        store.number, store.now = record.number, record.now

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        store = self._leading()
        require_past(checkpoint, store.number)
        if not store.keeps_steps:
            store.checkpoints.clear()
        store.checkpoints[checkpoint.number] = checkpoint

    async def checkpoints(self) -> AsyncIterator[Checkpoint]:
        for number in sorted(self._store.checkpoints):
            yield self._store.checkpoints[number]

    async def checkpoint_before(self, now: float) -> Checkpoint | None:
        found = [kept for kept in self._store.checkpoints.values() if kept.now < now]
        return max(found, key=lambda kept: kept.number, default=None)

    async def steps(self, after: int = 0) -> AsyncIterator[StepRecord]:
        for record in self._store.steps[max(0, after - self._store.trimmed) :]:
            yield record

    async def decisions(self, model_id: str | None = None, *, since: float = 0.0, limit: int = 100) -> list[Decision]:
        found: list[Decision] = []
        for record in reversed(self._store.steps):
            for decision in reversed(record.decisions):
                if len(found) >= limit:
                    return found
                if decision.now >= since and model_id in (None, decision.model_id):
                    found.append(decision)
        return found

    async def endpoints(self) -> list[EndpointRecord]:
        """The registry after the last step, by endpoint id, tombstones left out."""
        return [self._store.endpoints[key] for key in sorted(self._store.endpoints)]

    async def append(self, topic: str, records: Sequence[JsonValue]) -> None:
        store = self._leading()
        store.records[topic].extend((store.number, record) for record in records)

    async def records(self, topic: str) -> AsyncIterator[JsonValue]:
        for _, record in tuple(self._store.records.get(topic, ())):
            yield record

    async def trim(self, before: float) -> None:
        store = self._leading()
        older = max((record.number for record in store.steps if record.now < before), default=0)
        for topic, records in store.records.items():
            store.records[topic] = [(step, record) for step, record in records if step >= older]
        base = max((number for number, kept in store.checkpoints.items() if kept.now < before), default=0)
        store.checkpoints = {number: kept for number, kept in store.checkpoints.items() if number >= base}
        store.steps = [record for record in store.steps if record.number > base]
        store.trimmed = max(store.trimmed, base)

    async def close(self) -> None:
        if self._epoch is not None:
            self._epoch = None
            self._store.led = False

    def _leading(self) -> MemoryStore:
        if self._epoch is None:
            raise not_leading()
        return self._store
