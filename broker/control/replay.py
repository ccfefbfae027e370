"""Recorded steps, decided again: the proof that a decision followed from what was observed, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.control.decide import Policies
from broker.control.step import StepResult, step
from broker.model import wire
from broker.model.errors import LogError
from broker.model.plan import Decision, Effect
from broker.model.ports import Checkpoint, Log, StepRecord
from broker.model.replica import EndpointRecord
from broker.model.state import BrokerState, Changes, Entity

_LONGEST = 200
"""Characters of a value that is shown to differ."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One recorded step beside its replay. ``before`` is the state it started from."""

    before: BrokerState
    record: StepRecord
    result: StepResult

    @property
    def same(self) -> bool:
        """Whether the replay decided and changed exactly what was recorded."""
        plan = self.result.plan
        return (plan.decisions, plan.effects, plan.registry, dict(self.result.changes)) == (
            self.record.decisions,
            self.record.effects,
            self.record.registry,
            dict(self.record.changes),
        )

    def differences(self) -> Iterator[str]:
        """What the replay made otherwise, a line for each value; none where only an order differs."""
        record, plan = self.record, self.result.plan
        recorded = _by_name(record.decisions, record.effects, record.registry, record.changes)
        replayed = _by_name(plan.decisions, plan.effects, plan.registry, self.result.changes)
        for name in sorted(recorded.keys() | replayed.keys()):
            yield from _unlike(name, recorded.get(name), replayed.get(name))


async def replay(log: Log, policies: Policies, *, start: Checkpoint | None = None) -> AsyncIterator[Replayed]:
    """Run every kept step again, from ``start`` or the oldest kept checkpoint (a whole log: from nothing).

    Raises ``LogError`` if steps are missing.
    """
    if start is None:
        start = await beginning(log)
    state, number = start.state, start.number
    async for record in log.steps(after=start.number):
        if record.number != number + 1:
            raise LogError(f"step {number + 1} is missing from the log (the next one is {record.number})")
        result = step(state, record.observations, policies, record.now)
        yield Replayed(state, record, result)
        state, number = result.state, record.number


def _by_name(
    decisions: Sequence[Decision], effects: Sequence[Effect], registry: Sequence[EndpointRecord], changes: Changes
) -> dict[str, Any]:
    return (
        {f"decision on {decision.model_id}": wire.encode(decision) for decision in decisions}
        | {f"effect {effect.action_id}": wire.encode(effect, Effect) for effect in effects}
        | {f"endpoint {endpoint.endpoint_id}": wire.encode(endpoint) for endpoint in registry}
        | {
            f"state of {kind} {key}".rstrip(): wire.encode(entity, Entity | None)
            for (kind, key), entity in changes.items()
        }
    )


def _unlike(path: str, recorded: Any, replayed: Any) -> Iterator[str]:
    """Down to the values that differ; what one side has not is ``null`` there."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        for name in sorted(recorded.keys() | replayed.keys()):
            yield from _unlike(f"{path}, {name}", recorded.get(name), replayed.get(name))
    elif recorded != replayed:
        yield f"{path}: recorded {_shown(recorded)}, replayed {_shown(replayed)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


async def beginning(log: Log) -> Checkpoint:
    """Where a replay of all that is kept begins: from nothing, or at the oldest checkpoint that kept steps follow.

    Raises ``LogError`` if steps are missing.
    """
    first = await anext(log.steps(), None)
    if first is None:
        return await log.load()
    if first.number == 1:
        return Checkpoint(0, 0.0, BrokerState())
    async for checkpoint in log.checkpoints():
        if checkpoint.number >= first.number - 1:
            return checkpoint
    raise LogError(f"the log begins at step {first.number} and has no checkpoint to replay from")
