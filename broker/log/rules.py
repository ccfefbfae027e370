"""What every implementation refuses, in the same words."""

from __future__ import annotations

from broker.model.errors import LeadershipRefused, LogDamaged
from broker.model.ports import Checkpoint, StepRecord


def not_leading() -> LeadershipRefused:
    return LeadershipRefused("only the leader writes to a log: call acquire_leadership first")


def require_next(record: StepRecord, *, epoch: int, last: int) -> None:
    """Raises unless ``record`` was decided by the present leader and follows step ``last`` without a gap."""
    if record.epoch != epoch:
        raise LeadershipRefused(
            f"step {record.number} was decided under epoch {record.epoch}, and this is {epoch}: load the state again"
        )
    if record.number != last + 1:
        raise LogDamaged(f"step {record.number} cannot follow step {last}: load the state again and go on from there")


def require_past(checkpoint: Checkpoint, last: int) -> None:
    """Raises for a checkpoint of a step that was never committed."""
    if checkpoint.number > last:
        raise LogDamaged(f"a checkpoint of step {checkpoint.number} cannot be kept, the last committed step is {last}")
