"""The clamps between a policy's desire and the final target. Each takes a value and returns a value with its reason.

All conditions count time, none counts ticks: a step that runs twice as often decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.control.reasons import Reason
from broker.model.plan import DecisionStep, Recommendation
from broker.model.snapshot import ModelSnapshot, Supply
from broker.model.spec import ModelSpec
from broker.model.state import TimedTarget

_HISTORY_KEPT = 64
_STEP_S = 15.0
"""The time to which ``max_step_out`` and ``max_step_in`` belong: Kubernetes' HPA allows its steps in as much."""


@dataclass(slots=True)
class Trail:
    """The value on its way from desire to target, with every stage that set it."""

    value: int
    steps: list[DecisionStep] = field(default_factory=list)
    wake: list[float] = field(default_factory=list)

    def set(self, stage: str, value: int, code: str, words: str) -> None:
        self.value = value
        self.steps.append(DecisionStep(stage, value, code, words))


def in_time(snapshot: ModelSnapshot | None, now: float, patience_s: float) -> bool:
    """Whether somebody still watches: what the newest snapshot says may be believed."""
    return snapshot is not None and now < snapshot.received_at + patience_s


def signals_allow_scale_in(
    snapshot: ModelSnapshot | None, recommendation: Recommendation, now: float, patience_s: float
) -> bool:
    """Capacity is taken away only on what is known: a snapshot in time, something usable in it, every input usable."""
    if snapshot is None or not in_time(snapshot, now, patience_s):
        return False
    if not any(reading.usable for reading in snapshot.readings.values()):
        return False
    return all(given.freshness in ("fresh", "zero") for given in recommendation.inputs)


def credit_supply(trail: Trail, recommendation: Recommendation, supply: Supply) -> None:
    """A target counted from the present one already includes what is still loading: ask only for the rest.

    Without this a rule that fires every 30 s starts one more replica for each 30 s that the first takes to load.
    """
    if recommendation.relative and trail.value > supply.target and supply.coming:
        credited = max(supply.target, trail.value - supply.coming)
        if credited != trail.value:
            words = f"{supply.coming} already on the way are credited: {trail.value} becomes {credited}"
            trail.set("credit", credited, Reason.SUPPLY_ON_ITS_WAY, words)


def stabilise(
    trail: Trail,
    recommendation: Recommendation,
    before: int,
    spec: ModelSpec,
    history: tuple[TimedTarget, ...],
    now: float,
) -> tuple[TimedTarget, ...]:
    """Hysteresis in time: scale-in waits until nothing higher was wanted for ``scale_in_s``, scale-out until nothing
    lower was wanted for ``scale_out_s``. Returns the new history.

    An absolute wish stands until the next one replaces it. A relative wish (``+1``) counts at its moment only, since
    between its moments the policy says "as now", not "less": only wishes for more are kept, and ``scale_out_s`` does
    not apply (the rule's own ``for`` does that).
    """
    shape = spec.stabilisation
    wish = trail.value
    kept_s = max(shape.scale_in_s, shape.scale_out_s)
    if recommendation.relative:
        history = (*history, TimedTarget(now, wish)) if wish > before else history
        history = _since(history, kept_s, now)
    else:
        history = history if history and history[-1].target == wish else (*history, TimedTarget(now, wish))
        history = _in_force(history, kept_s, now)
    history = _bounded(history)
    if recommendation.shaped or wish == before:
        return history
    if wish < before:
        _hold_in(trail, before, history, now, shape.scale_in_s, relative=recommendation.relative)
    elif shape.scale_out_s and not recommendation.relative:
        _hold_out(trail, before, history, now, shape.scale_out_s)
    return history


def _since(history: tuple[TimedTarget, ...], span_s: float, now: float) -> tuple[TimedTarget, ...]:
    """Told by ``at + span_s``, at which a wake is set: ``now - span_s`` would be rounded otherwise."""
    return history and tuple(entry for entry in history if now < entry.at + span_s)


def _bounded(history: tuple[TimedTarget, ...]) -> tuple[TimedTarget, ...]:
    """At most so many wishes: of those closest in time the higher one stands for both, so that a wish that changes
    at every look blurs the window but does not shorten it."""
    while len(history) > _HISTORY_KEPT:
        at = min(range(len(history) - 2), key=lambda i: history[i + 1].at - history[i].at)
        first, second = history[at], history[at + 1]
        merged = TimedTarget(first.at, max(first.target, second.target))
        history = (*history[:at], merged, *history[at + 2 :])
    return history


def _in_force(history: tuple[TimedTarget, ...], span_s: float, now: float) -> tuple[TimedTarget, ...]:
    """The wishes that stood at some time in the span: the last one made before it, and all later ones."""
    later = _since(history, span_s, now)
    return history[len(history) - len(later) - 1 :] if len(later) < len(history) else later


def _hold_in(
    trail: Trail, before: int, history: tuple[TimedTarget, ...], now: float, scale_in_s: float, *, relative: bool
) -> None:
    if relative:
        span = _since(history, scale_in_s, now)
        floor, free_at = (before, span[-1].at + scale_in_s) if span else (trail.value, now)
    else:
        span = _in_force(history, scale_in_s, now)
        floor = min(before, max(entry.target for entry in span))
        free_at = span[1].at + scale_in_s if len(span) > 1 else now
    if floor > trail.value:
        trail.wake.append(free_at)
        words = f"{floor} or more was wanted within the last {scale_in_s:g} s: no scale-in yet"
        trail.set("stabilise", floor, Reason.STABILISING_IN, words)


def _hold_out(trail: Trail, before: int, history: tuple[TimedTarget, ...], now: float, scale_out_s: float) -> None:
    span = _in_force(history, scale_out_s, now)
    wished_long_enough = span[0].at + scale_out_s <= now
    ceiling = max(before, min(entry.target for entry in span)) if wished_long_enough else before
    if ceiling < trail.value:
        trail.wake.append((span[1] if wished_long_enough else span[0]).at + scale_out_s)
        words = f"more than {ceiling} has not been wanted for {scale_out_s:g} s: no scale-out yet"
        trail.set("stabilise", ceiling, Reason.STABILISING_OUT, words)


def limit_step(trail: Trail, before: int, spec: ModelSpec, moves: tuple[TimedTarget, ...], now: float) -> None:
    """At most so many more (fewer) than the least (most) that was the target within the step time."""
    if trail.value == before:
        return
    shape = spec.stabilisation
    recent = recent_moves(moves, now)
    targets = [before, *(move.target for move in recent)]
    most = max(before, min(targets) + shape.max_step_out)
    least = min(before, max(targets) - shape.max_step_in)
    if least <= trail.value <= most:
        return
    trail.wake.append((recent[0].at if recent else now) + _STEP_S)
    if trail.value > most:
        words = f"at most {shape.max_step_out} more within {_STEP_S:g} s"
        trail.set("step", most, Reason.MAX_STEP_OUT, words)
    else:
        words = f"at most {shape.max_step_in} fewer within {_STEP_S:g} s"
        trail.set("step", least, Reason.MAX_STEP_IN, words)


def recent_moves(moves: tuple[TimedTarget, ...], now: float) -> tuple[TimedTarget, ...]:
    """The targets that were given up within the step time, each with the time of that."""
    return _since(moves, _STEP_S, now)


def bound(trail: Trail, spec: ModelSpec) -> None:
    if trail.value < spec.minimum:
        trail.set("bounds", spec.minimum, Reason.MINIMUM, f"never fewer than {spec.minimum}")
    elif trail.value > spec.maximum:
        trail.set("bounds", spec.maximum, Reason.MAXIMUM, f"never more than {spec.maximum}")
