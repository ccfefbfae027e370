"""The threshold policy: one table for what it says of one moment, the rest for what it remembers and refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ConfigError
from broker.model.plan import Input, Recommendation
from broker.model.reading import Freshness, Reading, fresh, true_zero
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, WindowNeed, WindowReading
from broker.model.state import Memory
from policies.registry import build
from tests.unit.policies.fleet import NOON, fleet, threshold, through_json, window

AGE, LOAD, KV, WAITING = (
    Signal.QUEUE_AGE,
    Signal.REQUESTS_PER_REPLICA,
    Signal.KV_CACHE_USE,
    Signal.REQUESTS_WAITING,
)
RuleData = dict[str, Any]

QUEUE: RuleData = {"name": "queue", "signal": "queue_age_s", "above": 5, "for_s": 30, "change": 1}
RUSH: RuleData = {"name": "rush", "signal": "queue_age_s", "above": 20, "for_s": 10, "change": 3}
CACHE: RuleData = {"name": "cache", "signal": "kv_cache_use", "above": 0.9, "for_s": 30, "change": 1}
CALM: RuleData = {
    "name": "calm",
    "signal": "requests_per_replica",
    "below": 4,
    "for_s": 300,
    "change": -1,
    "projected": True,
}
EMPTY: RuleData = {"name": "empty", "signal": "requests_waiting", "below": 1, "for_s": 60, "change": -2}


@dataclass(frozen=True)
class Case:
    id: str
    rules: tuple[RuleData, ...]
    fleet: FleetSnapshot
    target: int
    code: str
    hold: bool = False
    words: str = ""


ABSENT, STALE = Freshness.ABSENT, Freshness.STALE
CASES = [
    Case(
        "a queue older than the bound for the whole window adds one",
        (QUEUE,),
        fleet(window(AGE, 30, 7.25, 12), target=2),
        3,
        "rule_scale_out",
        words="+1 by rule queue: min(queue_age_s, 30s) = 7.25 > 5",
    ),
    Case(
        "one moment below the bound is not above it for the whole window",
        (QUEUE,),
        fleet(window(AGE, 30, 4.9, 60), target=2),
        2,
        "no_rule_holds",
    ),
    Case("a value at the bound is not above it", (QUEUE,), fleet(window(AGE, 30, 5.0)), 1, "no_rule_holds"),
    Case(
        "a window that has not seen its whole time yet does not fire",
        (QUEUE,),
        fleet(window(AGE, 30, 9, covered=False)),
        1,
        "window_not_covered",
        hold=True,
    ),
    Case(
        "an instantaneous rule takes the latest value",
        ({**QUEUE, "for_s": 0},),
        fleet(readings={AGE: fresh(6.0, NOON)}),
        2,
        "rule_scale_out",
    ),
    Case(
        "a true zero is as good as a fresh value",
        ({**EMPTY, "for_s": 0},),
        fleet(readings={WAITING: true_zero(NOON)}, target=4),
        2,
        "rule_scale_in",
    ),
    Case(
        "the first replica comes when requests wait at the gateways and nothing runs",
        (QUEUE, CACHE),
        fleet(window(AGE, 30, 8), target=0),
        1,
        "rule_scale_out",
    ),
    Case(
        "the larger of two increases wins and tells of the other",
        (QUEUE, RUSH),
        fleet(window(AGE, 30, 21), window(AGE, 10, 30)),
        4,
        "rule_scale_out",
        words="+3 by rule rush: min(queue_age_s, 10s) = 30 > 20; also fired: queue (+1)",
    ),
    Case(
        "an increase wins over a larger decrease",
        (QUEUE, EMPTY),
        fleet(window(AGE, 30, 8), window(WAITING, 60, 0), target=5),
        6,
        "rule_scale_out",
    ),
    Case(
        "the more cautious of two decreases wins",
        (EMPTY, CALM),
        fleet(window(WAITING, 60, 0), window(LOAD, 300, 1), target=5),
        4,
        "rule_scale_in",
    ),
    Case(
        "a removal is judged by the load that the others would carry",
        (CALM,),
        fleet(window(LOAD, 300, 1, 2.6), target=3),
        2,
        "rule_scale_in",
        words="(4 scaled to the replicas that would remain)",
    ),
    Case(
        "a load that fits now but not on one replica less keeps them all",
        (CALM,),
        fleet(window(LOAD, 300, 1, 2.7), target=3),
        3,
        "no_rule_holds",
    ),
    Case(
        "the projection counts ready replicas, not those on their way",
        (CALM,),
        fleet(window(LOAD, 300, 1, 2.6), target=9, ready=2),
        9,
        "no_rule_holds",
    ),
    Case(
        "a projected rule never removes the last replica",
        (CALM,),
        fleet(window(LOAD, 300, 0), target=1),
        1,
        "no_rule_holds",
    ),
    Case(
        "with nothing ready a projected rule removes nothing",
        (CALM,),
        fleet(window(LOAD, 300, 0), target=2, ready=0),
        2,
        "no_rule_holds",
    ),
    Case("a removal stops at zero", (EMPTY,), fleet(window(WAITING, 60, 0), target=1), 0, "rule_scale_in"),
    Case(
        "with every signal absent it holds",
        (QUEUE, CALM),
        fleet(target=3),
        3,
        "signals_absent",
        hold=True,
        words="nobody reports",
    ),
    Case(
        "a stale value above the bound adds nothing and says so",
        (QUEUE,),
        fleet(window(AGE, 30, 9, freshness=STALE)),
        1,
        "signals_unusable",
        hold=True,
        words="rule queue cannot be judged, min(queue_age_s, 30s) is stale (last 9)",
    ),
    Case(
        "a stale value below the bound removes nothing",
        (EMPTY,),
        fleet(window(WAITING, 60, 0, freshness=STALE), target=4),
        4,
        "signals_unusable",
        hold=True,
    ),
    Case(
        "nothing is removed while another rule's signal is absent",
        (QUEUE, EMPTY),
        fleet(window(WAITING, 60, 0), target=4),
        4,
        "signals_unusable",
        hold=True,
        words="rule queue cannot be judged",
    ),
    Case(
        "nothing is removed while the window of an increase has a gap",
        (QUEUE, EMPTY),
        fleet(window(AGE, 30, 0, covered=False), window(WAITING, 60, 0), target=4),
        4,
        "window_not_covered",
        hold=True,
    ),
    Case(
        "another removal's uncovered window does not stand in the way of one that holds",
        (QUEUE, EMPTY, CALM),
        fleet(window(AGE, 30, 0), window(WAITING, 60, 0), window(LOAD, 300, 0, covered=False), target=4),
        2,
        "rule_scale_in",
    ),
    Case(
        "an increase needs no other signal than its own",
        (QUEUE, CACHE),
        fleet(window(AGE, 30, 9), window(KV, 30, 0.95, freshness=STALE)),
        2,
        "rule_scale_out",
    ),
]


def ask(rules: tuple[RuleData, ...], snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
    recommendation, after = build(threshold(*rules)).recommend(snapshot, memory)
    return recommendation, through_json(after)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_the_rules_say_of_one_moment(case: Case) -> None:
    recommendation, _ = ask(case.rules, case.fleet, {})
    assert (recommendation.target, recommendation.code, recommendation.hold) == (case.target, case.code, case.hold)
    assert case.words in recommendation.words


def test_a_recommendation_is_relative_shaped_and_its_baseline_the_minimum() -> None:
    recommendation, _ = ask((QUEUE,), fleet(window(AGE, 30, 9), minimum=2, target=2), {})
    assert (recommendation.relative, recommendation.shaped, recommendation.baseline) == (True, True, 2)


def test_inputs_carry_each_rules_value_with_its_bound_and_freshness() -> None:
    snapshot = fleet(window(AGE, 30, 9, 11), window(LOAD, 300, 1, 2, freshness=STALE), target=4)
    recommendation, _ = ask((QUEUE, CALM), snapshot, {})
    assert recommendation.inputs == (
        Input("queue_age_s", 9, Freshness.FRESH, 5, "min", 30),
        Input("requests_per_replica", 2, Freshness.STALE, 3, "max", 300, 4),
    )


def test_needs_are_the_windows_of_the_rules_each_once() -> None:
    policy = build(threshold(QUEUE, RUSH, {**QUEUE, "name": "more", "above": 50, "change": 2}, {**CACHE, "for_s": 0}))
    assert policy.needs() == (WindowNeed(AGE, 30), WindowNeed(AGE, 10))


class TestRearming:
    def test_a_rule_fires_again_only_after_its_time(self) -> None:
        changes = []
        memory: Memory = {}
        for second in range(0, 95, 5):
            snapshot = fleet(window(AGE, 30, 9, observed_at=NOON + second), now=NOON + second, target=1)
            recommendation, memory = ask((QUEUE,), snapshot, memory)
            if recommendation.target == 2:
                changes.append(second)
        assert changes == [0, 30, 60, 90]

    def test_while_it_waits_it_says_for_how_long_and_asks_to_be_woken(self) -> None:
        _, memory = ask((QUEUE,), fleet(window(AGE, 30, 9)), {})
        later = fleet(window(AGE, 30, 9, observed_at=NOON + 12), now=NOON + 12)
        recommendation, _ = ask((QUEUE,), later, memory)
        assert recommendation.code == "rearming"
        assert recommendation.words == "rule queue holds and may fire in 18s"
        assert recommendation.valid_until == NOON + 30

    def test_one_observation_never_counts_twice_however_often_it_is_asked(self) -> None:
        rules = ({**QUEUE, "for_s": 0},)
        same = fleet(readings={AGE: fresh(9, NOON)})
        first, memory = ask(rules, same, {})
        second, memory = ask(rules, same, memory)
        third, _ = ask(rules, fleet(readings={AGE: fresh(9, NOON + 1)}, now=NOON + 1), memory)
        assert [r.code for r in (first, second, third)] == ["rule_scale_out", "rearming", "rule_scale_out"]
        assert second.words == "rule queue holds and may fire on newer evidence"

    def test_a_source_whose_clock_was_set_back_still_brings_new_evidence(self) -> None:
        _, memory = ask((QUEUE,), fleet(window(AGE, 30, 9, observed_at=NOON)), {})
        set_back = fleet(window(AGE, 30, 9, observed_at=NOON - 3600), now=NOON + 30)
        assert ask((QUEUE,), set_back, memory)[0].code == "rule_scale_out"

    def test_two_rules_that_fire_together_are_both_used_up(self) -> None:
        _, memory = ask((QUEUE, RUSH), fleet(window(AGE, 30, 21), window(AGE, 10, 21)), {})
        soon = fleet(window(AGE, 30, 21, observed_at=NOON + 1), window(AGE, 10, 21, observed_at=NOON + 1), now=NOON + 1)
        assert ask((QUEUE, RUSH), soon, memory)[0].code == "rearming"

    def test_an_increase_makes_the_decreases_wait_their_time(self) -> None:
        def at(second: float, age: float) -> FleetSnapshot:
            moment = NOON + second
            windows = (window(AGE, 30, age, observed_at=moment), window(WAITING, 60, 0, observed_at=moment))
            return fleet(*windows, now=moment, target=5)

        _, memory = ask((QUEUE, EMPTY), at(0, 9), {})
        codes = []
        for second in (1, 59, 60):
            recommendation, memory = ask((QUEUE, EMPTY), at(second, 0), memory)
            codes.append(recommendation.code)
        assert codes == ["rearming", "rearming", "rule_scale_in"]

    def test_nothing_is_removed_while_an_increase_only_waits_to_fire_again(self) -> None:
        rules = (QUEUE, {**EMPTY, "for_s": 5})
        _, memory = ask(rules, fleet(window(AGE, 30, 9), window(WAITING, 5, 0), target=5), {})
        later = fleet(
            window(AGE, 30, 9, observed_at=NOON + 10), window(WAITING, 5, 0, observed_at=NOON + 10), now=NOON + 10
        )
        assert ask(rules, later, memory)[0].code == "rearming"

    def test_rules_that_no_longer_exist_are_forgotten(self) -> None:
        _, memory = ask((QUEUE,), fleet(window(AGE, 30, 9)), {})
        _, memory = ask((CACHE,), fleet(), memory)
        assert memory == {"disarmed": {}}


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no rules", {"rules": []}, "rules", "at least one"),
    ("no list of rules", {}, "rules", "missing"),
    ("an unknown field", {"rules": [QUEUE | {"abve": 5}]}, "rules[0].abve", "above"),
    ("an unknown field beside the rules", {"rules": [QUEUE], "rule": []}, "rule", "rules"),
    ("an unknown signal", {"rules": [QUEUE | {"signal": "queue_age"}]}, "rules[0].signal", "queue_age_s"),
    ("a bound that is no number", {"rules": [QUEUE | {"above": "5s"}]}, "rules[0].above", "number"),
    ("neither above nor below", {"rules": [QUEUE | {"above": None}]}, "rules[0].above", "exactly one"),
    ("above and below", {"rules": [QUEUE | {"below": 1}]}, "rules[0].above", "exactly one"),
    ("a negative bound", {"rules": [QUEUE | {"above": -1}]}, "rules[0].above", "negative"),
    ("a bound that nothing can be below", {"rules": [EMPTY | {"below": 0}]}, "rules[0].below", "never"),
    ("a percentage for a fraction", {"rules": [CACHE | {"above": 90}]}, "rules[0].above", "0.8 for 80 %"),
    ("a negative time", {"rules": [QUEUE | {"for_s": -1}]}, "rules[0].for_s", "duration"),
    ("no change", {"rules": [QUEUE | {"change": 0}]}, "rules[0].change", "+1"),
    ("removing under load", {"rules": [QUEUE | {"change": -1}]}, "rules[0].change", "-1"),
    ("adding in calm", {"rules": [EMPTY | {"change": 1}]}, "rules[0].change", "+1"),
    ("an unnamed rule", {"rules": [QUEUE | {"name": ""}]}, "rules[0].name", "name"),
    ("two rules of one name", {"rules": [QUEUE, CACHE | {"name": "queue"}]}, "rules[1].name", "two rules"),
    ("a projected increase", {"rules": [CACHE | {"projected": True}]}, "rules[0].projected", "removal"),
    (
        "a projection of a signal that does not scale",
        {"rules": [EMPTY | {"projected": True}]},
        "rules[0].projected",
        "requests_waiting does not change in a known proportion",
    ),
    (
        "a value that would add and remove at once",
        {"rules": [QUEUE, QUEUE | {"name": "x", "above": None, "below": 6, "change": -1}]},
        "rules[1].below",
        "add and remove at once",
    ),
]


@pytest.mark.parametrize(("parameters", "field", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_rules_that_cannot_be_meant_are_refused_with_their_field(
    parameters: dict[str, Any], field: str, words: str
) -> None:
    spec = replace(threshold(), parameters=parameters)
    with pytest.raises(ConfigError) as refused:
        build(spec)
    assert refused.value.field == field
    assert words in refused.value.problem


# Invariants over generated rules and fleets.

values = st.floats(0, 40, allow_nan=False)
freshnesses = st.sampled_from(Freshness)


@st.composite
def rules_and_fleets(draw: st.DrawFn) -> tuple[tuple[RuleData, ...], list[FleetSnapshot]]:
    rules = draw(st.lists(st.sampled_from([QUEUE, RUSH, CACHE, CALM, EMPTY]), min_size=1, unique_by=id))
    fleets = []
    now = NOON
    for _ in range(draw(st.integers(1, 8))):
        now += draw(st.sampled_from([0.0, 1.0, 10.0, 30.0, 300.0]))
        windows = []
        for rule in rules:
            low, high = sorted((draw(values), draw(values)))
            freshness = draw(freshnesses)
            if freshness is Freshness.ABSENT:
                windows.append(WindowReading(Signal(rule["signal"]), rule["for_s"], freshness, False))
            else:
                windows.append(
                    window(
                        Signal(rule["signal"]),
                        rule["for_s"],
                        low,
                        high,
                        freshness=freshness,
                        covered=draw(st.booleans()),
                        observed_at=now,
                    )
                )
        target = draw(st.integers(0, 6))
        fleets.append(fleet(*windows, target=target, ready=draw(st.integers(0, target)), now=now))
    return tuple(rules), fleets


@given(rules_and_fleets())
def test_the_same_history_gives_the_same_answers_also_through_a_restart(
    history: tuple[tuple[RuleData, ...], list[FleetSnapshot]],
) -> None:
    rules, fleets = history
    policy = build(threshold(*rules))
    running: Memory = {}
    restarted: Memory = {}
    for snapshot in fleets:
        first, running = policy.recommend(snapshot, running)
        second, restarted = build(threshold(*rules)).recommend(snapshot, through_json(restarted))
        assert first == second
        assert through_json(running) == through_json(restarted)
        disarmed = running["disarmed"]
        assert isinstance(disarmed, dict)
        assert set(disarmed) <= {rule["name"] for rule in rules}


@given(rules_and_fleets())
def test_nothing_is_ever_removed_while_a_signal_is_not_usable(
    history: tuple[tuple[RuleData, ...], list[FleetSnapshot]],
) -> None:
    rules, fleets = history
    policy = build(threshold(*rules))
    memory: Memory = {}
    for snapshot in fleets:
        recommendation, memory = policy.recommend(snapshot, memory)
        usable = all(w.freshness in (Freshness.FRESH, Freshness.ZERO) for w in snapshot.model.windows)
        if not usable:
            assert recommendation.target >= snapshot.supply.target
        if recommendation.hold:
            assert recommendation.target == snapshot.supply.target


@given(values, values, st.integers(0, 6))
def test_an_older_queue_never_asks_for_fewer_replicas(one: float, other: float, target: int) -> None:
    policy = build(threshold(QUEUE, RUSH))
    answers = [
        policy.recommend(fleet(window(AGE, 30, age), window(AGE, 10, age), target=target), {})[0].target
        for age in sorted((one, other))
    ]
    assert answers == sorted(answers)


@given(st.floats(0, 100), st.integers(1, 12), st.integers(1, 4))
def test_a_projected_removal_agrees_with_the_load_of_those_that_remain(load: float, ready: int, removed: int) -> None:
    rule = CALM | {"change": -removed, "for_s": 0}
    snapshot = fleet(readings={LOAD: Reading(Freshness.FRESH, load, NOON)}, target=ready)
    recommendation, _ = build(threshold(rule)).recommend(snapshot, {})
    remaining = ready - removed
    projected = load * ready / remaining if remaining > 0 else math.inf
    if not math.isclose(projected, 4):
        assert (recommendation.target < ready) == (projected < 4)
