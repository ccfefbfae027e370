"""Recorded steps, decided again: the proof that a decision followed from what was observed, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from broker.control.decide import Policies
from broker.control.step import StepResult, step
from broker.model.errors import LogError
from broker.model.ports import Checkpoint, Log, StepRecord
from broker.model.state import BrokerState


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


async def replay(log: Log, policies: Policies, *, start: Checkpoint | None = None) -> AsyncIterator[Replayed]:
    """Run every kept step again, from ``start`` or the oldest kept checkpoint (a whole log: from nothing).

    Raises ``LogError`` if steps are missing.
    """
    if start is None:
        first = await anext(log.steps(), None)
        if first is None:
            return
        start = Checkpoint(0, 0.0, BrokerState())
        if first.number > 1:
            start = await _checkpoint_before(log, first.number)
    state, number = start.state, start.number
    async for record in log.steps(after=start.number):
        if record.number != number + 1:
            raise LogError(f"step {number + 1} is missing from the log (the next one is {record.number})")
        result = step(state, record.observations, policies, record.now)
        yield Replayed(state, record, result)
        state, number = result.state, record.number


async def _checkpoint_before(log: Log, number: int) -> Checkpoint:
    async for checkpoint in log.checkpoints():
        if checkpoint.number >= number - 1:
            return checkpoint
    raise LogError(f"the log begins at step {number} and has no checkpoint to replay from")
