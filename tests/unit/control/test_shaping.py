"""The clamps between a policy's wish and the target."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control.shaping import Trail, bound, credit_supply, limit_step, stabilise
from broker.model.plan import Recommendation
from broker.model.snapshot import Supply
from broker.model.spec import StabilisationSpec
from broker.model.state import TimedTarget
from tests.support.world import World, model_spec

Wishes = list[tuple[float, int]]


def followed(wishes: Wishes, *, start: int, relative: bool = False, **shape: Any) -> list[int]:
    """The targets that stabilisation alone makes of wishes made at the given times."""
    values: dict[str, Any] = {"scale_out_s": 0.0, "scale_in_s": 0.0} | shape
    spec = model_spec(stabilisation=StabilisationSpec(**values), maximum=1000)
    target, history = start, ()
    targets = []
    for at, wish in wishes:
        trail = Trail(wish)
        recommendation = Recommendation(wish, 0, "code", "words", relative=relative)
        history = stabilise(trail, recommendation, target, spec, history, at)  # type: ignore[assignment]  # grows
        target = trail.value
        targets.append(target)
    return targets


STABILISED: list[tuple[str, dict[str, float], int, Wishes, list[int]]] = [
    ("without times the wish is the target", {}, 1, [(0, 5), (1, 2)], [5, 2]),
    ("scale-in waits until nothing higher stood for its time", {"scale_in_s": 60}, 1,
     [(0, 5), (10, 2), (69.9, 2), (70, 2)], [5, 5, 5, 2]),
    ("a short rise in the window begins the wait anew", {"scale_in_s": 60}, 1,
     [(0, 5), (10, 2), (40, 4), (50, 2), (70, 2), (109, 2), (110, 2)], [5, 5, 5, 5, 4, 4, 2]),
    ("an old wish that was never replaced still stands", {"scale_in_s": 60}, 1, [(0, 5), (1000, 2), (1060, 2)],
     [5, 5, 2]),
    ("scale-out waits until nothing lower stood for its time", {"scale_out_s": 30}, 1,
     [(0, 1), (10, 4), (39.9, 4), (40, 4)], [1, 1, 1, 4]),
    ("scale-out goes to the least that was wanted throughout", {"scale_out_s": 30}, 1,
     [(0, 3), (10, 6), (30, 6), (40, 6)], [1, 1, 3, 6]),
    ("a first wish has not been held for long", {"scale_out_s": 30}, 1, [(0, 4), (29, 4), (30, 4)], [1, 1, 4]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "start", "wishes", "targets"), [row[1:] for row in STABILISED], ids=[row[0] for row in STABILISED]
)
def test_targets_follow_wishes_as_the_stabilisation_says(
    shape: dict[str, Any], start: int, wishes: Wishes, targets: list[int]
) -> None:
    assert followed(wishes, start=start, **shape) == targets


def test_a_relative_wish_for_less_waits_after_the_last_wish_for_more() -> None:
    wishes = [(0.0, 3), (30.0, 2), (59.0, 2), (60.0, 2)]
    assert followed(wishes, start=2, relative=True, scale_in_s=60.0) == [3, 3, 3, 2]


def test_a_policy_that_shapes_itself_is_not_stabilised() -> None:
    trail = Trail(1)
    spec = model_spec(stabilisation=StabilisationSpec(scale_in_s=600.0))
    history = (TimedTarget(0.0, 9),)
    stabilise(trail, Recommendation(1, 0, "code", "words", shaped=True), 9, spec, history, 1.0)
    assert (trail.value, trail.steps) == (1, [])


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12)), min_size=1, max_size=200),
    st.integers(0, 300),
)
def test_scale_in_never_goes_below_the_highest_wish_of_the_window(
    steps: list[tuple[int, int]], scale_in_s: int
) -> None:
    """However often the wish changes: a bounded history may blur the window, not shorten it."""
    at, wishes = 0.0, []
    for gap, wish in steps:
        at += gap / 10
        wishes.append((at, wish))
    targets = followed(wishes, start=wishes[0][1], scale_in_s=float(scale_in_s))
    for index, (now, wish) in enumerate(wishes):
        in_window = [w for t, w in wishes[: index + 1] if t + scale_in_s > now]
        assert targets[index] >= max([wish, *in_window])


@given(st.floats(2**31 - 3600, 2**31 - 1), st.floats(0.001, 3600.0), st.booleans())
def test_at_the_time_that_stabilisation_names_it_lets_go(at: float, scale_in_s: float, relative: bool) -> None:
    """The wake must not come too early by a rounding, and then never again (2038: floats of time become coarser)."""
    spec = model_spec(stabilisation=StabilisationSpec(scale_in_s=scale_in_s), maximum=1000)
    history: tuple[TimedTarget, ...] = (TimedTarget(at, 5),)
    now = at if relative else at + 1.0
    trail = Trail(2)
    wish = Recommendation(2, 0, "code", "words", relative=relative)
    history = stabilise(trail, wish, 5, spec, history, now)
    assert trail.value == 5
    later = Trail(2)
    stabilise(later, wish, 5, spec, history, trail.wake[0])
    assert later.value == 2


def test_a_wish_that_jitters_for_ever_still_lets_the_target_down() -> None:
    wishes = [(0.0, 50), *((float(t), 3 + t % 2) for t in range(1, 1000))]
    targets = followed(wishes, start=50, scale_in_s=300.0)
    assert targets[299] == 50
    assert targets[400] == 4


@pytest.mark.parametrize(
    ("relative", "wish", "on_its_way", "value"),
    [
        pytest.param(True, 3, 0, 3, id="nothing on its way: the wish stands"),
        pytest.param(True, 3, 1, 2, id="one more is wanted and one is coming: the target stands"),
        pytest.param(True, 5, 1, 4, id="three more are wanted and one is coming: two more"),
        pytest.param(True, 3, 9, 2, id="a credit never lowers the target"),
        pytest.param(True, 1, 1, 1, id="a wish for less is not credited"),
        pytest.param(False, 3, 1, 3, id="an absolute wish already counts what is coming"),
    ],
)
def test_supply_on_its_way_is_credited_once(relative: bool, wish: int, on_its_way: int, value: int) -> None:
    trail = Trail(wish)
    recommendation = Recommendation(wish, 0, "code", "words", relative=relative)
    credit_supply(trail, recommendation, Supply(2, 2, on_its_way, 0))
    assert trail.value == value


@pytest.mark.parametrize(
    ("wish", "moves", "value", "code"),
    [
        pytest.param(8, [], 8, None, id="within the step"),
        pytest.param(20, [], 9, "max_step_out", id="four more at once"),
        pytest.param(20, [(95.0, 3)], 7, "max_step_out", id="counted from the least target of the last 15 s"),
        pytest.param(20, [(95.0, 1)], 5, "max_step_out", id="what was already added uses up the step"),
        pytest.param(20, [(85.0, 1)], 9, "max_step_out", id="15 s later there is a new step"),
        pytest.param(1, [], 4, "max_step_in", id="one fewer at once"),
        pytest.param(1, [(95.0, 6)], 5, "max_step_in", id="what has already left uses up the step"),
        pytest.param(7, [(95.0, 6)], 7, None, id="a step back up is a step out"),
    ],
)
def test_steps_are_limited_in_time_not_by_decision(
    wish: int, moves: list[tuple[float, int]], value: int, code: str | None
) -> None:
    trail = Trail(wish)
    spec = model_spec(stabilisation=StabilisationSpec(max_step_out=4, max_step_in=1))
    limit_step(trail, 5, spec, tuple(TimedTarget(at, target) for at, target in moves), 100.0)
    assert trail.value == value
    assert [step.code for step in trail.steps] == ([] if code is None else [code])
    assert (trail.wake == []) == (code is None)


@pytest.mark.parametrize("interval_s", [0.05, 1.0, 7.0], ids=["20 a second", "each second", "every 7 s"])
def test_a_step_that_runs_more_often_scales_no_faster(interval_s: float) -> None:
    shape = StabilisationSpec(scale_out_s=0.0, scale_in_s=0.0, max_step_out=2, max_step_in=1)
    world = World(models=(model_spec(stabilisation=shape, maximum=100),)).begin()
    world.rate = 100.0
    began = world.now
    while world.now < began + 14:
        world.after(interval_s).see(world.snapshot())
    assert world.target() == 3
    world.now = began + 30
    world.see(world.snapshot())
    assert world.target() == 5


@pytest.mark.parametrize(("value", "bounded"), [(0, 1), (5, 5), (9, 8)], ids=["below", "within", "above"])
def test_a_value_is_kept_within_the_bounds(value: int, bounded: int) -> None:
    trail = Trail(value)
    bound(trail, model_spec(minimum=1, maximum=8))
    assert trail.value == bounded
