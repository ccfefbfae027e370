"""Rules of the form "signal above (below) a bound for some time: add (remove) replicas".

Semantics, in the order in which they are applied:

- A rule *holds* when its signal is usable and, over the last ``for_s`` seconds, stayed above (below) its bound:
  the declared window is covered and its minimum (maximum) lies beyond the bound. ``for_s`` 0 takes the latest value.
- A rule that fired is disarmed for ``for_s`` and until there is newer evidence: one observation never counts twice.
- An increase wins over any decrease, the largest first. It also disarms the decreases for their ``for_s``: how calm
  it was before says nothing of the fleet after.
- Nothing is removed while a rule for an increase still holds or cannot be judged, or while any rule's signal is
  stale or absent. Of several decreases the most cautious wins.
- A ``projected`` decrease asks whether the load would still lie below the bound once spread over the replicas that
  remain.

The ``for`` of the rules is the hysteresis, so recommendations are ``shaped``: the core's waiting times are for policies
that say at every moment what they want, and a rule says ``-1`` once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from broker.model import wire
from broker.model.errors import ConfigError
from broker.model.plan import Input, Recommendation
from broker.model.reading import Freshness
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, WindowNeed
from broker.model.spec import PolicySpec
from broker.model.state import Memory
from broker.model.units import format_duration
from policies.parameters import read_parameters

KIND = "threshold"

INTENSIVE = frozenset({Signal.REQUESTS_PER_REPLICA, Signal.KV_CACHE_USE})
"""Signals that rise as N/(N-1) when one of N replicas leaves: the only ones that can be projected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Exactly one of ``above`` and ``below`` is set; ``change`` is positive with the one, negative with
    the other, since every signal rises with load."""

    name: str
    signal: Signal
    change: int
    above: float | None = None
    below: float | None = None
    for_s: float = 0.0
    projected: bool = False

    @property
    def bound(self) -> float:
        return self.above if self.above is not None else self.below or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdParameters:
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Disarmed:
    """A rule waits from ``at`` on; ``evidence_at`` is when the value was observed that it has already used."""

    at: float
    evidence_at: float | None = None


@dataclass(frozen=True, slots=True)
class ThresholdMemory:
    """By rule name, only of rules that exist."""

    disarmed: Mapping[str, Disarmed] = field(default_factory=dict)


class Verdict(Enum):
    HOLDS = auto()
    QUIET = auto()
    UNCOVERED = auto()
    STALE = auto()
    ABSENT = auto()


class Judgement(NamedTuple):
    """What one rule says now; a tuple, since each decision makes one for each rule. ``bound`` is the one that
    ``value`` is held against, scaled if the rule is projected."""

    rule: Rule
    verdict: Verdict
    value: float | None
    bound: float
    freshness: Freshness
    evidence_at: float | None

    @property
    def name(self) -> str:
        """For words, such as ``min(queue_age_s, 30s)``."""
        rule = self.rule
        if not rule.for_s:
            return rule.signal.value
        return f"{'max' if rule.above is None else 'min'}({rule.signal.value}, {format_duration(rule.for_s)})"


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """See the module's text for the semantics."""

    parameters: ThresholdParameters

    @property
    def kind(self) -> str:
        return KIND

    def needs(self) -> tuple[WindowNeed, ...]:
        needs = [WindowNeed(rule.signal, rule.for_s) for rule in self.parameters.rules if rule.for_s > 0]
        return tuple(dict.fromkeys(needs))

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        judgements = [_judge(rule, snapshot) for rule in self.parameters.rules]
        outcome = _decide(judgements, memory, snapshot.now)
        recommendation = Recommendation(
            target=max(0, snapshot.supply.target + outcome.change),
            baseline=snapshot.minimum,
            code=outcome.code,
            words=outcome.words,
            inputs=tuple([_input(judged) for judged in judgements]),
            relative=True,
            shaped=True,
            hold=outcome.hold,
            valid_until=outcome.valid_until,
        )
        return recommendation, self._remember(memory, outcome.disarms, snapshot.now)

    def _remember(self, memory: Memory, disarms: Sequence[Judgement], now: float) -> Memory:
        known = memory.get("disarmed")
        if not disarms and known == {}:
            return memory
        names = {rule.name for rule in self.parameters.rules}
        if not disarms and isinstance(known, dict) and known.keys() <= names:
            return memory
        kept = {name: entry for name, entry in _disarmed(memory).items() if name in names}
        used = {judged.rule.name: Disarmed(now, judged.evidence_at) for judged in disarms}
        encoded: Memory = wire.encode(ThresholdMemory(kept | used))
        return encoded


class _Outcome(NamedTuple):
    code: str
    words: str
    change: int = 0
    hold: bool = False
    disarms: Sequence[Judgement] = ()
    valid_until: float | None = None


_NO_RULE_HOLDS = _Outcome("no_rule_holds", "no rule holds")


def _input(judged: Judgement) -> Input:
    rule = judged.rule
    declared = rule.bound if rule.projected else None
    statistic = "" if not rule.for_s else "max" if rule.above is None else "min"
    return Input(
        rule.signal.value, judged.value, judged.freshness, judged.bound, statistic, rule.for_s, declared
    )  # fmt: skip


def _judge(rule: Rule, snapshot: FleetSnapshot) -> Judgement:
    if rule.for_s > 0:
        window = snapshot.model.window(rule.signal, rule.for_s)
        value = window.minimum if rule.above is not None else window.maximum
        freshness, covered, evidence_at = window.freshness, window.covered, window.observed_at
    else:
        reading = snapshot.model.reading(rule.signal)
        value, freshness, covered, evidence_at = reading.value, reading.freshness, True, reading.observed_at
    bound = rule.bound
    if rule.projected:
        bound *= _remaining_share(rule, snapshot.supply.ready)
    verdict = _verdict(rule, value, bound, freshness, covered)
    return Judgement(rule, verdict, value, bound, freshness, evidence_at)


def _remaining_share(rule: Rule, ready: int) -> float:
    """(N + change) / N for a projected rule: value * N / (N + change) < bound, written without the division by zero
    that removing the last replica would be."""
    return max(0, ready + rule.change) / ready if ready > 0 else 0.0


def _verdict(rule: Rule, value: float | None, bound: float, freshness: Freshness, covered: bool) -> Verdict:
    if freshness is Freshness.ABSENT or (covered and value is None):
        return Verdict.ABSENT
    if freshness is Freshness.STALE:
        return Verdict.STALE
    if not covered or value is None:
        return Verdict.UNCOVERED
    beyond = value > bound if rule.above is not None else value < bound
    return Verdict.HOLDS if beyond else Verdict.QUIET


def _disarmed(memory: Memory) -> Mapping[str, Disarmed]:
    remembered: ThresholdMemory = wire.decode(ThresholdMemory, memory)
    return remembered.disarmed


def _decide(judgements: Sequence[Judgement], memory: Memory, now: float) -> _Outcome:
    if not [judged for judged in judgements if judged.verdict is not Verdict.QUIET]:  # nearly always
        return _NO_RULE_HOLDS
    increases = [judged for judged in judgements if judged.rule.change > 0]
    decreases = [judged for judged in judgements if judged.rule.change < 0]
    wanting = [judged for judged in increases if judged.verdict is Verdict.HOLDS]
    if wanting:
        disarmed = _disarmed(memory)
        fired = [judged for judged in wanting if _armed(judged, disarmed, now)]
        if not fired:
            return _rearming(wanting, disarmed, now)
        winner = max(fired, key=lambda judged: judged.rule.change)
        return _Outcome("rule_scale_out", _fired_words(winner, fired), winner.rule.change, disarms=fired + decreases)
    doubt = _doubt(judgements)
    if doubt is not None:
        return doubt
    sparing = [judged for judged in decreases if judged.verdict is Verdict.HOLDS]
    if sparing:
        disarmed = _disarmed(memory)
        fired = [judged for judged in sparing if _armed(judged, disarmed, now)]
        if not fired:
            return _rearming(sparing, disarmed, now)
        winner = max(fired, key=lambda judged: judged.rule.change)
        return _Outcome("rule_scale_in", _fired_words(winner, fired), winner.rule.change, disarms=fired)
    return _NO_RULE_HOLDS


def _armed(judged: Judgement, disarmed: Mapping[str, Disarmed], now: float) -> bool:
    entry = disarmed.get(judged.rule.name)
    if entry is None:
        return True
    new_evidence = entry.evidence_at is None or judged.evidence_at != entry.evidence_at
    return now >= entry.at + judged.rule.for_s and new_evidence


def _doubt(judgements: Sequence[Judgement]) -> _Outcome | None:
    """Why nothing may be removed although no rule asks for more, if there is such a reason."""
    unusable = [judged for judged in judgements if judged.verdict in (Verdict.STALE, Verdict.ABSENT)]
    if unusable:
        everything_absent = all(judged.verdict is Verdict.ABSENT for judged in judgements)
        code = "signals_absent" if everything_absent else "signals_unusable"
        return _Outcome(code, "holding: " + "; ".join(_doubt_words(judged) for judged in unusable), hold=True)
    uncovered = [judged for judged in judgements if judged.verdict is Verdict.UNCOVERED and judged.rule.change > 0]
    if uncovered:
        words = "; ".join(_doubt_words(judged) for judged in uncovered)
        return _Outcome("window_not_covered", f"holding: {words}", hold=True)
    return None


def _rearming(holding: Sequence[Judgement], disarmed: Mapping[str, Disarmed], now: float) -> _Outcome:
    armed_at = {judged.rule.name: disarmed[judged.rule.name].at + judged.rule.for_s for judged in holding}
    words = "; ".join(
        f"rule {name} holds and may fire " + (f"in {format_duration(at - now)}" if at > now else "on newer evidence")
        for name, at in armed_at.items()
    )
    return _Outcome("rearming", words, valid_until=min((at for at in armed_at.values() if at > now), default=None))


def _fired_words(winner: Judgement, fired: Sequence[Judgement]) -> str:
    others = [f"{judged.rule.name} ({judged.rule.change:+d})" for judged in fired if judged is not winner]
    also = f"; also fired: {', '.join(others)}" if others else ""
    return f"{winner.rule.change:+d} by rule {winner.rule.name}: {_value_words(winner)}{also}"


def _value_words(judged: Judgement) -> str:
    relation = ">" if judged.rule.above is not None else "<"
    projected = f" ({judged.rule.bound:g} scaled to the replicas that would remain)" if judged.rule.projected else ""
    return f"{judged.name} = {judged.value:.4g} {relation} {judged.bound:.4g}{projected}"


def _doubt_words(judged: Judgement) -> str:
    cannot = f"rule {judged.rule.name} cannot be judged, "
    if judged.verdict is Verdict.STALE:
        return f"{cannot}{judged.name} is stale" + (f" (last {judged.value:.4g})" if judged.value is not None else "")
    if judged.verdict is Verdict.ABSENT:
        return f"{cannot}nobody reports {judged.name}"
    return f"{cannot}{judged.name} does not cover its time yet"


def build_threshold(spec: PolicySpec) -> ThresholdPolicy:
    """Raises ``ConfigError`` with the field, as ``rules[0].above``, and what would be right."""
    parameters = read_parameters(ThresholdParameters, spec)
    if not parameters.rules:
        raise ConfigError("no rules; give at least one, for example queue_age_s above 5s for 30s: +1", field="rules")
    for index, rule in enumerate(parameters.rules):
        _check_rule(rule, f"rules[{index}]")
        if rule.name in {earlier.name for earlier in parameters.rules[:index]}:
            raise ConfigError(f"{rule.name!r} names two rules; give each its own", field=f"rules[{index}].name")
    _check_bands(parameters.rules)
    return ThresholdPolicy(parameters)


def _check_rule(rule: Rule, where: str) -> None:
    if not rule.name:
        raise ConfigError("a rule needs a name, by which decisions tell of it", field=f"{where}.name")
    if (rule.above is None) == (rule.below is None):
        raise ConfigError("give exactly one of above and below", field=f"{where}.above")
    side = "above" if rule.above is not None else "below"
    if rule.bound < 0 or (side == "below" and rule.bound == 0):
        raise ConfigError(f"{rule.bound:g} can never matter, no signal is negative", field=f"{where}.{side}")
    if rule.signal is Signal.KV_CACHE_USE and rule.bound > 1:
        raise ConfigError("kv_cache_use is a fraction; write 0.8 for 80 %", field=f"{where}.{side}")
    if rule.for_s < 0:
        raise ConfigError(f"{rule.for_s:g} is not a duration of zero or more seconds", field=f"{where}.for_s")
    if rule.change == 0 or (rule.change > 0) != (side == "above"):
        raise ConfigError(
            f"{rule.change:+d} does not go with {side}: every signal rises with load, so above adds (+1) "
            "and below removes (-1)",
            field=f"{where}.change",
        )
    if rule.projected and (rule.change > 0 or rule.signal not in INTENSIVE):
        known = " and ".join(sorted(signal.value for signal in INTENSIVE))
        raise ConfigError(
            f"only a removal judged by {known} can be projected: {rule.signal.value} does not change in a known "
            "proportion with the number of replicas",
            field=f"{where}.projected",
        )


def _check_bands(rules: Sequence[Rule]) -> None:
    """A value that adds and removes at once would make the fleet swing for ever."""
    for index, rule in enumerate(rules):
        lowest_above = min((r.above for r in rules if r.signal is rule.signal and r.above is not None), default=None)
        if rule.below is not None and lowest_above is not None and rule.below > lowest_above:
            raise ConfigError(
                f"{rule.signal.value} between {lowest_above:g} and {rule.below:g} would add and remove at once; "
                f"lower this to {lowest_above:g} or less",
                field=f"rules[{index}].below",
            )
