"""A script of things that happen to a broker, played through the production runtime and through the simulator.

A script is a list of moments. The stage around the broker (pools, gateways, the operator's file) is the same for both:
only who keeps the time differs. What a moment does may depend on what the broker has published and recorded so far,
so that a first difference grows instead of hiding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

from actuators.fake import FakeActuator
from broker.app.runner import AsyncRunner
from broker.app.runtime import Runtime
from broker.control.core import BrokerCore
from broker.log.memory import MemoryLog, MemoryStore
from broker.model.errors import ActuatorError
from broker.model.observation import (
    GatewayReport,
    Observation,
    Override,
    OverrideCleared,
    PauseChanged,
    PauseScope,
    Probe,
    ProbeVerdict,
    SpecChanged,
)
from broker.model.replica import ENDED, EndpointRecord, Replica, ReplicaPhase
from broker.model.signals import MetricSample, RequestSummary
from broker.model.sketch import Sketch
from broker.model.spec import EngineSpec, Limits, ModelSpec, PolicySpec, PoolSpec, SiteSpec, StabilisationSpec
from policies.registry import cached
from simulator.driver import Driver, drive
from tests.support.virtual_loop import VirtualClock, run_virtually

LIMITS = Limits(
    signal_patience_s=2.0, pool_patience_s=3.0, gateway_session_s=2.5, unhealthy_after_s=1.0, effect_patience_s=2.0,
    full_pool_s=2.0, ended_kept_s=6.0, concurrent_loads=3, starts_per_minute=30,
)  # fmt: skip
SITE = SiteSpec("rehearsal", (PoolSpec("near", "fake", gpus=3), PoolSpec("far", "fake", gpus=4)), limits=LIMITS)
QUEUE_RULES = PolicySpec(
    "threshold",
    {
        "rules": [
            {"name": "queue", "signal": "queue_age_s", "above": 1.0, "for_s": 2.0, "change": 1},
            {"name": "cache", "signal": "kv_cache_use", "above": 0.9, "for_s": 1.0, "change": 1},
            {"name": "calm", "signal": "requests_per_replica", "below": 3.0, "for_s": 3.0, "change": -1},
        ]
    },
)
CHAT = ModelSpec("chat", EngineSpec(("serve",)), QUEUE_RULES, minimum=1, maximum=5, drain_limit_s=6.0, stop_grace_s=2.0)
CODE = replace(
    CHAT, model_id="code", maximum=3, shadows={"patient": QUEUE_RULES},
    stabilisation=StabilisationSpec(scale_in_s=2.0),
)  # fmt: skip


class Broker(Protocol):
    """What the runtime and the driver have in common."""

    core: BrokerCore

    def offer(self, observation: Observation) -> None: ...

    def observe(self, sample: MetricSample | RequestSummary) -> None: ...


@dataclass(slots=True)
class Gateway:
    """``told`` is the last revision that reached it; one that lags acknowledges the one before."""

    name: str
    told: int = 0
    before: int = 0
    sequence: int = 0
    boot: int = 0

    def hear(self, revision: int) -> None:
        self.before, self.told = self.told, revision


@dataclass
class Stage:
    """Everything around the broker. ``time`` says what time it is; the player of the script sets ``broker``."""

    time: Callable[[], float] = lambda: 0.0
    broker: Broker | None = None
    store: MemoryStore = field(default_factory=MemoryStore)
    models: tuple[ModelSpec, ...] = (CHAT, CODE)
    gateways: tuple[Gateway, ...] = field(default_factory=lambda: (Gateway("gw-a"), Gateway("gw-b")))
    pools: dict[str, FakeActuator] = field(init=False)
    finished: float = 0.0

    def __post_init__(self) -> None:
        self.pools = {
            pool.pool_id: FakeActuator(
                pool.pool_id, gpus=pool.gpus, now=lambda: self.time(), pending_s=0.31, start_s=0.73, exit_s=0.43
            )
            for pool in SITE.pools
        }

    @property
    def on_stage(self) -> Broker:
        assert self.broker is not None
        return self.broker

    def hear(self, records: tuple[EndpointRecord, ...]) -> None:
        for gateway in self.gateways:
            gateway.hear(max(record.revision for record in records))

    def replicas(self, model_id: str) -> list[Replica]:
        """Those on the broker's records that have not ended, by name."""
        known = self.on_stage.core.loop.state.replicas_of(model_id)
        return [known[name] for name in sorted(known) if known[name].phase not in ENDED]


Happening = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Moment:
    """``what`` names it for the count of ingredients; a restart is done by the player, ``happen`` is None."""

    at: float
    what: str
    happen: Happening | None


@dataclass(frozen=True, slots=True)
class Script:
    """Moments by time, between ``start_at`` and ``end_at``; ``models`` are declared at the start."""

    start_at: float
    end_at: float
    moments: tuple[Moment, ...]
    models: tuple[ModelSpec, ...] = (CHAT, CODE)


# -- what can happen


def scrape(model_id: str, running: float, waiting: float, kv: float) -> Happening:
    """Every serving replica is scraped."""

    def happen(stage: Stage) -> None:
        now = stage.time()
        stage.finished += running
        for replica in stage.replicas(model_id):
            if replica.phase in (ReplicaPhase.READY, ReplicaPhase.DRAINING):
                busy = running if replica.phase is ReplicaPhase.READY else 0.0
                stage.on_stage.observe(
                    MetricSample(
                        model_id, replica.replica_id, now, now, requests_running=busy, requests_waiting=waiting,
                        kv_cache_use=kv, prompt_tokens_total=100.0 * stage.finished,
                        generation_tokens_total=30.0 * stage.finished, requests_finished_total=stage.finished,
                    )
                )  # fmt: skip

    return happen


def summarise(model_id: str, gateway: int, waited_s: float, waiting: int, arrived: int) -> Happening:
    def happen(stage: Stage) -> None:
        now, teller = stage.time(), stage.gateways[gateway]
        teller.sequence += 1
        stage.on_stage.observe(
            RequestSummary(
                model_id, teller.name, str(teller.boot), teller.sequence, now, now, 1.0, arrived=arrived,
                waiting=waiting, in_flight=waiting + arrived, oldest_waiting_since=now - waited_s if waiting else None,
                queue_age=Sketch.of([waited_s] * waiting), time_to_first_token=Sketch.of([0.2 + waited_s] * arrived),
            )
        )  # fmt: skip

    return happen


def report(gateway: int, in_flight: int, *, lags: bool = False, closed: bool = False) -> Happening:
    """A gateway's heartbeat: what it has applied, and ``in_flight`` requests at every other draining replica."""

    def happen(stage: Stage) -> None:
        now, teller = stage.time(), stage.gateways[gateway]
        teller.sequence += 1
        draining = [r for model in stage.models for r in stage.replicas(model.model_id) if r.drain is not None]
        stage.on_stage.offer(
            GatewayReport(
                teller.name, str(teller.boot), teller.sequence, teller.before if lags else teller.told, now, now,
                {replica.replica_id: in_flight for replica in draining[::2] if in_flight}, closed,
            )
        )  # fmt: skip
        if closed:
            teller.boot += 1

    return happen


def probe(model_id: str, verdict: ProbeVerdict, which: int | None = None) -> Happening:
    """Every replica that listens is asked, or only the one that ``which`` counts to."""

    def happen(stage: Stage) -> None:
        now = stage.time()
        listening = [replica for replica in stage.replicas(model_id) if replica.url is not None]
        if which is not None and listening:
            listening = [listening[which % len(listening)]]
        for replica in listening:
            stage.on_stage.offer(Probe(replica.replica_id, model_id, verdict, now, now, verdict.value))

    return happen


def listing_fails(pool_id: str, times: int) -> Happening:
    def happen(stage: Stage) -> None:
        for _ in range(times):
            stage.pools[pool_id].fail_next_observe("the pool's own listing failed")

    return happen


def start_fails(pool_id: str, error: type[ActuatorError]) -> Happening:
    return lambda stage: stage.pools[pool_id].fail_next_start(error("not today"))


def stop_fails(pool_id: str, error: type[ActuatorError]) -> Happening:
    return lambda stage: stage.pools[pool_id].fail_next_stop(error("not today"))


def crash(model_id: str, which: int) -> Happening:
    def happen(stage: Stage) -> None:
        running = [r for r in stage.replicas(model_id) if r.phase in (ReplicaPhase.READY, ReplicaPhase.STARTING)]
        if running:
            replica = running[which % len(running)]
            stage.pools[replica.pool_id].crash(replica.replica_id, exit_code=137)

    return happen


def override(model_id: str, target: int | None, for_s: float) -> Happening:
    def happen(stage: Stage) -> None:
        now = stage.time()
        stage.on_stage.offer(Override(model_id, "ops", "a rehearsal", now, now + for_s, target))

    return happen


def clear_override(model_id: str) -> Happening:
    return lambda stage: stage.on_stage.offer(OverrideCleared(model_id, "ops", stage.time()))


def pause(scope: PauseScope, name: str, paused: bool) -> Happening:
    return lambda stage: stage.on_stage.offer(PauseChanged(scope, name, paused, "ops", "a rehearsal", stage.time()))


def declare(*models: ModelSpec) -> Happening:
    def happen(stage: Stage) -> None:
        stage.models = models
        stage.on_stage.offer(SpecChanged(SITE, models, stage.time(), digest=str(len(models))))

    return happen


# -- the two players


def play_in_simulator(script: Script) -> MemoryStore:
    """The script through ``simulator.driver.Driver``; returns the log's store."""
    stage = Stage(models=script.models)

    def begin(at: float) -> tuple[Driver, MemoryLog]:
        log = MemoryLog(stage.store)
        driver = Driver(log, cached(), stage.pools, start_at=at)
        stage.broker, stage.time = driver, lambda: driver.now
        driver.listen(lambda ran: stage.hear(ran.registry) if ran.registry else None)
        driver.open("rehearsal", SpecChanged(SITE, stage.models, at))
        return driver, log

    driver, log = begin(script.start_at)
    for moment in (*script.moments, Moment(script.end_at, "end", None)):
        if moment.happen is not None:
            driver.at(moment.at, functools.partial(moment.happen, stage))
            continue
        driver.run_until(moment.at)
        drive(log.close())
        if moment.at < script.end_at:
            driver, log = begin(moment.at)
    return stage.store


def play_in_production(script: Script) -> MemoryStore:
    """The script through ``broker.app.runtime.Runtime`` in virtual time; returns the log's store."""
    stage = Stage(models=script.models)
    run_virtually(_play_in_production(stage, script), script.start_at)
    return stage.store


async def _play_in_production(stage: Stage, script: Script) -> None:
    clock = VirtualClock()
    stage.time = clock.now
    moments = [*script.moments, Moment(script.end_at, "end", None)]
    while moments:
        async with AsyncExitStack() as stack:
            log = MemoryLog(stage.store)
            stack.push_async_callback(log.close)
            runner = AsyncRunner(stage.pools, clock, timeout_s=5.0, concurrency=4, may_act=lambda: True)
            runtime = Runtime(log=log, policies=cached(), actuators=stage.pools, runner=runner, clock=clock)
            stage.broker = runtime
            runtime.listen(stage.hear)
            await stack.enter_async_context(runtime.running("rehearsal", SpecChanged(SITE, stage.models, clock.now())))
            while moments:
                moment = moments.pop(0)
                await clock.sleep_until(moment.at)
                if moment.happen is None:
                    break
                moment.happen(stage)
            assert runtime.log_problem is None
