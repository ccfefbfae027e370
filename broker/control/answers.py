"""What a pool's answers and errors mean to the core: the same words in production and in simulation."""

from __future__ import annotations

from collections.abc import Mapping

from actuators.base import Actuator
from broker.model.errors import ActionRejected, CapacityUnavailable, TransientError
from broker.model.observation import Outcome, PoolSnapshot, Receipt
from broker.model.plan import Effect

RETRY_AFTER_S = 1.0
"""Asked for where nothing better is known; the core lengthens it from attempt to attempt."""


def actuator_of(actuators: Mapping[str, Actuator], effect: Effect) -> Actuator:
    """The actuator of the effect's pool. Raises ``ActionRejected`` if there is none here."""
    actuator = actuators.get(effect.pool_id)
    if actuator is None:
        known = ", ".join(sorted(actuators)) or "none"
        raise ActionRejected(f"pool {effect.pool_id} has no actuator here (known: {known})")
    return actuator


def foreseen(error: BaseException) -> bool:
    """Whether it is one of the errors that an actuator's contract names; any other is a fault to be logged."""
    return isinstance(error, TransientError | CapacityUnavailable | ActionRejected)


def refusal(effect: Effect, error: BaseException, now: float) -> Receipt:
    """The receipt that an error stands for. An unforeseen one may pass, so the effect is tried again: repeating it is
    harmless by its ``action_id``."""
    outcome, retry_after_s, detail = Outcome.TRANSIENT, RETRY_AFTER_S, str(error)
    if isinstance(error, TransientError):
        retry_after_s = error.retry_after_s
    elif isinstance(error, CapacityUnavailable):
        outcome, retry_after_s = Outcome.NO_CAPACITY, 0.0
    elif isinstance(error, ActionRejected):
        outcome, retry_after_s = Outcome.REJECTED, 0.0
    else:
        detail = in_words(error)
    return Receipt(
        effect.action_id, effect.replica_id, effect.model_id, outcome, now, now, retry_after_s, detail=detail
    )


def unknown_listing(pool_id: str, problem: str, now: float) -> PoolSnapshot:
    """A listing that failed: it says nothing of what is there."""
    return PoolSnapshot(pool_id, now, now, known=False, error=problem)


def in_words(error: BaseException) -> str:
    """An unforeseen error for the operator: its name, and its text if it has one."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
