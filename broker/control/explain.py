"""Why a decision came out as it did, and the smallest change of input that would have changed it. Pure.

The answer is not a story told about the decision: every counterfactual is run through ``step`` and offered only if
the target really comes out differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from broker.control.decide import Policies
from broker.control.reasons import Reason
from broker.control.step import step
from broker.model.observation import Observation, Override, PauseChanged, SpecChanged
from broker.model.plan import Decision, DecisionStep, Input
from broker.model.reading import Freshness, Reading
from broker.model.signals import Signal
from broker.model.snapshot import ModelSnapshot, WindowReading
from broker.model.state import BrokerState, ModelState
from broker.model.units import format_duration

_SMALLEST_CHANGE = 0.001
_LARGEST_CHANGE = 1000.0
_BISECTIONS = 50
_SHORTEST_WAIT_S = 0.1
_LONGEST_WAIT_S = 7200.0

Seen = TypeVar("Seen", Reading, WindowReading)

_STAGES = {
    "pause": "A pause kept it at {value}",
    "override": "An operator's override made it {value}",
    "credit": "The credit for supply on its way made it {value}",
    "stabilise": "Stabilisation kept it at {value}",
    "step": "The limit of a step made it {value}",
    "signals": "For want of signals it stayed at {value}",
    "bounds": "The model's bounds made it {value}",
    "allocate": "Of these, {value} can be had now",
    "mode": "Nothing of it is carried out",
    "spec": "The declaration made it {value}",
}
"""How each clamp is told; ``{value}`` is the number of replicas after it."""

_NOTHING_TO_CHANGE: Mapping[str, str] = {
    Reason.RETIRED: "It is retired: what runs of it is drained, and then it is forgotten. Only the policies, declaring "
    "it again, would make a difference.",
    Reason.POLICY_FAILED: "Its policy has a mistake: the broker's log says where it failed. Until that is mended, an "
    "override sets the target.",
    Reason.BREAKER_OPEN: "Another target would have started nothing: starts are blocked until the cause of the "
    "failures is mended.",
}
"""Decisions of which no counterfactual is worth telling, and what is told instead."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything one decision was made from: replaying it gives the decision again."""

    before: BrokerState
    observations: tuple[Observation, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A change of input under which the target would have been ``target``.

    ``relative_size`` orders them: the change of a signal as a share of it or its bound, infinite for changes of
    another kind (time, an override, a limit). ``was`` and ``becomes`` are of the value that meets its bound, out of
    all that was read of ``signal``.
    """

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
    smallest = None
    if _NOTHING_TO_CHANGE.keys().isdisjoint(_codes(decision)):
        smallest = smallest_change(_of_one_model(situation, decision.model_id), decision, policies)
    return Explanation(decision, tuple(_tell(decision, smallest)), smallest)


def _codes(decision: Decision) -> set[str]:
    return {decision.code, *(stage.code for stage in decision.trail)}


def _of_one_model(situation: Situation, model_id: str) -> Situation:
    """Without what was seen of other models, which has no part in this one's target: each try is a whole step."""
    own = (o for o in situation.observations if not isinstance(o, ModelSnapshot) or o.model_id == model_id)
    return replace(situation, observations=tuple(own))


def target_in(situation: Situation, model_id: str, policies: Policies) -> int | None:
    """The target that ``step`` gives the model in this situation; None if it is then not served at all."""
    result = step(situation.before, situation.observations, policies, situation.now)
    model = result.state.models.get(model_id)
    return None if model is None else model.target


def smallest_change(situation: Situation, decision: Decision, policies: Policies) -> Counterfactual | None:
    """The least shift of one signal that flips the target, else an operator's order, else the time after which it
    would (an order runs out by itself, but nobody asks when), else other bounds, else None."""
    found = [
        change
        for signal, given in _signals_used(situation, decision)
        for direction in (1.0, -1.0)
        if (change := _flip_by_signal(situation, decision, policies, signal, given, direction)) is not None
    ]
    if found:
        return min(found, key=lambda change: (change.relative_size, change.words))
    model = situation.before.models.get(decision.model_id)
    ordered = () if model is None else _with_other_orders(situation, model)
    declared = () if model is None else _with_other_bounds(situation, model)
    return (
        _first_that_flips(ordered, decision, policies)
        or _flip_by_time(situation, decision, policies)
        or _first_that_flips(declared, decision, policies)
    )


def _first_that_flips(
    others: Iterable[tuple[str, Situation]], decision: Decision, policies: Policies
) -> Counterfactual | None:
    for words, other in others:
        target = target_in(other, decision.model_id, policies)
        if target is not None and target != decision.target:
            return Counterfactual(words, target, math.inf, other)
    return None


def _signals_used(situation: Situation, decision: Decision) -> Iterator[tuple[Signal, list[Input]]]:
    """The signals that the decision read a value of, each with all that was read of it."""
    if _snapshot_of(situation, decision.model_id) is None:
        return
    for signal in Signal:
        given = [read for read in decision.inputs if read.name == signal.value and read.value is not None]
        if given:
            yield signal, given


def _smallest(flips: Callable[[float], bool], first: float, largest: float) -> float | None:
    """The least change that flips, between nothing and ``largest``: widened geometrically, then halved to the edge."""
    held, flipped = 0.0, min(first, largest)
    while not flips(flipped):
        if flipped >= largest:
            return None
        held, flipped = flipped, min(flipped * 2, largest)
    for _ in range(_BISECTIONS):
        middle = (held + flipped) / 2
        if flips(middle):
            flipped = middle
        else:
            held = middle
    return flipped


def _flip_by_signal(
    situation: Situation,
    decision: Decision,
    policies: Policies,
    signal: Signal,
    given: Sequence[Input],
    direction: float,
) -> Counterfactual | None:
    scale = max(abs(number) for read in given for number in (read.value or 0.0, read.bound or 0.0)) or 1.0

    def changed(size: float) -> Situation:
        return with_signal(situation, decision.model_id, signal, direction * size * scale)

    def flips(size: float) -> bool:
        return target_in(changed(size), decision.model_id, policies) not in (None, decision.target)

    largest = 1.0 if direction < 0 else _LARGEST_CHANGE  # nothing is less than 0
    size = _smallest(flips, _SMALLEST_CHANGE, largest)
    target = None if size is None else target_in(changed(size), decision.model_id, policies)
    if size is None or target is None:
        return None
    shift = direction * size * scale
    was, becomes = _nearest_to_its_bound(given, shift)
    words = f"if {signal.value} had been {becomes:.4g} instead of {was:.4g}"
    return Counterfactual(words, target, size, changed(size), signal, was, becomes)


def _nearest_to_its_bound(given: Sequence[Input], shift: float) -> tuple[float, float]:
    """The value that the shift brings to its bound, of all that was read of a signal, before and after the shift."""
    values = [(read.value or 0.0, max(0.0, (read.value or 0.0) + shift), read.bound) for read in given]
    was, becomes, _ = min(values, key=lambda v: math.inf if v[2] is None else abs(v[1] - v[2]))
    return was, becomes


def _flip_by_time(situation: Situation, decision: Decision, policies: Policies) -> Counterfactual | None:
    """What waits (for a rule to arm again, for a window to pass, for an override to end) comes by itself."""

    def flips(wait_s: float) -> bool:
        other = later(situation, decision.model_id, wait_s)
        return target_in(other, decision.model_id, policies) not in (None, decision.target)

    wait_s = _smallest(flips, _SHORTEST_WAIT_S, _LONGEST_WAIT_S)
    if wait_s is None:
        return None
    other = later(situation, decision.model_id, wait_s)
    target = target_in(other, decision.model_id, policies)
    if target is None:
        return None
    words = f"had all been the same {format_duration(math.ceil(wait_s * 10) / 10)} later"
    return Counterfactual(words, target, math.inf, other)


def later(situation: Situation, model_id: str, wait_s: float) -> Situation:
    """The same situation ``wait_s`` later, with the same signals seen then."""
    snapshot = _snapshot_of(situation, model_id)
    moved = replace(situation, now=situation.now + wait_s)
    if snapshot is None:
        return moved
    readings = {signal: _seen_later(reading, wait_s) for signal, reading in snapshot.readings.items()}
    windows = tuple(_seen_later(window, wait_s) for window in snapshot.windows)
    return _with_snapshot(
        moved,
        snapshot,
        replace(snapshot, received_at=snapshot.received_at + wait_s, readings=readings, windows=windows),
    )


def _seen_later(seen: Seen, wait_s: float) -> Seen:
    return seen if seen.observed_at is None else replace(seen, observed_at=seen.observed_at + wait_s)


def _snapshot_of(situation: Situation, model_id: str) -> ModelSnapshot | None:
    """The snapshot that was decided on: the newest observed one, else the one on record."""
    observed = [o for o in situation.observations if isinstance(o, ModelSnapshot) and o.model_id == model_id]
    if observed:
        return max(observed, key=lambda snapshot: (snapshot.received_at, snapshot.sequence))
    model = situation.before.models.get(model_id)
    return None if model is None else model.snapshot


def with_signal(situation: Situation, model_id: str, signal: Signal, shift: float) -> Situation:
    """The same situation, had ``signal`` been higher by ``shift`` now and throughout its windows (never below 0)."""
    snapshot = _snapshot_of(situation, model_id)
    if snapshot is None:
        return situation

    def shifted(value: float | None) -> float | None:
        return None if value is None else max(0.0, value + shift)

    readings = {
        name: _shifted_reading(reading, shifted(reading.value)) if name is signal else reading
        for name, reading in snapshot.readings.items()
    }
    windows = tuple(
        replace(window, minimum=shifted(window.minimum), maximum=shifted(window.maximum), mean=shifted(window.mean))
        if window.signal is signal
        else window
        for window in snapshot.windows
    )
    return _with_snapshot(situation, snapshot, replace(snapshot, readings=readings, windows=windows))


def _shifted_reading(reading: Reading, value: float | None) -> Reading:
    """A true zero that is shifted is a fresh value, and the other way round; what was doubted stays doubted."""
    freshness = reading.freshness
    if reading.usable and value is not None:
        freshness = Freshness.FRESH if value else Freshness.ZERO
    return replace(reading, value=value, freshness=freshness)


def _with_snapshot(situation: Situation, snapshot: ModelSnapshot, changed: ModelSnapshot) -> Situation:
    if any(observation is snapshot for observation in situation.observations):
        observations = tuple(changed if o is snapshot else o for o in situation.observations)
        return replace(situation, observations=observations)
    model = situation.before.models[snapshot.model_id]
    return _with_model(situation, replace(model, snapshot=changed))


def _with_model(situation: Situation, model: ModelState) -> Situation:
    return replace(situation, before=situation.before.with_changes({("model", model.model_id): model}))


def _with_other_orders(situation: Situation, model: ModelState) -> Iterator[tuple[str, Situation]]:
    """What an operator ordered, also just now, left out."""
    control = situation.before.control
    seen = situation.observations
    pauses = tuple(o for o in seen if not (isinstance(o, PauseChanged) and o.paused))
    if control.pauses or pauses != seen:
        before = replace(situation.before, control=replace(control, pauses=()))
        yield "without the pause", replace(situation, before=before, observations=pauses)
    overrides = tuple(o for o in seen if not (isinstance(o, Override) and o.model_id == model.model_id))
    if model.override is not None or overrides != seen:
        without = replace(situation, observations=overrides)
        yield "without the override", _with_model(without, replace(model, override=None))


def _with_other_bounds(situation: Situation, model: ModelState) -> Iterator[tuple[str, Situation]]:
    if any(isinstance(observation, SpecChanged) for observation in situation.observations):
        return  # the bounds come with the observation itself
    spec = model.spec
    bounds = [(f"with a maximum of {spec.maximum + 1}", replace(spec, maximum=spec.maximum + 1))]
    if spec.minimum > 0:
        bounds.append((f"with a minimum of {spec.minimum - 1}", replace(spec, minimum=spec.minimum - 1)))
    if spec.minimum < spec.maximum:
        bounds.append((f"with a minimum of {spec.minimum + 1}", replace(spec, minimum=spec.minimum + 1)))
        bounds.append((f"with a maximum of {spec.maximum - 1}", replace(spec, maximum=spec.maximum - 1)))
    for words, changed in bounds:
        yield words, _with_model(situation, replace(model, spec=changed))


def _tell(decision: Decision, smallest: Counterfactual | None) -> Iterator[str]:
    moved = decision.target - decision.before
    verb = f"went from {decision.before} to {decision.target}" if moved else f"stayed at {decision.target}"
    yield f"{decision.model_id} {verb} {_replicas(decision.target)}: {decision.words} ({decision.code})."
    for index, stage in enumerate(decision.trail):
        if index or stage.stage == "policy":
            yield _stage_in_words(stage, decision)
    for given in decision.inputs:
        yield _input_in_words(given)
    for action in decision.actions:
        yield f"What follows: {action}."
    final = [words for code, words in _NOTHING_TO_CHANGE.items() if code in _codes(decision)]
    if final:
        yield final[0]
    elif smallest is None:
        yield "No single change that was tried (of a signal, of the time, of a limit) would have made a difference."
    else:
        yield f"It would have been {smallest.target} {smallest.words}."


def _replicas(count: int) -> str:
    return "replica" if count == 1 else "replicas"


def _stage_in_words(stage: DecisionStep, decision: Decision) -> str:
    if stage.stage == "policy":
        return f"The {decision.policy} policy asked for {stage.value}: {stage.words} ({stage.code})."
    told = _STAGES.get(stage.stage, f"Then {stage.stage} made it {{value}}").format(value=stage.value)
    return f"{told}: {stage.words} ({stage.code})."


def _input_in_words(given: Input) -> str:
    name = f"{given.statistic}({given.name}, {format_duration(given.window_s)})" if given.statistic else given.name
    if given.value is None:
        return f"It had no value of {name} to read ({given.freshness})."
    bound = "" if given.bound is None else f", held against {given.bound:.6g}"
    if given.declared_bound is not None:
        bound += f", which is {given.declared_bound:.6g} scaled to the replicas that would remain"
    return f"It read {name} = {given.value:.6g} ({given.freshness}{bound})."
