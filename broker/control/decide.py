"""One model's decision: policy, override, credit, stabilisation, limits, allocation, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from broker.control import renewal, shaping
from broker.control.allocate import Allocation, allocate, carry_out
from broker.control.answers import in_words
from broker.control.draft import Draft, PolicyFault
from broker.control.reasons import Reason
from broker.control.shaping import Trail
from broker.model.making import copy_with
from broker.model.observation import Override, PauseScope
from broker.model.plan import Decision, DecisionStep, Recommendation, ShadowRecommendation
from broker.model.reading import stale
from broker.model.replica import ON_ITS_WAY, ReplicaPhase, Tier
from broker.model.snapshot import FleetSnapshot, ModelSnapshot, Supply
from broker.model.spec import Mode, PolicySpec
from broker.model.state import Memory, ModelState, TimedTarget
from policies.base import Policy

Policies = Callable[[PolicySpec], Policy]
"""Gives the policy of a declaration; called for every decision, so it must be cheap the second time."""


def decide(draft: Draft, model_id: str, policies: Policies) -> Decision | None:
    """Decide one model anew and write down what follows. None if nothing about it is worth telling."""
    model = draft.models[model_id]
    supply = supply_of(draft, model)
    if model.retired:
        return _retire(draft, model, supply)
    observing = draft.site.mode is Mode.OBSERVE
    before = supply.lasting + supply.on_its_way if observing else model.target
    if observing:
        supply = replace(supply, target=before)
    fleet = fleet_snapshot(draft, model, supply)
    recommendation, memory = _asked(draft, model, model.spec.policy, policies, fleet, model.memory)
    frozen = _frozen(draft, model)
    trail, history, override = _shape(draft, model, recommendation, supply, before, frozen=frozen)
    shadows, shadow_memory = _shadows(draft, model, fleet, policies)
    target, baseline = trail.value, min(recommendation.baseline, trail.value)
    allocation = Allocation() if frozen else allocate(draft, model, supply, target, baseline)
    told = _actions_told(allocation, observing)
    reached = supply.lasting + supply.on_its_way + allocation.change
    if supply.expiring:
        trail.steps.append(DecisionStep("allocate", reached, Reason.RENEWAL, renewal.told(draft, model_id)))
    for code, words in allocation.blocked:
        trail.steps.append(DecisionStep("allocate", reached, code, words))
    if observing and told:
        trail.steps.append(
            DecisionStep("mode", before, Reason.OBSERVE_MODE, "mode is observe: recorded, not carried out")
        )
    codes = "/".join([*[step.code for step in trail.steps], *(told if observing else ())])
    wake = [*trail.wake, *allocation.wake]
    if recommendation.valid_until is not None:
        wake.append(recommendation.valid_until)
    quiet = codes == model.last_code and target == model.target and (observing or not told)
    moves = shaping.recent_moves(model.moves, draft.now)
    model = copy_with(
        model,
        target=target,
        moves=(*moves, TimedTarget(draft.now, before)) if target != before and not observing else moves,
        baseline=baseline,
        memory=memory,
        shadow_memory=shadow_memory,
        history=history,
        override=override,
        last_code=codes,
        wake_at=min([at for at in wake if at > draft.now], default=None),
    )
    draft.put_model(model)
    if not observing:
        carry_out(draft, model, allocation)
    if quiet:
        return None
    if observing:
        for record in allocation.launches:
            draft.rehearse(record)
    fixed = next(step for step in reversed(trail.steps) if step.stage not in ("allocate", "mode"))
    return Decision(
        model_id=model_id,
        now=draft.now,
        mode=draft.site.mode,
        before=before,
        target=target,
        baseline=baseline,
        code=fixed.code,
        words=fixed.words,
        policy=model.spec.policy.kind,
        trail=tuple(trail.steps),
        inputs=recommendation.inputs,
        actions=told,
        shadows=shadows,
    )


def _asked(
    draft: Draft, model: ModelState, spec: PolicySpec, policies: Policies, fleet: FleetSnapshot, memory: Memory
) -> tuple[Recommendation, Memory]:
    """What a policy recommends. One that raises, or cannot even be built, holds its own model: it once kept all of a
    site from being decided."""
    try:
        return policies(spec).recommend(fleet, memory)
    except Exception as error:
        draft.faults.append(PolicyFault(model.model_id, spec.kind, error))
        words = f"the {spec.kind} policy failed ({in_words(error)}): the target is kept until it can be asked again"
        held = Recommendation(fleet.supply.target, model.baseline, Reason.POLICY_FAILED, words, hold=True)
        return held, memory


def supply_of(draft: Draft, model: ModelState) -> Supply:
    records, ready_phase = draft.replicas_of(model.model_id).values(), ReplicaPhase.READY
    serving = [record for record in records if record.phase is ready_phase]
    ready, baseline = len(serving), [record.tier for record in serving].count(Tier.BASELINE)
    expiring = ready - [record.expiring_since for record in serving].count(None)
    if ready == len(records):  # nearly always
        return Supply(model.target, ready, 0, 0, baseline, expiring)
    phases = [record.phase for record in records]
    on_its_way = sum([phase in ON_ITS_WAY for phase in phases])
    return Supply(model.target, ready, on_its_way, phases.count(ReplicaPhase.DRAINING), baseline, expiring)


def fleet_snapshot(draft: Draft, model: ModelState, supply: Supply) -> FleetSnapshot:
    """What the policy may know: the latest signals, doubted if they are late."""
    snapshot = model.snapshot or ModelSnapshot(model.model_id, 0, draft.now, draft.now)
    if not shaping.in_time(snapshot, draft.now, draft.limits.signal_patience_s):
        snapshot = _doubted(snapshot)
    starts = renewal.starts_of(draft, model.model_id)
    return FleetSnapshot(
        now=draft.now,
        model=snapshot,
        supply=supply,
        minimum=model.spec.minimum,
        maximum=model.spec.maximum,
        start_time_s=renewal.start_time_s(starts),
        starts=starts,
    )


def _doubted(snapshot: ModelSnapshot) -> ModelSnapshot:
    """The same values, none of them trusted any more: nobody refreshed them in time."""
    readings = {signal: stale(reading) for signal, reading in snapshot.readings.items()}
    windows = tuple(
        replace(window, freshness=stale(readings[window.signal]).freshness, covered=False)
        if window.signal in readings
        else replace(window, covered=False)
        for window in snapshot.windows
    )
    return replace(snapshot, readings=readings, windows=windows)


def _shape(
    draft: Draft, model: ModelState, recommendation: Recommendation, supply: Supply, before: int, *, frozen: bool
) -> tuple[Trail, tuple[TimedTarget, ...], Override | None]:
    """From the raw desire to the target, clamp by clamp; the new history, and the override if it is in force."""
    trail = Trail(before)
    wanted = before if recommendation.hold else recommendation.target
    trail.set("policy", wanted, recommendation.code, recommendation.words)
    override = model.override
    if override is not None and draft.now >= override.until:
        override = None
    if override is not None:
        trail.wake.append(override.until)
        value = before if override.target is None else override.target
        code = Reason.OVERRIDE_HOLD if override.target is None else Reason.OVERRIDE_TARGET
        trail.set("override", value, code, f"{override.author}: {override.because}")
        shaping.bound(trail, model.spec)
    if frozen:
        waits = "" if override is None or trail.value == before else f"; an override to {trail.value} waits"
        trail.set("pause", before, Reason.PAUSED, _pause_words(draft, model) + waits)
    if override is not None or frozen:
        return trail, model.history, override
    shaping.credit_supply(trail, recommendation, supply)
    history = shaping.stabilise(trail, recommendation, before, model.spec, model.history, draft.now)
    shaping.limit_step(trail, before, model.spec, model.moves, draft.now)
    patience_s = draft.limits.signal_patience_s
    if trail.value < before and not shaping.signals_allow_scale_in(
        model.snapshot, recommendation, draft.now, patience_s
    ):
        problem = f" ({model.snapshot.problem})" if model.snapshot is not None and model.snapshot.problem else ""
        words = f"no scale-in while the signals are stale or absent{problem}"
        trail.set("signals", before, Reason.HOLD_NO_SIGNALS, words)
    shaping.bound(trail, model.spec)
    if model.snapshot is not None and shaping.in_time(model.snapshot, draft.now, patience_s):
        trail.wake.append(model.snapshot.received_at + patience_s)
    return trail, history, override


def _frozen(draft: Draft, model: ModelState) -> bool:
    return draft.paused(PauseScope.MODEL, model.model_id)


def _pause_words(draft: Draft, model: ModelState) -> str:
    pause = next(
        pause
        for pause in draft.control.pauses
        if pause.scope is PauseScope.ALL or (pause.scope is PauseScope.MODEL and pause.name == model.model_id)
    )
    return f"paused by {pause.author}: {pause.because}"


def _shadows(
    draft: Draft, model: ModelState, fleet: FleetSnapshot, policies: Policies
) -> tuple[tuple[ShadowRecommendation, ...], dict[str, Memory]]:
    """What other policies would say here, within the same bounds; nothing follows from it."""
    told: list[ShadowRecommendation] = []
    memories: dict[str, Memory] = {}
    for name, spec in model.spec.shadows.items():
        memory = model.shadow_memory.get(name, {})
        recommendation, memories[name] = _asked(draft, model, spec, policies, fleet, memory)
        wanted = fleet.supply.target if recommendation.hold else recommendation.target
        bounded = min(max(wanted, model.spec.minimum), model.spec.maximum)
        told.append(ShadowRecommendation(name, bounded, recommendation.code, recommendation.words))
    return tuple(told), memories


def _actions_told(allocation: Allocation, observing: bool) -> tuple[str, ...]:
    if not (allocation.launches or allocation.reclaimed or allocation.leaving or allocation.expiring):
        return ()
    would = "would " if observing else ""
    return (
        *(f"{would}publish {record.replica_id} again" for record in allocation.reclaimed),
        *(f"{would}launch {record.replica_id} in {record.pool_id} ({record.tier})" for record in allocation.launches),
        *(
            f"{would}{'drain' if record.phase is ReplicaPhase.READY else 'stop'} {record.replica_id}"
            for record in allocation.leaving
        ),
        *(f"{would}drain {record.replica_id}, whose successor is ready" for record in allocation.expiring),
    )


def _retire(draft: Draft, model: ModelState, supply: Supply) -> Decision | None:
    """No longer declared: drain it to nothing, then forget it."""
    if not draft.replicas_of(model.model_id):
        draft.drop_model(model.model_id)
        return None
    observing = draft.site.mode is Mode.OBSERVE
    allocation = Allocation() if _frozen(draft, model) else allocate(draft, model, supply, 0, 0)
    told = _actions_told(allocation, observing)
    code = "/".join((Reason.RETIRED, *told))
    wake_at = min(allocation.wake, default=None)
    draft.put_model(replace(model, target=0, baseline=0, last_code=code, wake_at=wake_at))
    if not observing:
        carry_out(draft, model, allocation)
    if not told or (observing and code == model.last_code):
        return None
    step = DecisionStep("spec", 0, Reason.RETIRED, "the model is no longer declared")
    return Decision(
        model_id=model.model_id,
        now=draft.now,
        mode=draft.site.mode,
        before=supply.lasting + supply.on_its_way,
        target=0,
        baseline=0,
        code=step.code,
        words=step.words,
        policy=model.spec.policy.kind,
        trail=(step,),
        actions=told,
    )
