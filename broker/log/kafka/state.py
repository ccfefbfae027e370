"""The state as the compacted topic has it: the latest of each entity, and a lease that says which step they are of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from broker.log.codec import entity_from_text
from broker.log.kafka.ledger import Ledger
from broker.log.kafka.messages import LEASE_KEY, NOBODY, Found, Lease, entity_key_from, lease_from
from broker.log.kafka.reader import Reader
from broker.model.ports import Checkpoint
from broker.model.state import BrokerState, EntityKey


@dataclass(slots=True)
class Rebuilt:
    """The topic read to its end: entities by key, each with its place in the order of arrival."""

    lease: Lease = NOBODY
    found: dict[EntityKey, Found] = field(default_factory=dict)
    messages: int = 0
    size_bytes: int = 0

    def ledger(self) -> Ledger:
        arrivals = {key: int(found.headers["arrival"]) for key, found in self.found.items()}
        return Ledger(self.lease, arrivals, max(arrivals.values(), default=0))

    def checkpoint(self) -> Checkpoint:
        """Raises ``LogDamaged``."""
        in_order = sorted(self.found.items(), key=lambda entry: int(entry[1].headers["arrival"]))
        entities = {key: found.decoded("entity", entity_from_text) for key, found in in_order}
        return Checkpoint(self.lease.step, self.lease.now, BrokerState().with_changes(entities))


async def rebuild(reader: Reader, *, end: int | None = None, least_end: int = 0) -> tuple[Rebuilt, Checkpoint]:
    """All of the state, after the last whole transaction. ``end``, ``least_end`` as for ``Reader.forwards``."""
    rebuilt = Rebuilt()
    unsettled: list[Found] = []
    async for found in reader.forwards("state", end=end, least_end=least_end):
        rebuilt.messages += 1
        rebuilt.size_bytes += len(found.value or b"")
        if found.key == LEASE_KEY:
            _settle(rebuilt, unsettled)
            unsettled, rebuilt.lease = [], lease_from(found)
        else:
            unsettled.append(found)
    return rebuilt, await asyncio.to_thread(rebuilt.checkpoint)


def _settle(rebuilt: Rebuilt, unsettled: list[Found]) -> None:
    for found in unsettled:
        key = entity_key_from(found.key or b"")
        if found.value is None:
            rebuilt.found.pop(key, None)
        else:
            rebuilt.found[key] = found


async def newest_lease(reader: Reader, topic: str, *, end: int | None = None) -> Lease:
    """The last one of ``state`` or ``lease``; that of nobody in a new log."""
    async for found in reader.backwards(topic, end=end):
        if found.key == LEASE_KEY:
            return lease_from(found)
    return NOBODY
