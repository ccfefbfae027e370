"""Between a written plan and the world: each effect is looked at once more, then handed to the runner.

Some time lies between the observation that led to an effect and the effect (a commit to disk, at least). What came
in meanwhile may speak against it: karpenter waits and validates for the same reason. The look is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker.model.observation import Observation, PauseChanged, PauseScope, PoolSnapshot, SpecChanged
from broker.model.plan import Effect, Launch
from broker.model.replica import ReplicaPhase
from broker.model.spec import Mode
from broker.model.state import BrokerState

Dispatch = Callable[[Effect], None]
"""Hands an effect to a runner and returns at once; the receipt comes back as an observation."""


def objection(state: BrokerState, newest: Sequence[Observation], effect: Effect) -> str | None:
    """Why ``effect`` must not happen now, given the state that asked for it and what was observed since. Pure."""
    record = state.replicas_of(effect.model_id).get(effect.replica_id)
    if record is None or record.generation != effect.generation:
        return "its replica is no longer on record"
    wanted = ReplicaPhase.REQUESTED if isinstance(effect, Launch) else ReplicaPhase.STOPPING
    if record.phase is not wanted:
        return f"its replica is {record.phase} now"
    for observation in newest:
        match observation:
            case PoolSnapshot(pool_id=pool_id, known=False) if pool_id == effect.pool_id and isinstance(effect, Launch):
                return f"{pool_id} cannot be listed any more"
            case PauseChanged(paused=True) if _covers(observation, effect.model_id, effect.pool_id):
                return f"paused by {observation.author}"
            case SpecChanged(site=site) if site.mode is Mode.OBSERVE:
                return "mode is observe now"
            case _:
                pass
    return None


def _covers(pause: PauseChanged, model_id: str, pool_id: str) -> bool:
    named = {PauseScope.MODEL: model_id, PauseScope.POOL: pool_id}.get(pause.scope)
    return pause.scope is PauseScope.ALL or pause.name == named


class Reconciler:
    """Hands effects to the runner, unless something newer objects; what is held back is tried again by the core."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def carry_out(
        self, state: BrokerState, newest: Sequence[Observation], effects: Sequence[Effect]
    ) -> list[tuple[Effect, str]]:
        """Returns the effects that were held back, with the objections."""
        held: list[tuple[Effect, str]] = []
        for effect in effects:
            problem = objection(state, newest, effect)
            if problem is None:
                self._dispatch(effect)
            else:
                held.append((effect, problem))
        return held
