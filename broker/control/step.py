"""One step of the broker: a pure function of its state and of what was observed.

``step(state, observations, policies, now)`` absorbs the observations, lets time act on the replicas of the models
concerned, decides those models anew, and returns what changed, the plan, and when to look again. It has no clock, no
I/O and no logging; production and the simulator call this same function.

Limits and specifications come from the state (a ``SpecChanged`` observation put them there), so a log replays
without any file. Only models that something happened to, or whose time has come, are decided: the work is
proportional to what changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.control import lifecycle
from broker.control.absorb import absorb
from broker.control.decide import Policies, decide
from broker.control.draft import Draft, PolicyFault
from broker.model.making import copy_with, quickly_made
from broker.model.observation import Observation
from broker.model.plan import Decision, Plan
from broker.model.replica import ReplicaPhase
from broker.model.state import BrokerState, Changes


@quickly_made
@dataclass(frozen=True, slots=True)
class StepResult:
    """``changes`` are the changed entities, ``state`` the state with them, ``wake_at`` when time alone will act.
    ``faults``: the policies that raised."""

    changes: Changes
    plan: Plan
    wake_at: float | None
    state: BrokerState
    faults: tuple[PolicyFault, ...] = ()


def step(state: BrokerState, observations: Sequence[Observation], policies: Policies, now: float) -> StepResult:
    """Decide. Pure and deterministic: equal arguments give equal results, byte for byte on the wire.

    A clock that went back does not move the broker back: ``now`` is never less than the last one.
    """
    now = max(now, state.control.last_now)
    draft = Draft(state, now)
    absorb(draft, observations)
    _drop_dead_gateways(draft)
    draft.dirty.update([m.model_id for m in draft.models.values() if m.wake_at is not None and m.wake_at <= now])
    decisions: list[Decision] = []
    for model_id in sorted(draft.dirty & draft.models.keys()):
        decision = _advance_and_decide(draft, model_id, policies)
        if decision is not None:
            decisions.append(decision)
    changes = draft.changes(state)
    wake_at = min([m.wake_at for m in draft.models.values() if m.wake_at is not None], default=None)
    plan = Plan(now, tuple(draft.actions), tuple(decisions), tuple(draft.rehearsals))
    return StepResult(changes, plan, wake_at, state.with_changes(changes), tuple(draft.faults))


def _advance_and_decide(draft: Draft, model_id: str, policies: Policies) -> Decision | None:
    if draft.control.site is None:
        return None
    unsettled = lifecycle.advance(draft, model_id)
    decision = decide(draft, model_id, policies)
    model = draft.models.get(model_id)
    if model is None:
        return decision
    if not unsettled and not model.draining and not draft.has_own(model_id):
        return decision  # nearly always: all serve, as before
    lifecycle.repeat_launches(draft, model_id)
    # Asked after deciding, which may have begun drains and stops.
    timed = lifecycle.timed(draft, model_id)
    deadlines = [at for record in timed for at in lifecycle.deadlines(draft, record)]
    wake = min(deadlines if model.wake_at is None else [*deadlines, model.wake_at], default=None)
    draining = any(record.phase is ReplicaPhase.DRAINING for record in timed)
    if (wake, draining) != (model.wake_at, model.draining):
        draft.put_model(copy_with(model, wake_at=wake, draining=draining))
    return decision


def _drop_dead_gateways(draft: Draft) -> None:
    """A session that was silent for the time-out has ended; drains no longer wait for it."""
    for gateway in draft.silent_gateways():
        draft.drop_gateway(gateway.key)
        draft.dirty.update(model_id for model_id, model in draft.models.items() if model.draining)
