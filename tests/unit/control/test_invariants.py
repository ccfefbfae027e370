"""What must always hold, whatever happens: a world with chance as its author, checked after every step."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.control.invariants import LaunchHistory, check_step
from broker.control.step import StepResult, step
from broker.model import wire
from broker.model.observation import (
    GatewayReport,
    LeadershipTaken,
    Observation,
    Outcome,
    Override,
    OverrideCleared,
    PauseChanged,
    PauseScope,
    PoolSnapshot,
    Probe,
    ProbeVerdict,
    Receipt,
    SpecChanged,
)
from broker.model.plan import Launch, Stop
from broker.model.ports import Checkpoint, StepRecord
from broker.model.reading import ABSENT, Reading, fresh, stale
from broker.model.replica import ENDED, ObservedReplica, Replica, ReplicaPhase
from broker.model.signals import Signal
from broker.model.snapshot import ModelSnapshot, ReplicaLoad
from broker.model.spec import (
    BreakerSpec,
    Limits,
    Mode,
    ModelSpec,
    PolicySpec,
    PoolSpec,
    RenewalSpec,
    SiteSpec,
    StabilisationSpec,
)
from broker.model.state import BrokerState
from tests.support.world import fake_policies, model_spec

MODELS = ("chat", "code")
POOLS = (PoolSpec("local", "local", 5), PoolSpec("other", "local", 4))
LIFE_S = 80.0
"""How long the replicas of the second pool live, as jobs do."""
LIMITS = Limits(
    starts_per_minute=6, starts_per_hour=40, stops_per_minute=4, stops_per_hour=40, concurrent_loads=4,
    pool_share=0.8, ended_kept_s=60.0, breaker=BreakerSpec(failures=2, open_s=20.0, max_open_s=60.0),
    renewal=RenewalSpec(margin_s=5.0, queue_prior_s=15.0, load_prior_s=10.0),
)  # fmt: skip


def declared(
    mode: Mode = Mode.ACT, present: tuple[str, ...] = MODELS, *, minimum: int = 1
) -> tuple[SiteSpec, list[ModelSpec]]:
    shape = StabilisationSpec(scale_out_s=0.0, scale_in_s=5.0, max_step_out=3, max_step_in=2)
    specs = [
        model_spec("chat", minimum=minimum, maximum=6, stabilisation=shape, load_timeout_s=40.0, drain_limit_s=20.0),
        model_spec("code", minimum=0, maximum=3, gpus=2, policy=PolicySpec("fake_relative"), load_timeout_s=40.0,
                   stop_grace_s=7.0, pools=("other", "local")),
    ]  # fmt: skip
    return SiteSpec("test", POOLS, mode, LIMITS), [spec for spec in specs if spec.model_id in present]


Event = tuple[str, float, int]

EVENTS = (
    "snapshot", "snapshot", "snapshot", "stale_snapshot", "blind_snapshot", "listing", "listing", "listing",
    "failed_listing", "empty_listing", "receipts", "receipts", "transient", "no_capacity", "rejected", "probe_ready",
    "probe_ready", "probe_ready", "probe_wrong", "probe_unreachable", "probe_loading", "gateway", "gateway",
    "gateway_lags", "gateway_closes", "override", "override_cleared", "pause", "resume", "pause_pool", "resume_pool",
    "restart", "wake", "wake", "wake", "nothing", "exit", "crash", "removed", "all_declared", "observe", "act",
    "minimum", "clock_back", "stray",
)  # fmt: skip

events = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.sampled_from([0.0, 0.05, 0.3, 1.0, 1.0, 4.0, 16.0]), st.integers(0, 9)),
    min_size=5, max_size=60,
)  # fmt: skip


@dataclass
class Chance:
    """Turns events into observations, steps, and keeps all that was ever planned."""

    state: BrokerState = field(default_factory=BrokerState)
    now: float = 1_000_000.1
    sequence: int = 0
    mode: Mode = Mode.ACT
    running: dict[str, ObservedReplica] = field(default_factory=dict)
    pool_of: dict[str, str] = field(default_factory=dict)
    unanswered: list[Launch | Stop] = field(default_factory=list)
    launched: LaunchHistory = field(default_factory=LaunchHistory)
    batches: list[tuple[tuple[Observation, ...], float]] = field(default_factory=list)
    results: list[StepResult] = field(default_factory=list)

    def begin(self) -> Chance:
        site, models = declared()
        listings = [PoolSnapshot(pool.pool_id, self.now, self.now, True, (), pool.gpus) for pool in POOLS]
        self.see(SpecChanged(site, tuple(models), self.now), *listings)
        return self

    def see(self, *observations: Observation) -> StepResult:
        before = self.state
        result = step(before, observations, fake_policies, self.now)
        self.batches.append((observations, self.now))
        self.results.append(result)
        self.state = result.state
        check_step(before, observations, result)
        self.launched.check(before, result.plan)
        self.unanswered += result.plan.effects
        return result

    def happen(self, event: Event) -> StepResult:
        name, wait_s, pick = event
        self.now += wait_s
        if name == "wake":
            wake_at = self.results[-1].wake_at
            self.now = max(self.now, wake_at if wake_at is not None else self.now)
        if name == "clock_back":
            self.now -= 2 * wait_s + pick
        return self.see(*self.observations(name, pick))

    def replicas(self) -> list[Replica]:
        return [record for members in self.state.replicas.values() for record in members.values()]

    def picked(self, pick: int, *phases: ReplicaPhase) -> list[Replica]:
        found = sorted((r for r in self.replicas() if r.phase in phases), key=lambda r: r.replica_id)
        return [found[pick % len(found)]] if found else []

    def observations(self, name: str, pick: int) -> list[Observation]:
        model_id, pool = MODELS[pick % 2], POOLS[pick % 2].pool_id
        match name:
            case "snapshot":
                return [self.snapshot(model_id, fresh(float(pick), self.now))]
            case "stale_snapshot":
                return [self.snapshot(model_id, stale(fresh(0.0, self.now - 60)))]
            case "blind_snapshot":
                return [self.snapshot(model_id, ABSENT)]
            case "listing":
                return [self.listing(pool)]
            case "failed_listing":
                return [PoolSnapshot(pool, self.now, self.now, False, error="timed out")]
            case "empty_listing":
                return [PoolSnapshot(pool, self.now, self.now, True, (), 8)]
            case "receipts" | "transient" | "no_capacity" | "rejected":
                outcome = Outcome.ACCEPTED if name == "receipts" else Outcome(name)
                return self.answer(outcome)
            case "probe_ready" | "probe_wrong" | "probe_unreachable" | "probe_loading":
                live = self.picked(pick, *(set(ReplicaPhase) - ENDED))
                verdict = ProbeVerdict(name.removeprefix("probe_"))
                return [Probe(r.replica_id, r.model_id, verdict, self.now, self.now) for r in live]
            case "gateway" | "gateway_lags" | "gateway_closes":
                return [self.report(name, pick)]
            case "override":
                return [Override(model_id, "ann", "why", self.now, self.now + 5, pick if pick < 8 else None)]
            case "override_cleared":
                return [OverrideCleared(model_id, "ann", self.now)]
            case "pause" | "resume":
                return [PauseChanged(PauseScope.ALL, "", name == "pause", "ann", "why", self.now)]
            case "pause_pool" | "resume_pool":
                return [PauseChanged(PauseScope.POOL, pool, name == "pause_pool", "ann", "why", self.now)]
            case "restart":
                return [LeadershipTaken(self.sequence, "again", self.now)]
            case "exit" | "crash":
                for record in self.picked(pick, ReplicaPhase.READY, ReplicaPhase.STOPPING, ReplicaPhase.DRAINING):
                    phase = ReplicaPhase.GONE if name == "exit" else ReplicaPhase.FAILED
                    self.set_phase(record.replica_id, phase)
                return []
            case "removed" | "all_declared" | "observe" | "act" | "minimum":
                self.mode = {"observe": Mode.OBSERVE, "act": Mode.ACT}.get(name, self.mode)
                present = MODELS[:1] if name == "removed" else MODELS
                site, models = declared(self.mode, present, minimum=3 if name == "minimum" else 1)
                return [SpecChanged(site, tuple(models), self.now)]
            case "stray":
                generation = self.state.models[model_id].next_generation if model_id in self.state.models else 1
                name = f"{model_id}-7-g{generation + pick}"
                self.running[name] = ObservedReplica(
                    name, model_id, generation + pick, ReplicaPhase.STARTING, "http://stray"
                )
                self.pool_of[name] = pool
                return [self.listing(pool)]
            case _:
                return []

    def snapshot(self, model_id: str, rate: Reading) -> ModelSnapshot:
        self.sequence += 1
        loads = tuple(ReplicaLoad(name, self.now, 0.0, 0.0) for name in self.state.replicas_of(model_id))
        return ModelSnapshot(model_id, self.sequence, self.now, self.now, {Signal.ARRIVAL_RATE: rate}, (), loads)

    def listing(self, pool: str) -> PoolSnapshot:
        shown = tuple(r for name, r in sorted(self.running.items()) if self.pool_of[name] == pool)
        return PoolSnapshot(pool, self.now, self.now, True, shown, 8)

    def answer(self, outcome: Outcome) -> list[Observation]:
        """The pools carry out what they accept; the receipts come back."""
        receipts: list[Observation] = []
        for effect in self.unanswered:
            name = effect.replica_id
            if outcome is Outcome.ACCEPTED:
                if isinstance(effect, Launch):
                    address = f"http://{name}"
                    ends_at = self.now + LIFE_S if effect.pool_id == "other" else None
                    begun = ObservedReplica(
                        name, effect.model_id, effect.generation, ReplicaPhase.STARTING, address, ends_at
                    )
                    self.running.setdefault(name, begun)
                    self.pool_of[name] = effect.pool_id
                else:
                    self.set_phase(name, ReplicaPhase.GONE)
            receipts.append(Receipt(effect.action_id, name, effect.model_id, outcome, self.now, self.now))
        self.unanswered = []
        return receipts

    def set_phase(self, name: str, phase: ReplicaPhase) -> None:
        if name in self.running:
            self.running[name] = replace(self.running[name], phase=phase)

    def report(self, name: str, pick: int) -> GatewayReport:
        self.sequence += 1
        applied = self.state.control.revision - (1 if name == "gateway_lags" else 0)
        busy = {r.replica_id: 1 for r in self.picked(pick, ReplicaPhase.READY, ReplicaPhase.DRAINING) if pick > 4}
        closed = name == "gateway_closes"
        return GatewayReport(f"gw{pick % 2}", "boot", self.sequence, applied, self.now, self.now, busy, closed)


@settings(max_examples=300)
@given(events)
def test_whatever_happens_the_invariants_hold(happenings: list[Event]) -> None:
    chance = Chance().begin()
    for event in happenings:
        chance.happen(event)


def story(happenings: list[Event]) -> Chance:
    chance = Chance().begin()
    for event in happenings:
        chance.happen(event)
    return chance


@settings(max_examples=60)
@given(events)
def test_the_same_observations_give_the_same_bytes(happenings: list[Event]) -> None:
    """From the same state object, and from one that was written down and read back after every step."""
    told = story(happenings)
    state = BrokerState()
    for (observations, now), result in zip(told.batches, told.results, strict=True):
        again = step(state, observations, fake_policies, now)
        assert written(observations, now, again) == written(observations, now, result)
        state = wire.loads(Checkpoint, wire.dumps(Checkpoint(1, now, again.state))).state
        assert state == again.state


@settings(max_examples=60)
@given(events)
def test_a_state_in_another_order_gives_the_same_plan(happenings: list[Event]) -> None:
    """A restored state holds its entities in the log's order, not in that of their creation."""
    told = story(happenings)
    state = BrokerState()
    for (observations, now), result in zip(told.batches, told.results, strict=True):
        again = step(turned_round(state), observations, fake_policies, now)
        assert again.plan == result.plan
        assert again.changes == result.changes
        state = again.state


def turned_round(state: BrokerState) -> BrokerState:
    return BrokerState().with_changes(dict(reversed(state.entities().items())))


def written(observations: tuple[Observation, ...], now: float, result: StepResult) -> str:
    plan = result.plan
    return wire.dumps(StepRecord(1, 1, now, observations, result.changes, plan.decisions, plan.effects))


@settings(max_examples=60)
@given(events)
def test_a_step_changes_none_of_its_arguments(happenings: list[Event]) -> None:
    told = story(happenings)
    state = BrokerState()
    for observations, now in told.batches:
        copies = copy.deepcopy((state, observations))
        result = step(state, observations, fake_policies, now)
        assert (state, observations) == copies
        state = result.state


@settings(max_examples=60)
@given(events)
def test_the_state_is_rebuilt_from_its_changes(happenings: list[Event]) -> None:
    told = story(happenings)
    rebuilt = BrokerState()
    for result in told.results:
        rebuilt = rebuilt.with_changes(result.changes)
    assert rebuilt == told.state
    assert BrokerState().with_changes(told.state.entities()) == told.state


@settings(max_examples=60)
@given(events)
def test_time_alone_comes_to_rest(happenings: list[Event]) -> None:
    """Waking at ``wake_at`` again and again makes progress: nothing is asked for at the same time twice."""
    chance = story(happenings)
    for _ in range(30):
        wake_at = chance.results[-1].wake_at
        if wake_at is None:
            return
        assert wake_at > chance.results[-1].plan.now
        chance.now = max(chance.now, wake_at)
        chance.see()


_ONE_STORY = """
import hashlib
from tests.support.world import World, model_spec
from tests.unit.control.test_invariants import EVENTS, story, written
told = story([(name, 0.3 * (i % 5), i % 10) for i, name in enumerate(EVENTS * 4)])
lines = [written(seen, now, result) for (seen, now), result in zip(told.batches, told.results)]
world = World(models=tuple(model_spec(f"model-{i}") for i in range(9))).begin()
world.models = ()
lines.append(repr(list(world.see(world.declared()).changes)))
print(hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_the_order_of_sets_differs_from_process_to_process_and_decisions_do_not() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _ONE_STORY], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64
