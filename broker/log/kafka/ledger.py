"""What a leader knows of its log without reading it: where it stands, and in which order the entities came.

Pure: what it is asked to write becomes messages here, checked and encoded before the first of them is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from broker.log.codec import step_to_text
from broker.log.kafka.messages import (
    NOBODY,
    Lease,
    Message,
    checkpoint_message,
    marker_message,
    outcome_messages,
    record_messages,
    step_messages,
)
from broker.log.rules import require_next, require_past
from broker.model.errors import LogError, WireError
from broker.model.ports import Checkpoint, StepRecord
from broker.model.replica import EndpointRecord
from broker.model.spec import JsonValue
from broker.model.state import EntityKey


@dataclass(slots=True)
class Ledger:
    """``arrivals``: the place of each entity in the order in which they came; the latest has ``arrived``."""

    lease: Lease = NOBODY
    arrivals: dict[EntityKey, int] = field(default_factory=dict)
    arrived: int = 0

    def copy(self) -> Ledger:
        return Ledger(self.lease, dict(self.arrivals), self.arrived)

    def step(self, record: StepRecord) -> list[Message]:
        """Raises ``LogDamaged``, ``LeadershipRefused`` or ``WireError``, and is unchanged then."""
        require_next(record, epoch=self.lease.epoch, last=self.lease.step)
        text = step_to_text(record)
        arrived = self.arrived
        places: dict[EntityKey, int] = {}
        for key, entity in record.changes.items():
            if entity is not None:
                known = self.arrivals.get(key)
                arrived += known is None
                places[key] = arrived if known is None else known
        messages = _encodable(list(step_messages(record, text, places)))
        for key, entity in record.changes.items():
            if entity is None:
                self.arrivals.pop(key, None)
        self.arrivals.update(places)
        self.arrived = arrived
        self.lease = replace(self.lease, step=record.number, now=record.now)
        return messages

    def begin_import(self) -> list[Message]:
        """Raises ``LogError`` where a broker has written: its log is never written over."""
        if self.lease.step:
            raise LogError(
                f"there are steps up to {self.lease.step} already, and nothing is written over: give the site another "
                "log.topic_prefix, or delete these topics while no broker runs, then `tidegate topics init`"
            )
        self.lease = replace(self.lease, importing=True)
        return [marker_message(self.lease.holder)]

    def as_it_was(self, messages: list[Message]) -> list[Message]:
        """Of steps that another log's leader decided."""
        return _encodable(messages)

    def end_import(self, last: Checkpoint, registry: Sequence[EndpointRecord], epoch: int) -> list[Message]:
        """The state that the next broker goes on from, in a term after ``epoch``."""
        epoch = max(epoch, self.lease.epoch)
        changes = last.state.entities()
        record = StepRecord(last.number, epoch, last.now, (), changes, registry=tuple(registry))
        places = {key: place for place, key in enumerate(changes, start=1)}
        messages = _encodable(list(outcome_messages(record, step_to_text(record), places)))
        self.arrivals, self.arrived = places, len(places)
        self.lease = replace(self.lease, epoch=epoch, step=last.number, now=last.now, importing=False)
        return messages

    def checkpoint(self, checkpoint: Checkpoint) -> list[Message]:
        require_past(checkpoint, self.lease.step)
        return _encodable([checkpoint_message(checkpoint, self.lease.epoch)])

    def records(self, topic: str, records: Sequence[JsonValue]) -> list[Message]:
        return _encodable(record_messages(topic, records, self.lease))


def _encodable(messages: list[Message]) -> list[Message]:
    """Raises ``WireError`` for a time that Kafka has no stamp for."""
    for message in messages:
        if not 0 <= message.at < 1e15:
            raise WireError(f"cannot be stored: its time is {message.at!r}")
    return messages
