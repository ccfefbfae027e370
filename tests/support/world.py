"""A small world around ``step``: one call per thing that can happen, virtual time, and the state kept between steps.

Tests tell a story with it (``world.launches_are_accepted()``, ``world.after(30)``) and look at the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.control.decide import Policies
from broker.control.step import StepResult, step
from broker.model.observation import (
    GatewayReport,
    Observation,
    Outcome,
    Override,
    PauseChanged,
    PauseScope,
    PoolSnapshot,
    Probe,
    ProbeVerdict,
    Receipt,
    SpecChanged,
)
from broker.model.plan import Decision, Input, Launch, Publish, Recommendation, Stop, Withdraw
from broker.model.reading import Reading, fresh
from broker.model.replica import ObservedReplica, Replica, ReplicaPhase
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot, ModelSnapshot, ReplicaLoad, WindowNeed
from broker.model.spec import (
    EngineSpec,
    JsonValue,
    Limits,
    Mode,
    ModelSpec,
    PolicySpec,
    PoolSpec,
    SiteSpec,
    StabilisationSpec,
)
from broker.model.state import BrokerState, Memory

NO_HYSTERESIS = StabilisationSpec(scale_out_s=0.0, scale_in_s=0.0, max_step_out=100, max_step_in=100)


@dataclass(frozen=True, slots=True)
class FakePolicy:
    """Wants as many replicas as the arrival rate says: one per request a second. Holds without that signal, or wants
    none if ``blind``."""

    relative: bool = False
    blind: bool = False
    kind: str = "fake"

    def needs(self) -> tuple[WindowNeed, ...]:
        return ()

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        reading = snapshot.model.reading(Signal.ARRIVAL_RATE)
        seen: JsonValue = memory.get("seen", 0)
        memory = {"seen": (seen if isinstance(seen, int) else 0) + 1}
        inputs = (Input(Signal.ARRIVAL_RATE, reading.value, reading.freshness),)
        if self.blind and reading.current is None:
            return Recommendation(0, snapshot.minimum, "blind", "it looks at nothing"), memory
        if reading.current is None:
            held = Recommendation(
                snapshot.supply.target, snapshot.minimum, "no_rate", "the arrival rate is unknown", inputs, hold=True
            )
            return held, memory
        target = round(reading.current)
        words = f"{reading.current:g} requests a second"
        return Recommendation(target, snapshot.minimum, "rate", words, inputs, relative=self.relative), memory


def fake_policies(spec: PolicySpec) -> FakePolicy:
    return FakePolicy(relative=spec.kind == "fake_relative", blind=spec.kind == "fake_blind")


def model_spec(model_id: str = "chat", /, **changes: object) -> ModelSpec:
    values: dict[str, object] = {
        "engine": EngineSpec(("serve", "{port}")),
        "policy": PolicySpec("fake"),
        "minimum": 1,
        "maximum": 8,
        "stabilisation": NO_HYSTERESIS,
    }
    return ModelSpec(model_id=model_id, **(values | changes))  # type: ignore[arg-type]  # a table of overrides


@dataclass
class World:
    """``state`` after the last step, ``now``, and what the last step planned. Pools end each replica ``life_s`` after
    its start, if that is given."""

    models: tuple[ModelSpec, ...] = (model_spec(),)
    pools: tuple[PoolSpec, ...] = (PoolSpec("local", "local", gpus=8),)
    limits: Limits = field(default_factory=Limits)
    mode: Mode = Mode.ACT
    now: float = 1_000_000.0
    state: BrokerState = field(default_factory=BrokerState)
    result: StepResult | None = None
    rate: float | None = 1.0
    sequence: int = 0
    loads: dict[str, float] = field(default_factory=dict)
    life_s: float | None = None
    policies: Policies = fake_policies

    def begin(self) -> World:
        listings = [PoolSnapshot(pool.pool_id, self.now, self.now, True, (), pool.gpus) for pool in self.pools]
        snapshots = [self.snapshot(model.model_id) for model in self.models]
        self.see(self.declared(), *listings, *snapshots)
        return self

    def declared(self) -> SpecChanged:
        return SpecChanged(SiteSpec("test", self.pools, self.mode, self.limits), self.models, self.now)

    def declare(self, *models: ModelSpec, mode: Mode | None = None) -> StepResult:
        """The operator's files change."""
        self.models = models or self.models
        self.mode = mode or self.mode
        return self.see(self.declared())

    def pause(self, scope: PauseScope = PauseScope.ALL, name: str = "", *, paused: bool = True) -> StepResult:
        return self.see(PauseChanged(scope, name, paused, "ann", "maintenance", self.now))

    def override(self, target: int | None, for_s: float, model_id: str = "chat") -> StepResult:
        return self.see(Override(model_id, "ann", "a demo", self.now, self.now + for_s, target))

    def wake(self) -> float:
        """Let the time come that the last step asked for; how many seconds that took."""
        assert self.result is not None
        assert self.result.wake_at is not None
        before, self.now = self.now, self.result.wake_at
        self.see()
        return self.now - before

    def see(self, *observations: Observation) -> StepResult:
        self.result = step(self.state, observations, self.policies, self.now)
        self.state = self.result.state
        return self.result

    def snapshot(self, model_id: str = "chat", /, **readings: Reading) -> ModelSnapshot:
        """The rate is fresh, or absent if it is None; loads are those of ``self.loads``, 0 where none is set."""
        self.sequence += 1
        known: dict[Signal, Reading] = {Signal(name): reading for name, reading in readings.items()}
        if self.rate is not None:
            known.setdefault(Signal.ARRIVAL_RATE, fresh(self.rate, self.now))
        loads = tuple(
            ReplicaLoad(name, self.now, self.loads.get(name, 0.0), 0.0) for name in self.state.replicas_of(model_id)
        )
        return ModelSnapshot(model_id, self.sequence, self.now, self.now, known, (), loads)

    def wants(self, rate: float | None, model_id: str = "chat") -> StepResult:
        self.rate = rate
        return self.see(self.snapshot(model_id))

    def after(self, seconds: float) -> World:
        self.now += seconds
        return self

    # -- what the pools say

    def listing(self, pool_id: str = "local", **phases: ReplicaPhase) -> PoolSnapshot:
        """All replicas on record as their pool would show them; ``phases`` by replica id (``-`` as ``_``) differ."""
        shown = []
        for replica in self.replicas():
            phase = phases.get(replica.replica_id.replace("-", "_"), ReplicaPhase.STARTING)
            if replica.pool_id == pool_id and replica.phase not in (
                ReplicaPhase.REQUESTED,
                ReplicaPhase.GONE,
                ReplicaPhase.FAILED,
            ):
                url = f"http://127.0.0.1/{replica.replica_id}"
                started_at = self.now if replica.started_at is None else replica.started_at
                ends_at = None if self.life_s is None else started_at + self.life_s
                shown.append(
                    ObservedReplica(replica.replica_id, replica.model_id, replica.generation, phase, url, ends_at)
                )
        gpus = next(pool.gpus for pool in self.pools if pool.pool_id == pool_id)
        return PoolSnapshot(pool_id, self.now, self.now, True, tuple(shown), gpus)

    def failed_listing(self, pool_id: str = "local") -> PoolSnapshot:
        return PoolSnapshot(pool_id, self.now, self.now, False, error="timed out")

    def accept(self, effect: Launch | Stop, outcome: Outcome = Outcome.ACCEPTED) -> Receipt:
        model_id = effect.model.model_id if isinstance(effect, Launch) else effect.model_id
        return Receipt(effect.action_id, effect.replica_id, model_id, outcome, self.now, self.now, detail=outcome.value)

    def probe(self, replica_id: str, verdict: ProbeVerdict = ProbeVerdict.READY, model_id: str = "chat") -> Probe:
        return Probe(replica_id, model_id, verdict, self.now, self.now)

    def gateway(self, applied: int, in_flight: Mapping[str, int] | None = None, name: str = "gw") -> GatewayReport:
        self.sequence += 1
        return GatewayReport(name, "boot", self.sequence, applied, self.now, self.now, dict(in_flight or {}))

    def bring_up(self) -> World:
        """Every launch of the last plan is accepted, listed, and proves itself."""
        launches = self.launches()
        self.see(*(self.accept(launch) for launch in launches))
        self.see(*(self.listing(pool.pool_id) for pool in self.pools))
        self.see(*(self.probe(launch.replica_id, model_id=launch.model.model_id) for launch in launches))
        return self

    # -- looking

    def replicas(self) -> list[Replica]:
        return [replica for members in self.state.replicas.values() for replica in members.values()]

    def phases(self) -> dict[str, str]:
        return {replica.replica_id: replica.phase.value for replica in self.replicas()}

    def launches(self) -> list[Launch]:
        return [action for action in self._actions() if isinstance(action, Launch)]

    def stops(self) -> list[Stop]:
        return [action for action in self._actions() if isinstance(action, Stop)]

    def replica(self, replica_id: str = "chat-0-g1") -> Replica:
        return next(replica for replica in self.replicas() if replica.replica_id == replica_id)

    def registry(self) -> list[tuple[str, str]]:
        """(endpoint id, phase) in the order in which the last plan changed the registry."""
        return [
            (a.record.endpoint_id, a.record.phase.value) for a in self._actions() if isinstance(a, Publish | Withdraw)
        ]

    def decision(self, model_id: str = "chat") -> Decision:
        assert self.result is not None
        return next(d for d in self.result.plan.decisions if d.model_id == model_id)

    def decided(self) -> bool:
        return self.result is not None and bool(self.result.plan.decisions)

    def codes(self, model_id: str = "chat") -> list[str]:
        return [decision_step.code for decision_step in self.decision(model_id).trail]

    def target(self, model_id: str = "chat") -> int:
        return self.state.models[model_id].target

    def count(self, *phases: ReplicaPhase) -> int:
        return sum(replica.phase in phases for replica in self.replicas())

    def _actions(self) -> tuple[object, ...]:
        assert self.result is not None
        return self.result.plan.actions


def serving(count: int = 1, **spec: object) -> World:
    """``count`` replicas of ``chat`` are ready, as many as its rate wants."""
    return World(models=(model_spec(**spec),), rate=float(count)).begin().bring_up()
