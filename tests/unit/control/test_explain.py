"""Why a decision came out as it did, and what would have changed it: every answer is run through ``step`` again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from broker.control.decide import Policies
from broker.control.explain import Counterfactual, Explanation, Situation, explain, target_in, with_signal
from broker.model.observation import Observation, Outcome, Override, PauseChanged, PauseScope, PoolSnapshot
from broker.model.plan import Recommendation
from broker.model.reading import ABSENT, Freshness, Reading, fresh, true_zero
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, ModelSnapshot, WindowReading
from broker.model.spec import JsonValue, Mode, PolicySpec, StabilisationSpec
from broker.model.state import Memory
from policies import registry
from tests.support.world import FakePolicy, World, fake_policies, model_spec

QUEUE_RULE: dict[str, JsonValue] = {
    "name": "queue", "signal": "queue_age_s", "above": 2.5, "for_s": 30.0, "change": 1
}  # fmt: skip
CALM_RULE: dict[str, JsonValue] = {
    "name": "calm", "signal": "requests_per_replica", "below": 4.0, "for_s": 60.0, "change": -1, "projected": True
}  # fmt: skip
KV_RULE: dict[str, JsonValue] = {"name": "kv", "signal": "kv_cache_use", "above": 0.8, "change": 2}


def threshold(*rules: dict[str, JsonValue]) -> PolicySpec:
    return PolicySpec("threshold", {"rules": list(rules)})


def threshold_world(*rules: dict[str, JsonValue], serving: int = 1, **spec: object) -> World:
    """``serving`` replicas are ready under an operator's override that has just ended."""
    world = World(models=(model_spec(policy=threshold(*rules), **spec),), policies=registry.cached())
    world.begin().bring_up()
    if serving > 1:
        world.override(serving, for_s=1.0)
        world.bring_up()
    return world.after(1)


def measured(
    world: World, values: Mapping[Signal, tuple[float, float, float]], *rules: dict[str, JsonValue]
) -> ModelSnapshot:
    """A snapshot with (least, latest, most) of each signal, in every window that the rules need."""
    world.sequence += 1
    readings = {signal: fresh(latest, world.now) for signal, (_, latest, _) in values.items()}
    windows = []
    for rule in rules:
        signal, span = Signal(str(rule["signal"])), rule.get("for_s", 0.0)
        if isinstance(span, float) and span and signal in values:
            least, latest, most = values[signal]
            windows.append(WindowReading(signal, span, Freshness.FRESH, True, least, most, latest, world.now))
    return ModelSnapshot("chat", world.sequence, world.now, world.now, readings, tuple(windows))


def explained(world: World, *observations: Observation) -> tuple[Explanation, Situation]:
    """What the next step decides on these, and why; told even if nothing about it is new."""
    model = replace(world.state.models["chat"], last_code="")
    world.state = world.state.with_changes({("model", "chat"): model})
    situation = Situation(world.state, observations, world.now)
    world.see(*observations)
    return explain(situation, world.decision(), world.policies), situation


def found(explanation: Explanation) -> Counterfactual:
    assert explanation.smallest is not None
    return explanation.smallest


def assert_true(explanation: Explanation, policies: Policies) -> None:
    """What is offered is the truth: run again, the decision comes out exactly so, and differently from before."""
    smallest, decision = explanation.smallest, explanation.decision
    if smallest is not None:
        assert target_in(smallest.situation, decision.model_id, policies) == smallest.target
        assert smallest.target != decision.target
        assert f"It would have been {smallest.target} {smallest.words}." == explanation.words[-1]


# -- thresholds


def test_a_rule_that_fired_is_named_with_value_and_bound_and_flips_just_below_it() -> None:
    world = threshold_world(QUEUE_RULE)
    explanation, _ = explained(world, measured(world, {Signal.QUEUE_AGE: (3.1, 4.0, 5.0)}, QUEUE_RULE))
    assert explanation.words[:3] == (
        "chat went from 1 to 2 replicas: +1 by rule queue: min(queue_age_s, 30s) = 3.1 > 2.5 (rule_scale_out).",
        "The threshold policy asked for 2: +1 by rule queue: min(queue_age_s, 30s) = 3.1 > 2.5 (rule_scale_out).",
        "It read min(queue_age_s, 30s) = 3.1 (fresh, held against 2.5).",
    )
    assert explanation.words[3].startswith("What follows: launch chat-1-g2 in local")
    assert explanation.words[-1].startswith("It would have been 1 if queue_age_s had been 2.5 instead of 3.1.")
    assert (found(explanation).was, found(explanation).target) == (3.1, 1)
    assert found(explanation).becomes == pytest.approx(2.5, rel=1e-6)
    assert_true(explanation, world.policies)


def test_a_rule_that_did_not_fire_flips_just_above_its_bound() -> None:
    world = threshold_world(QUEUE_RULE)
    explanation, _ = explained(world, measured(world, {Signal.QUEUE_AGE: (0.4, 1.0, 5.0)}, QUEUE_RULE))
    assert "no rule holds" in explanation.words[0]
    assert (found(explanation).was, found(explanation).target) == (0.4, 2)
    assert found(explanation).becomes == pytest.approx(2.5, rel=1e-6)
    assert_true(explanation, world.policies)


def test_the_nearest_of_several_rules_is_offered() -> None:
    world = threshold_world(QUEUE_RULE, KV_RULE)
    values = {Signal.QUEUE_AGE: (0.5, 0.5, 0.5), Signal.KV_CACHE_USE: (0.7, 0.7, 0.7)}
    explanation, _ = explained(world, measured(world, values, QUEUE_RULE, KV_RULE))
    assert (found(explanation).signal, found(explanation).target) == (Signal.KV_CACHE_USE, 3)
    assert found(explanation).becomes == pytest.approx(0.8, rel=1e-6)


def test_a_projected_rule_flips_at_the_bound_scaled_to_what_remains() -> None:
    rules = (QUEUE_RULE, CALM_RULE)
    world = threshold_world(*rules, serving=4)
    values = {Signal.QUEUE_AGE: (0.0, 0.0, 0.0), Signal.REQUESTS_PER_REPLICA: (1.0, 2.0, 3.5)}
    explanation, _ = explained(world, measured(world, values, *rules))
    assert world.target() == 4
    scaled = "held against 3, which is 4 scaled to the replicas that would remain"
    assert f"It read max(requests_per_replica, 1m) = 3.5 (fresh, {scaled})." in explanation.words
    assert (found(explanation).signal, found(explanation).target) == (Signal.REQUESTS_PER_REPLICA, 3)
    assert found(explanation).was == 3.5
    assert found(explanation).becomes == pytest.approx(3.0, rel=1e-6)  # 4.0 * 3 / 4
    assert_true(explanation, world.policies)


def test_a_rule_that_waits_to_fire_again_is_explained_by_time() -> None:
    world = threshold_world(QUEUE_RULE)
    long_queue = {Signal.QUEUE_AGE: (9.0, 9.0, 9.0)}
    world.see(measured(world, long_queue, QUEUE_RULE))
    world.bring_up()
    world.after(10)
    explanation, _ = explained(world, measured(world, long_queue, QUEUE_RULE))
    assert "rule queue holds and may fire in 20s" in explanation.words[0]
    assert found(explanation).signal is None
    assert explanation.words[-1] == "It would have been 3 had all been the same 20s later."
    assert_true(explanation, world.policies)


def test_a_missing_signal_is_told_as_missing() -> None:
    world = threshold_world(QUEUE_RULE)
    blind = ModelSnapshot("chat", 99, world.now, world.now, {Signal.QUEUE_AGE: ABSENT})
    explanation, _ = explained(world, blind)
    assert "nobody reports min(queue_age_s, 30s)" in explanation.words[0]
    assert "It had no value of min(queue_age_s, 30s) to read (absent)." in explanation.words
    assert_true(explanation, world.policies)


signal_values = st.floats(0.0, 20.0)


@settings(max_examples=100)
@given(st.tuples(signal_values, signal_values, signal_values), st.floats(0.5, 10.0), st.integers(1, 4))
def test_the_smallest_change_of_a_threshold_lies_at_its_bound(
    values: tuple[float, float, float], bound: float, serving: int
) -> None:
    rule = QUEUE_RULE | {"above": bound}
    world = threshold_world(rule, serving=serving)
    least, latest, most = sorted(values)
    assume(abs(least - bound) > 1e-3)
    explanation, _ = explained(world, measured(world, {Signal.QUEUE_AGE: (least, latest, most)}, rule))
    assert found(explanation).was == least
    assert found(explanation).becomes == pytest.approx(bound, rel=1e-6)
    assert found(explanation).target == serving + (1 if least < bound else 0)
    assert_true(explanation, world.policies)


# -- any policy


@settings(max_examples=100)
@given(
    st.floats(0.0, 12.0), st.integers(1, 8), st.integers(0, 60), st.sampled_from([0.0, 20.0]),
    st.sampled_from(["plain", "override", "pause", "observe", "absent"]),
)  # fmt: skip
def test_whatever_is_offered_flips_the_decision_as_told(
    rate: float, serving: int, wait_s: int, scale_in_s: float, case: str
) -> None:
    shape = StabilisationSpec(scale_in_s=scale_in_s, max_step_out=3, max_step_in=2)
    world = World(models=(model_spec(stabilisation=shape),), rate=float(serving)).begin()
    world.after(0.5)
    if case == "override":
        world.override(5, for_s=30.0)
    elif case == "pause":
        world.pause()
    elif case == "observe":
        world.declare(mode=Mode.OBSERVE)
    world.after(0.5 + wait_s)
    world.rate = None if case == "absent" else rate
    snapshot = world.snapshot()
    situation = Situation(world.state, (snapshot,), world.now)
    world.see(snapshot)
    if not world.decided():
        return
    explanation = explain(situation, world.decision(), fake_policies)
    assert_true(explanation, fake_policies)
    assert target_in(situation, "chat", fake_policies) == explanation.decision.target


def test_a_change_of_no_size_changes_nothing() -> None:
    world = World().begin()
    situation = Situation(world.state, (world.after(1).snapshot(),), world.now)
    assert with_signal(situation, "chat", Signal.ARRIVAL_RATE, 0.0) == situation
    assert with_signal(situation, "stranger", Signal.ARRIVAL_RATE, 1.0) is situation


def test_a_shifted_zero_is_a_fresh_value_and_back() -> None:
    world = World(rate=None).begin().after(1)
    snapshot = world.snapshot(**{Signal.ARRIVAL_RATE.value: true_zero(world.now)})
    higher = with_signal(Situation(world.state, (snapshot,), world.now), "chat", Signal.ARRIVAL_RATE, 2.0)
    lower = with_signal(higher, "chat", Signal.ARRIVAL_RATE, -9.0)
    assert reading_of(higher) == fresh(2.0, world.now)
    assert reading_of(lower) == true_zero(world.now)


def reading_of(situation: Situation) -> Reading:
    snapshot = situation.observations[0]
    assert isinstance(snapshot, ModelSnapshot)
    return snapshot.reading(Signal.ARRIVAL_RATE)


def test_a_fall_held_back_by_stabilisation_is_explained() -> None:
    world = World(models=(model_spec(stabilisation=StabilisationSpec(scale_in_s=60.0)),), rate=3.0).begin()
    world.rate = 1.0
    explanation, _ = explained(world.after(10), world.snapshot())
    assert (
        "Stabilisation kept it at 3: 3 or more was wanted within the last 60 s: no scale-in yet" in explanation.words[2]
    )
    assert_true(explanation, fake_policies)


def test_a_pause_is_what_held_a_paused_model() -> None:
    world = World(rate=1.0).begin().after(1)
    world.rate = 4.0
    pause = PauseChanged(PauseScope.ALL, "", True, "ann", "maintenance", world.now)
    explanation, _ = explained(world, pause, world.snapshot())
    assert "A pause kept it at 1: paused by ann: maintenance (paused)." in explanation.words
    assert explanation.words[-1] == "It would have been 4 without the pause."


def test_an_override_that_waits_for_a_pause_is_told_and_is_what_the_pause_prevents() -> None:
    world = World(rate=1.0).begin().bring_up()
    world.pause()
    situation = Situation(world.state, (Override("chat", "ann", "a demo", world.now, world.now + 60.0, 3),), world.now)
    world.see(*situation.observations)
    explanation = explain(situation, world.decision(), fake_policies)
    told = "A pause kept it at 1: paused by ann: maintenance; an override to 3 waits (paused)."
    assert told in explanation.words
    assert explanation.words[-1] == "It would have been 3 without the pause."


def test_with_starts_blocked_no_other_target_is_offered() -> None:
    world = World(rate=1.0).begin()
    for _ in range(3):
        situation = Situation(world.state, (world.accept(world.launches()[0], Outcome.REJECTED),), world.now)
        world.see(*situation.observations)
    explanation = explain(situation, world.decision(), fake_policies)
    assert explanation.smallest is None
    assert explanation.words[-1].startswith("Another target would have started nothing")


def test_an_override_is_what_moved_a_model_also_if_it_came_with_this_very_step() -> None:
    world = World(rate=1.0).begin().bring_up().after(1)
    override = Override("chat", "ann", "a demo at noon", world.now, world.now + 3600.0, 3)
    explanation, _ = explained(world, override, world.snapshot())
    assert explanation.decision.target == 3
    assert explanation.words[-1] == "It would have been 1 without the override."


def test_a_model_at_its_maximum_is_told_which_maximum_would_have_mattered() -> None:
    world = World(rate=1.0).begin().after(1)
    world.rate = 99.0
    explanation, _ = explained(world, world.snapshot())
    assert "The model's bounds made it 8: never more than 8 (maximum)." in explanation.words
    assert_true(explanation, fake_policies)


def test_a_decision_that_waits_for_room_says_how_many_can_be_had() -> None:
    world = World(rate=1.0).begin().bring_up().after(1)
    world.rate = 3.0
    full = PoolSnapshot("local", world.now, world.now, True, world.listing().replicas, 2)
    explanation, _ = explained(world, full, world.snapshot())
    assert (
        "Of these, 2 can be had now: local has 0 of 2 GPUs left where a replica needs 1 (no_pool)." in explanation.words
    )


def test_a_removed_model_is_explained_by_the_declaration() -> None:
    world = World(models=(model_spec(), model_spec("code"))).begin().bring_up()
    world.models = (model_spec(),)
    situation = Situation(world.state, (world.declared(),), world.now)
    world.see(world.declared())
    explanation = explain(situation, world.decision("code"), fake_policies)
    assert explanation.words[0] == "code went from 1 to 0 replicas: the model is no longer declared (retired)."
    assert explanation.words[-1].startswith("It is retired")


class FakeFaultyPolicy(FakePolicy):
    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        raise ZeroDivisionError("nobody asks")


def test_a_policy_that_raised_is_explained_without_looking_for_a_change_that_would_help() -> None:
    world = World(policies=lambda spec: FakeFaultyPolicy()).begin()
    explanation, _ = explained(world.after(1), world.snapshot())
    assert explanation.smallest is None
    assert "ZeroDivisionError: nobody asks" in explanation.words[0]
    assert explanation.words[-1].startswith("Its policy has a mistake")
