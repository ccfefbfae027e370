"""Why a decision came out as it did, and the smallest change of input that would have changed it. Pure.

The answer is not a story told about the decision: every counterfactual is run through ``step`` and offered only if
the target really comes out differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from broker.control.decide import Policies
from broker.control.reasons import Reason
from broker.control.step import step
from broker.model.observation import Observation, SpecChanged
from broker.model.plan import Decision
from broker.model.signals import Signal
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, ModelState

_SMALLEST_CHANGE = 0.001
_LARGEST_CHANGE = 1000.0
_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything one decision was made from: replaying it gives the decision again."""

    before: BrokerState
    observations: tuple[Observation, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A change of input under which the target would have been ``target``. ``relative_size`` orders them: the share
    by which a signal changes, infinite for changes of another kind (an override, a limit)."""

    words: str
    target: int
    relative_size: float
    situation: Situation
    signal: Signal | None = None
    was: float | None = None
    becomes: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """``words`` tell the decision in plain sentences; ``smallest`` is None if nothing tried would have changed it."""

    decision: Decision
    words: tuple[str, ...]
    smallest: Counterfactual | None


def explain(situation: Situation, decision: Decision, policies: Policies) -> Explanation:
    """Tell ``decision`` of ``situation`` in words, with the smallest change that flips it."""
    smallest = smallest_change(situation, decision, policies)
    return Explanation(decision, tuple(_tell(decision, smallest)), smallest)


def target_in(situation: Situation, model_id: str, policies: Policies) -> int | None:
    """The target that ``step`` gives the model in this situation; None if it is then not served at all."""
    result = step(situation.before, situation.observations, policies, situation.now)
    model = result.state.models.get(model_id)
    return None if model is None else model.target


def smallest_change(situation: Situation, decision: Decision, policies: Policies) -> Counterfactual | None:
    """The least change of one signal that flips the target, else one of another kind, else None."""
    found = [
        change
        for signal, value in _signals_used(situation, decision)
        for factor in (1.0, -1.0)
        if (change := _flip_by_signal(situation, decision, policies, signal, value, factor)) is not None
    ]
    if found:
        return min(found, key=lambda change: (change.relative_size, change.words))
    for words, other in _other_situations(situation, decision):
        target = target_in(other, decision.model_id, policies)
        if target is not None and target != decision.target:
            return Counterfactual(words, target, math.inf, other)
    return None


def _signals_used(situation: Situation, decision: Decision) -> Iterator[tuple[Signal, float]]:
    names = {given.name for given in decision.inputs if given.value is not None}
    snapshot = _snapshot_of(situation, decision.model_id)
    if snapshot is None:
        return
    for signal in Signal:
        windows = [w for w in snapshot.windows if w.signal is signal and w.minimum is not None]
        reading = snapshot.reading(signal)
        if signal.value not in names:
            continue
        if reading.value is not None:
            yield signal, reading.value
        elif windows and windows[0].minimum is not None:
            yield signal, windows[0].minimum


def _flip_by_signal(
    situation: Situation, decision: Decision, policies: Policies, signal: Signal, value: float, direction: float
) -> Counterfactual | None:
    """Widen the change geometrically until the target flips, then halve the gap until the edge is known."""
    scale = abs(value) or 1.0

    def outcome(change: float) -> int | None:
        changed = with_signal(situation, decision.model_id, signal, max(0.0, value + direction * change * scale))
        return target_in(changed, decision.model_id, policies)

    held, flipped = 0.0, _SMALLEST_CHANGE
    while outcome(flipped) in (None, decision.target):
        if flipped >= _LARGEST_CHANGE or (direction < 0 and flipped >= 1.0):
            return None
        held, flipped = flipped, flipped * 2
        if direction < 0:
            flipped = min(flipped, 1.0)
    for _ in range(_BISECTIONS):
        middle = (held + flipped) / 2
        if outcome(middle) in (None, decision.target):
            held = middle
        else:
            flipped = middle
    becomes = max(0.0, value + direction * flipped * scale)
    changed = with_signal(situation, decision.model_id, signal, becomes)
    target = target_in(changed, decision.model_id, policies)
    if target is None:
        return None
    way = "higher" if direction > 0 else "lower"
    words = f"with {signal.value} at {becomes:.4g} instead of {value:.4g} ({flipped:.1%} {way})"
    return Counterfactual(words, target, flipped, changed, signal, value, becomes)


def _snapshot_of(situation: Situation, model_id: str) -> ModelSnapshot | None:
    """The snapshot that was decided on: the newest observed one, else the one on record."""
    observed = [o for o in situation.observations if isinstance(o, ModelSnapshot) and o.model_id == model_id]
    if observed:
        return max(observed, key=lambda snapshot: (snapshot.received_at, snapshot.sequence))
    model = situation.before.models.get(model_id)
    return None if model is None else model.snapshot


def with_signal(situation: Situation, model_id: str, signal: Signal, value: float) -> Situation:
    """The same situation, had ``signal`` been ``value`` now and throughout its windows."""
    snapshot = _snapshot_of(situation, model_id)
    if snapshot is None:
        return situation
    readings = dict(snapshot.readings)
    if signal in readings:
        readings[signal] = replace(readings[signal], value=value)
    windows = tuple(
        replace(window, minimum=value, maximum=value, mean=value) if window.signal is signal else window
        for window in snapshot.windows
    )
    changed = replace(snapshot, readings=readings, windows=windows)
    if any(observation is snapshot for observation in situation.observations):
        observations = tuple(changed if o is snapshot else o for o in situation.observations)
        return replace(situation, observations=observations)
    model = situation.before.models[model_id]
    return _with_model(situation, replace(model, snapshot=changed))


def _with_model(situation: Situation, model: ModelState) -> Situation:
    return replace(situation, before=situation.before.with_changes({("model", model.model_id): model}))


def _other_situations(situation: Situation, decision: Decision) -> Iterator[tuple[str, Situation]]:
    """Changes that are no signal's: what an operator could have set otherwise."""
    model = situation.before.models.get(decision.model_id)
    if model is None:
        return
    control = situation.before.control
    if control.pauses:
        before = replace(situation.before, control=replace(control, pauses=()))
        yield "without the pause", replace(situation, before=before)
    if model.override is not None:
        yield "without the override", _with_model(situation, replace(model, override=None))
    yield from _with_other_bounds(situation, model)
    yield "with no wish for more in the stabilisation window", _with_model(situation, replace(model, history=()))


def _with_other_bounds(situation: Situation, model: ModelState) -> Iterator[tuple[str, Situation]]:
    if any(isinstance(observation, SpecChanged) for observation in situation.observations):
        return  # the bounds come with the observation itself
    spec = model.spec
    for words, changed in (
        (f"with a maximum of {spec.maximum + 1}", replace(spec, maximum=spec.maximum + 1)),
        (f"with a minimum of {spec.minimum - 1}", replace(spec, minimum=max(0, spec.minimum - 1))),
        (f"with a minimum of {spec.minimum + 1}", replace(spec, minimum=spec.minimum + 1)),
        (f"with a maximum of {spec.maximum - 1}", replace(spec, maximum=max(0, spec.maximum - 1))),
    ):
        yield words, _with_model(situation, replace(model, spec=changed))


def _tell(decision: Decision, smallest: Counterfactual | None) -> Iterator[str]:
    moved = decision.target - decision.before
    verb = f"went from {decision.before} to {decision.target}" if moved else f"stayed at {decision.target}"
    yield f"{decision.model_id} {verb} replicas: {decision.words} ({decision.code})."
    first, *clamps = decision.trail
    yield f"The {decision.policy} policy wanted {first.value}: {first.words}."
    for clamp in clamps:
        reached = f"kept {clamp.value}" if clamp.code != Reason.OBSERVE_MODE else "only recorded it"
        yield f"Then {clamp.stage} {reached}: {clamp.words} ({clamp.code})."
    for given in decision.inputs:
        value = "nothing" if given.value is None else f"{given.value:.4g}"
        bound = "" if given.bound is None else f", held against {given.bound:g}"
        yield f"It read {given.name} = {value} ({given.freshness}{bound})."
    for action in decision.actions:
        yield f"It followed: {action}."
    if smallest is None:
        yield "No change of a single input that was tried would have changed it."
    else:
        yield f"It would have been {smallest.target} {smallest.words}."
