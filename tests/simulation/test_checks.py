"""What must hold is asked in every run; what does not stops it, and can be looked at again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import wire
from broker.model.errors import InvariantViolated
from broker.model.plan import Recommendation
from broker.model.snapshot import FleetSnapshot, WindowNeed
from broker.model.spec import PolicySpec
from broker.model.state import Memory
from policies.base import Policy
from policies.registry import build
from simulator.checks.checks import STEPS_KEPT
from simulator.checks.level import CheckLevel
from simulator.checks.replaying import Verdict, resume
from simulator.checks.saved import read_saved
from simulator.checks.saving import saved_on_error
from simulator.ledger import OPEN
from tests.support.simulated import ELASTIC, SLOW_ENGINE, SmallRun, small_request, workloads
from traces.schema import TraceRequest

BURST = [small_request(0.1 * n) for n in range(60)]


def nothing(number: int, plan: object) -> None:
    """A listener."""


@settings(max_examples=25)
@given(workloads(), st.sampled_from([1, 2]))
def test_everything_holds_at_every_step_and_to_ask_changes_nothing(requests: list[TraceRequest], minimum: int) -> None:
    model = replace(ELASTIC, minimum=minimum, drain_limit_s=2.0)
    plain, audited = SmallRun(model), SmallRun(model, checks=CheckLevel.FULL)
    assert audited.run(requests) == plain.run(requests)
    assert list(map(wire.dumps, audited.store.steps)) == list(map(wire.dumps, plain.store.steps))


def test_everything_holds_while_replicas_crash() -> None:
    run = SmallRun(replace(ELASTIC, minimum=2), checks=CheckLevel.FULL)

    def crash_one() -> None:
        replicas = run.simulation.pools["pool"].replicas.values()
        run.simulation.crash(next(r.replica_id for r in replicas if r.serves(run.simulation.now)))

    for second in (2.0, 4.0, 6.0):
        run.simulation._driver.at(run.start_at + second, crash_one)
    summary = run.run(BURST)
    assert summary.requests.cut
    assert summary.requests.sent == len(BURST)


# -- what is broken stops the run


def greedy_replica(run: SmallRun) -> None:
    """It holds a GPU that nobody counted."""
    replica = next(iter(run.simulation.pools["pool"].replicas.values()))
    replica.launch = replace(replica.launch, model=replace(replica.launch.model, gpus=2))


def lost_request(run: SmallRun) -> None:
    run.simulation._ledger.status[0] = OPEN


def double_request(run: SmallRun) -> None:
    run.simulation._door._tally.open[0] += 1


def back_door(run: SmallRun) -> None:
    """Requests go to a replica that no registry tells of."""
    place = run.simulation._fleet.start(SLOW_ENGINE)
    run.simulation._door._places["unknown"] = place
    run.simulation._fleet.route(0, [place])


def kept_blocks(run: SmallRun) -> None:
    run.simulation._fleet._state.replicas["free_blocks"][0] -= 1


def made_up_tokens(run: SmallRun) -> None:
    run.simulation._fleet._state.replicas["generation_tokens"][0] += 1


def untold_arrival(run: SmallRun) -> None:
    run.simulation._door._tally.arrived[0] -= 1


BREAKS: dict[str, tuple[int, CheckLevel, Callable[[SmallRun], None]]] = {
    "a GPU that nobody counted": (6, CheckLevel.CHEAP, greedy_replica),
    "a request whose answer is lost": (9, CheckLevel.CHEAP, lost_request),
    "a request counted twice": (9, CheckLevel.CHEAP, double_request),
    "requests to what is not published": (5, CheckLevel.FULL, back_door),
    "a block of the KV cache that nobody holds": (9, CheckLevel.FULL, kept_blocks),
    "a token that no request got": (9, CheckLevel.FULL, made_up_tokens),
    "an arrival that no window was told of": (9, CheckLevel.FULL, untold_arrival),
}


def broken_run(case: str) -> tuple[SmallRun, InvariantViolated]:
    _, level, break_it = BREAKS[case]
    run = SmallRun(checks=level)
    run.simulation._driver.at(run.start_at + 3.0, lambda: break_it(run))
    with pytest.raises(InvariantViolated) as raised:
        run.run(BURST)
    return run, raised.value


@pytest.mark.parametrize("case", BREAKS)
def test_what_is_broken_stops_the_run_and_is_found_again_when_it_is_replayed(case: str, tmp_path: Path) -> None:
    run, error = broken_run(case)
    assert error.invariant == BREAKS[case][0]
    told: list[str] = []
    with pytest.raises(InvariantViolated), saved_on_error(run.simulation, tmp_path, told.append):
        raise error
    (path,) = tmp_path.iterdir()
    assert str(path) in told[0]
    saved = read_saved(path)
    assert (saved.problem, saved.invariant) == (str(error), error.invariant)
    assert saved.steps[-1] == run.store.steps[-1]
    resumed = resume(saved, build, nothing)
    assert (resumed.verdict, resumed.problem, resumed.differs_from) == (Verdict.SAME, str(error), None)
    mended = resume(replace(saved, world=None), build, nothing)
    assert (mended.verdict, mended.problem) == (Verdict.GONE, "")


def test_the_steps_kept_are_bounded_and_begin_where_a_state_was_kept() -> None:
    run = SmallRun(tail_s=900.0)
    run.run(BURST)
    saved = run.simulation.saved(ValueError("to look at"))
    assert STEPS_KEPT <= len(saved.steps) < 2 * STEPS_KEPT < len(run.store.steps)
    assert saved.steps == tuple(run.store.steps[-len(saved.steps) :])
    assert resume(saved, build, nothing).verdict is Verdict.GONE


# -- policies


@dataclass
class FakePolicy:
    """Some other policy, until it has been asked so often; then it raises, for some time or for good."""

    inner: Policy
    good: int
    bad: int
    asked: int = 0
    kind: str = "fake"

    def needs(self) -> tuple[WindowNeed, ...]:
        return self.inner.needs()

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        self.asked += 1
        if self.good < self.asked <= self.good + self.bad:
            raise ZeroDivisionError("nobody waits")
        return self.inner.recommend(snapshot, memory)


@dataclass
class FakePolicies:
    good: int
    bad: int
    made: list[FakePolicy] = field(default_factory=list)

    def __call__(self, spec: PolicySpec) -> FakePolicy:
        if not self.made:
            self.made.append(FakePolicy(build(spec), self.good, self.bad))
        return self.made[0]


def test_a_policy_that_raises_holds_its_model_and_the_summary_says_so(tmp_path: Path) -> None:
    """As in production: it is asked again with each snapshot, and what serves keeps serving."""
    run = SmallRun(policies=FakePolicies(good=12, bad=10**9))
    told: list[str] = []
    with saved_on_error(run.simulation, tmp_path, told.append):
        summary = run.run(BURST)
    assert summary.requests.finished == len(BURST)
    (problem,) = summary.problems
    assert "the policy of chat failed in" in problem
    assert "ZeroDivisionError: nobody waits; the target was kept meanwhile" in problem
    assert run.simulation.failed is not None
    assert run.simulation.failed.count > 25
    held = [decision for decision in summary.decisions if decision.code == "policy_failed"]
    assert [decision.before for decision in held] == [decision.target for decision in held] != []
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("tidegate-violation-zerodivisionerror-step")
    resumed = resume(read_saved(path), FakePolicies(good=12, bad=10**9), nothing)
    assert resumed.verdict is Verdict.SAME
    assert resume(read_saved(path), build, nothing).verdict is Verdict.GONE


def test_a_policy_that_recovers_decides_again() -> None:
    run = SmallRun(policies=FakePolicies(good=12, bad=5))
    summary = run.run(BURST)
    assert run.simulation.failed is not None
    assert run.simulation.failed.count == 5
    assert "the policy of chat failed in 5 steps" in summary.problems[0]
    assert summary.peak_ready > 1


@dataclass
class FakeMoodyPolicy(FakePolicy):
    """Says something else each time it is asked: no replay could show what it did."""

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        self.asked += 1
        return Recommendation(1 + self.asked % 2, 1, "mood", f"the {self.asked}th time"), memory


def test_a_policy_with_a_memory_of_its_own_is_found_by_the_full_checks() -> None:
    moody = FakeMoodyPolicy(build(ELASTIC.policy), 0, 0)
    run = SmallRun(checks=CheckLevel.FULL, policies=lambda spec: moody)
    with pytest.raises(InvariantViolated, match="decides otherwise when it is decided again"):
        run.run(BURST)


# -- ended early


@pytest.mark.parametrize("at_s", [-3.0, 0.0, 1.55, 8.0])
def test_a_run_that_is_stopped_tells_of_what_happened_until_then(at_s: float) -> None:
    whole, stopped = SmallRun(), SmallRun(checks=CheckLevel.FULL)
    stopped.simulation._driver.at(stopped.start_at + at_s, stopped.simulation.stop)
    whole.run(BURST)
    summary = stopped.run(BURST)
    assert summary.partial is not None
    assert summary.partial.reached_s == pytest.approx(at_s)
    assert (
        summary.requests.sent == sum(request.arrival_s <= at_s for request in BURST) == len(stopped.simulation.outcomes)
    )
    steps = stopped.store.steps
    assert steps == whole.store.steps[: len(steps)]
    assert wire.decode(type(summary), json.loads(json.dumps(wire.encode(summary)))) == summary
