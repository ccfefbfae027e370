"""What must hold after every step, by the numbers of the architecture's list ("What must always hold").

``check_plan`` looks only at what a step planned, so that a step that planned nothing costs nothing; ``check_step``
looks at everything. Both raise ``InvariantViolated``. Pure, like ``step`` itself: the unit tests of the core, every
simulated run and the replay of a saved one ask the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.control.step import StepResult
from broker.model.errors import InvariantViolated
from broker.model.observation import Observation, Override, PauseChanged, PauseScope, SpecChanged
from broker.model.plan import Effect, Launch, Plan, Stop
from broker.model.replica import ENDED, ON_ITS_WAY, Replica, ReplicaPhase
from broker.model.spec import Mode, SiteSpec
from broker.model.state import BrokerState, ModelState


@dataclass(slots=True)
class LaunchHistory:
    """Every launch that was ever planned: one name means one replica, and a generation never repeats (invariant 4)."""

    _launched: dict[str, Launch] = field(default_factory=dict)
    _generations: dict[str, set[int]] = field(default_factory=dict)

    def check(self, before: BrokerState, plan: Plan) -> None:
        """Raises ``InvariantViolated``. To be told of every plan, in order."""
        for launch in plan.effects:
            if not isinstance(launch, Launch):
                continue
            first = self._launched.setdefault(launch.action_id, launch)
            same = (first.replica_id, first.pool_id) == (launch.replica_id, launch.pool_id)
            _require(4, same, f"{launch.action_id} names {first.replica_id} and {launch.replica_id}")
            if first is launch:
                used = self._generations.setdefault(launch.model_id, set())
                if launch.model_id not in before.models:
                    used.clear()  # a model that was forgotten and came back counts anew
                again = launch.generation in used
                _require(4, not again, f"generation {launch.generation} of {launch.model_id} is used again")
                used.add(launch.generation)


def check_plan(plan: Plan, state: BrokerState) -> None:
    """``state`` is that after the step. Raises ``InvariantViolated``."""
    site = state.control.site
    if site is None or not (plan.actions or plan.decisions):
        return
    effects = plan.effects
    if effects:
        _effects_hold(plan.now, effects, site, state)
        _room_holds(plan.now, effects, site, state)
    for decision in plan.decisions:
        model = state.models.get(decision.model_id)
        if model is not None and not model.retired:
            _target_holds(model, state)
    for record in plan.registry:
        kept = state.replicas_of(record.model_id).get(record.endpoint_id)
        if record.phase is ReplicaPhase.GONE:
            over = kept is not None and (kept.phase in ENDED or kept.stop_mode is not None)
            _require(1, over, f"{record.endpoint_id} has a tombstone before its exit")
        elif record.phase is ReplicaPhase.READY:
            _require(5, bool(record.url), f"{record.endpoint_id} is published without an address")


def check_step(before: BrokerState, observations: Sequence[Observation], result: StepResult) -> None:
    """All of it, for a step from ``before``. Raises ``InvariantViolated``."""
    plan, state = result.plan, result.state
    _require(8, plan.now >= before.control.last_now, f"time goes back to {plan.now}")
    woken_late = result.wake_at is not None and result.wake_at <= plan.now
    _require(8, not woken_late, f"the step of {plan.now} wants to be woken at {result.wake_at}")
    _require(8, before.with_changes(result.changes) == state, "the changes are not all that changed")
    first = before.control.revision
    revisions = [first, *(record.revision for record in plan.registry)]
    whole = revisions == list(range(first, first + len(revisions))) and state.control.revision == revisions[-1]
    _require(5, whole, f"the registry's revisions have a gap: {revisions}, then {state.control.revision}")
    check_plan(plan, state)
    _scale_in_is_known(before, observations, plan, state)


def _require(invariant: int, holds: bool, problem: str) -> None:
    if not holds:
        raise InvariantViolated(invariant, problem)


def _effects_hold(now: float, effects: Sequence[Effect], site: SiteSpec, state: BrokerState) -> None:
    names = [effect.action_id for effect in effects]
    _require(4, len(names) == len(set(names)), f"one step asks twice for the same: {names}")
    _require(6, site.mode is Mode.ACT, f"{names} though mode is observe")
    for effect in effects:
        paused = any(_covers(pause, effect) for pause in state.control.pauses)
        _require(6, not paused, f"{effect.action_id} though its model or pool is paused")
        record = state.replicas_of(effect.model_id).get(effect.replica_id)
        wanted = ReplicaPhase.STOPPING if isinstance(effect, Stop) else ReplicaPhase.REQUESTED
        phase = None if record is None else record.phase
        _require(4, phase is wanted, f"{effect.action_id} without its intent: the record says {phase}")
        if isinstance(effect, Launch):
            pool = state.pools.get(effect.pool_id)
            known = pool is not None and pool.unknown_since is None and pool.known_at is not None
            seen_at = -1.0 if pool is None or pool.known_at is None else pool.known_at
            known = known and now < seen_at + site.limits.pool_patience_s
            _require(7, known, f"{effect.action_id} goes to {effect.pool_id}, which cannot be listed")


def _covers(pause: PauseChanged, effect: Effect) -> bool:
    named = {PauseScope.MODEL: effect.model_id, PauseScope.POOL: effect.pool_id}.get(pause.scope)
    return pause.scope is PauseScope.ALL or pause.name == named


def _room_holds(now: float, effects: Sequence[Effect], site: SiteSpec, state: BrokerState) -> None:
    """Limits on what this step added; what was there before a limit was lowered may stay."""
    limits, control = site.limits, state.control
    new = [effect for effect in effects if isinstance(effect, Launch) and _record(state, effect).requested_at == now]
    if new:
        records = [record for members in state.replicas.values() for record in members.values()]
        loading = sum(record.phase in ON_ITS_WAY for record in records)
        _require(6, loading <= limits.concurrent_loads, f"{loading} replicas load at once")
        for pool_id in sorted({launch.pool_id for launch in new}):
            _pool_holds(pool_id, records, site, state)
        for model_id in sorted({launch.model_id for launch in new}):
            lasting = [record for record in state.replicas_of(model_id).values() if record.expiring_since is None]
            count = sum(record.phase is ReplicaPhase.READY or record.phase in ON_ITS_WAY for record in lasting)
            most = state.models[model_id].spec.maximum
            _require(6, count <= most, f"{model_id} has {count} replicas, and {most} are allowed")
    for times, most, what in (
        (control.starts, limits.starts_per_minute, "starts"),
        (control.stops, limits.stops_per_minute, "stops"),
    ):
        lately = sum(at + 60.0 > now for at in times)
        _require(6, now not in times or lately <= most, f"{lately} {what} in a minute, and {most} are allowed")


def _record(state: BrokerState, launch: Launch) -> Replica:
    return state.replicas_of(launch.model_id)[launch.replica_id]


def _pool_holds(pool_id: str, records: Sequence[Replica], site: SiteSpec, state: BrokerState) -> None:
    declared = next((pool.gpus for pool in site.pools if pool.pool_id == pool_id), 0)
    listed = state.pools[pool_id].gpus_total
    share = int((declared if listed is None else min(declared, listed)) * site.limits.pool_share + 1e-9)
    used = sum(record.gpus for record in records if record.pool_id == pool_id and record.phase not in ENDED)
    _require(6, used <= share, f"{used} GPUs of {pool_id} are in use, and {share} are ours")


def _target_holds(model: ModelState, state: BrokerState) -> None:
    """A paused model keeps its target, whatever its bounds have become."""
    spec = model.spec
    if spec.minimum <= model.target <= spec.maximum:
        return
    named = {(pause.scope, pause.name) for pause in state.control.pauses}
    frozen = (PauseScope.MODEL, model.model_id) in named or any(scope is PauseScope.ALL for scope, _ in named)
    bounds = f"{spec.minimum} to {spec.maximum}"
    _require(6, frozen, f"the target of {model.model_id} is {model.target}, and {bounds} are allowed")


def _scale_in_is_known(
    before: BrokerState, observations: Sequence[Observation], plan: Plan, state: BrokerState
) -> None:
    """With signals absent or late no policy takes anything away; operators may."""
    site = state.control.site
    if site is None or site.mode is Mode.OBSERVE:
        return
    if any(isinstance(observation, Override | SpecChanged | PauseChanged) for observation in observations):
        return
    for model_id, model in state.models.items():
        was = before.models.get(model_id)
        if was is None or was.retired or model.retired or model.override is not None or was.override is not None:
            continue
        snapshot = model.snapshot
        late = snapshot is None or plan.now >= snapshot.received_at + site.limits.signal_patience_s
        unknown = snapshot is None or all(not reading.usable for reading in snapshot.readings.values())
        kept = model.target >= min(was.target, model.spec.maximum)
        _require(
            7, kept or not (late or unknown),
            f"{model_id} goes from {was.target} to {model.target} on signals that nobody knows",
        )  # fmt: skip
