"""A trace through the production core: engines, front door and pools in simulated time, one summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import simulator.engine.fleet
import simulator.tally
from broker.control.decide import Policies
from broker.control.loop import Ran
from broker.model.observation import Probe, ProbeVerdict, SpecChanged
from broker.model.plan import Decision, Launch
from broker.model.ports import Log
from broker.model.replica import EndpointRecord, Replica, ReplicaPhase
from broker.model.signals import MetricSample
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from broker.model.state import BrokerState
from simulator.arrivals import Arrivals
from simulator.awaited import Awaited
from simulator.checks.audit import AuditedDoor
from simulator.checks.checks import Checks
from simulator.checks.level import CheckLevel
from simulator.checks.saved import SavedObservations
from simulator.cluster.host import ClusterHost
from simulator.cluster.pool import SlurmPlace, SlurmPool
from simulator.demand import Demand
from simulator.driver import Driver, FailedSteps, Priority
from simulator.engine.audit import AuditedFleet
from simulator.engine.fleet import EngineFleet
from simulator.engine.profile import EngineProfile
from simulator.engine.routing import Routing
from simulator.fleet import SimulatedPool, SimulatedReplica
from simulator.front_door import FrontDoor
from simulator.ledger import Ledger
from simulator.metric_path import MetricPath
from simulator.profiles.document import load_profile
from simulator.report.summary import (
    Outcomes,
    Partial,
    ReplicaPoint,
    RunSummary,
    ServiceFigures,
    TraceCounts,
    service_figures,
    summarise,
    together,
)
from simulator.report.unanswered import cuts_of
from traces.conditions import PERFECT, MetricFaults

_PROBE_INTERVAL_S = 0.5
_REPORT_DELAY_S = 0.01
"""How long a gateway takes to apply a change of the registry and say so (one event, one request on loopback)."""


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """``tail_s`` runs on after the last arrival, so that scale-in is seen. ``start_at``: the trace's second 0 as epoch
    seconds, which matters to schedules. ``warm_up_s`` lets the first replicas load before the trace begins.
    ``scrape_interval_s`` and ``summary_interval_s``: how often replicas and the gateway are asked; ``metrics``: what
    becomes of the answers on their way, by chance of ``seed`` (None: what the demand says, in ``simulator.run``; else
    nothing). ``routing``: how the gateway chooses a replica.
    ``cached_share``: what replicas' prefix caches hold of the prompts of which the trace does not tell what they share.
    """

    tail_s: float = 60.0
    start_at: float = 1_700_000_000.0
    warm_up_s: float = 0.0
    scrape_interval_s: float = 1.0
    summary_interval_s: float = 1.0
    metrics: MetricFaults | None = None
    routing: Routing = Routing.LEAST_LOADED
    cached_share: float = 0.0
    seed: int = 1


_IDLE = (0.0,) * 7
"""What a replica tells of itself that nobody has sent a request yet: the fields of a sample from the running requests
to the finished ones."""

Progress = Callable[[float, int], None]
"""Told the simulated second (negative while warming up) and the number of requests so far, at every step."""


def profile_of_launch(launch: Launch) -> EngineProfile:
    """The profile that the model's engine names. Raises ``ConfigError`` if there is none of that name."""
    return load_profile(launch.model.engine.profile or "demo").engine


def make_ready() -> bool:
    """Have all that is compiled in a simulation ready; see ``simulator.engine.fleet.make_ready``."""
    engines_compiled = simulator.engine.fleet.make_ready()
    return simulator.tally.make_ready() or engines_compiled


class Simulation:
    """One run. Every model of the site is served, also those that nobody asks.

    ``slurm``: the pools, by id, whose replicas are jobs of a simulated cluster; in the others they start at once.
    ``checks``: which invariants are asked after each step. A policy that raises is what it is in production: its
    model's target is kept meanwhile, and the summary's ``problems`` tell.
    """

    def __init__(
        self, site: SiteSpec, models: tuple[ModelSpec, ...], *, log: Log, policies: Policies,
        settings: SimulationSettings | None = None,
        profile_of: Callable[[Launch], EngineProfile] = profile_of_launch,
        slurm: Mapping[str, SlurmPlace] | None = None, checks: CheckLevel = CheckLevel.CHEAP,
    ) -> None:  # fmt: skip
        self.settings = settings or SimulationSettings()
        self._began_at = self.settings.start_at - self.settings.warm_up_s
        self.clusters: dict[int, ClusterHost] = {}
        self.pools = {
            pool.pool_id: self._make_pool(pool, profile_of, (slurm or {}).get(pool.pool_id)) for pool in site.pools
        }
        self._driver = Driver(log, policies, self.pools, start_at=self._began_at)
        self._ledger = Ledger()
        self._metrics = MetricPath(self._driver, self.settings.metrics or PERFECT, self.settings.seed)
        self._door = self._make_door([model.model_id for model in models], checks)
        self._fleet = self._door.fleet
        self._decisions: list[Decision] = []
        self._points: dict[str, list[ReplicaPoint]] = {model.model_id: [] for model in models}
        self._cuts: list[tuple[SimulatedReplica, int]] = []
        self._demand: Demand | None = None
        self._replicas: dict[str, Mapping[str, Replica]] = {}
        self._watched: set[str] = set()
        self._awaited = Awaited()
        for cluster in self.clusters.values():
            cluster.catch_up()
        self._checks = Checks(
            self._driver.core, policies, site.pools, self.pools, self._door, self._ledger,
            began_at=self.settings.start_at,
        )  # fmt: skip
        self._driver.listen(self._on_step)
        self._driver.listen(self._checks.on_step)
        self._driver.listen_for_failure(self._checks.on_failure)
        self._driver.open("simulator", SpecChanged(site, models, self._began_at))
        self._driver.every(self.settings.scrape_interval_s, self._scrape, first_at=self._began_at + 0.3)
        self._driver.every(self.settings.summary_interval_s, self._summarise, first_at=self._began_at + 0.5)
        self._driver.every(_PROBE_INTERVAL_S, self._probe, first_at=self._began_at + 0.4)

    @property
    def now(self) -> float:
        """The simulated time, in epoch seconds."""
        return self._driver.now

    @property
    def state(self) -> BrokerState:
        """The broker's state after the last step."""
        return self._driver.core.loop.state

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The site's models, asked or not."""
        return tuple(self._points)

    @property
    def tenants(self) -> tuple[str, ...]:
        """The names of those whose requests came so far."""
        return self._demand.requests.tenants.names if self._demand is not None else ()

    def listen(self, listener: Callable[[Ran], None]) -> None:
        """``listener`` is told of every step, at its instant. It may look; what it changes is not the simulation's."""
        self._driver.listen(listener)

    @property
    def outcomes(self) -> Outcomes:
        """Every request that came so far; ``model`` is an index of ``model_ids``, ``tenant`` one of ``tenants``."""
        outcomes = self._ledger.outcomes(self.settings.start_at, self._door.arrived)
        shared = self._door.shared_tokens
        return replace(outcomes, shared_tokens=None if shared is None else shared[: self._door.arrived])

    @property
    def failed(self) -> FailedSteps | None:
        """Steps in which something could not be decided, None if there was none."""
        return self._driver.failed

    @property
    def failure(self) -> SavedObservations | None:
        """What was observed around the first step in which something could not be decided."""
        return self._checks.failure

    def saved(self, error: BaseException) -> SavedObservations:
        """What was observed before ``error``, which ``run`` raised."""
        return self._checks.saved(error, self.now)

    def stop(self) -> None:
        """End the run at its present instant: ``run`` returns, and its summary is ``partial``. May be called from a
        signal's handler."""
        self._driver.stop()

    def run(
        self, demand: Demand, *, trace: TraceCounts | None = None, progress: Progress | None = None,
    ) -> RunSummary:  # fmt: skip
        """Let ``demand`` come and then the tail; requests still open at its end are ``unfinished``.

        Raises ``ConfigError`` if a model is asked that the site does not have, and ``InvariantViolated`` if something
        does not hold that always must: a mistake of ours.
        """
        arrivals = Arrivals(demand, self._driver, self._door, self._ledger, self.settings.start_at)
        self._demand = demand
        if progress is not None:
            # At steps, not at arrivals: a trace may be silent for hours.
            self._driver.listen(lambda ran: progress(self._driver.now - self.settings.start_at, self._door.arrived))
        end_at = arrivals.let_come() + self.settings.tail_s
        arrivals.run_to(end_at)
        patience_s = 3600.0 if any(model.spec.maximum for model in self.state.models.values()) else 0.0
        while not self._driver.stopped and self._open_requests() and self._driver.now < end_at + patience_s:
            arrivals.run_to(self._driver.now + 1.0)
        return self._summary(trace, drained_s=max(0.0, self._driver.now - end_at))

    def _open_requests(self) -> int:
        self._catch_up()
        return self._door.open_requests

    def _catch_up(self) -> None:
        self._door.catch_up(self._driver.now)

    # -- replicas

    def _make_door(self, model_ids: list[str], checks: CheckLevel) -> FrontDoor:
        """The gateway before its engines; both keep books of their own if everything is to be checked."""
        routing, cached_share = self.settings.routing, self.settings.cached_share
        if checks is CheckLevel.FULL:
            audited = AuditedFleet(self._began_at)
            return AuditedDoor(model_ids, audited, self._ledger, routing=routing, cached_share=cached_share)
        fleet = EngineFleet(self._began_at)
        return FrontDoor(model_ids, fleet, self._ledger, routing=routing, cached_share=cached_share)

    def _make_pool(
        self, pool: PoolSpec, profile_of: Callable[[Launch], EngineProfile], place: SlurmPlace | None
    ) -> SimulatedPool:
        def clock() -> float:
            return self._driver.now

        if place is None:
            return SimulatedPool(pool, profile_of, self, clock)
        key = id(place.cluster)
        if key not in self.clusters:
            self.clusters[key] = ClusterHost(
                place.cluster, clock, lambda at, happen: self._driver.at(at, happen, Priority.ENGINE)
            )
        return SlurmPool(
            pool,
            profile_of,
            self,
            clock,
            host=self.clusters[key],
            jobs=place.jobs,
            cold_starts=place.cold_starts,
        )

    def _pool_of(self, replica: SimulatedReplica) -> SimulatedPool:
        return self.pools[replica.launch.pool_id]

    def _replica(self, replica_id: str) -> SimulatedReplica | None:
        return next((pool.replicas[replica_id] for pool in self.pools.values() if replica_id in pool.replicas), None)

    def leaves(self, replica: SimulatedReplica) -> bool:
        """See ``Service``."""
        self._catch_up()
        self._door.refuse_connections(replica.replica_id)
        self._watch(replica)
        return self._door.is_busy(replica.replica_id)

    def ended(self, replica: SimulatedReplica) -> None:
        """See ``Service``. Open requests are cut if tokens had come, else routed again."""
        replica.busy_s = self.busy_s(replica.replica_id)
        if cut := self._door.gone(replica.replica_id, self._driver.now):
            self._cuts.append((replica, cut))
            self._checks.on_cut(replica.replica_id)
            self._driver.at(self._driver.now + _REPORT_DELAY_S, self._report_if_draining)

    def _watch(self, replica: SimulatedReplica) -> None:
        """Be there when the last request of a replica ends that gets no more: somebody waits for that."""
        at = self._door.empties_at(replica.replica_id)
        if at is not None and replica.replica_id not in self._watched:
            self._watched.add(replica.replica_id)
            self._driver.at(at, lambda: self._look(replica), Priority.ENGINE)

    def _look(self, replica: SimulatedReplica) -> None:
        self._watched.discard(replica.replica_id)
        self._catch_up()
        if self._door.place(replica.replica_id) is None or self._door.is_busy(replica.replica_id):
            self._watch(replica)
            return
        self._driver.at(self._driver.now + _REPORT_DELAY_S, self._report_if_draining)
        if replica.phase is ReplicaPhase.STOPPING:
            self._pool_of(replica).end(replica, exit_code=0)

    def crash(self, replica_id: str) -> None:
        """A replica dies by itself, now."""
        replica = self._replica(replica_id)
        if replica is not None and replica.phase is ReplicaPhase.STARTING:
            self._pool_of(replica).end(replica, exit_code=137)

    def busy_s(self, replica_id: str) -> float:
        """For how long a replica that has not ended has computed so far."""
        self._catch_up()
        place = self._door.place(replica_id)
        return 0.0 if place is None else self._fleet.busy_s(place)

    # -- what the broker sees

    def _scrape(self) -> None:
        now = self._driver.now
        self._catch_up()
        fleet, observe, place_of = self._fleet, self._metrics.sample, self._door.place
        gauges = (
            fleet.running(), fleet.waiting(), fleet.kv_use(), fleet.total("prompt_tokens"),
            fleet.total("generation_tokens"), fleet.total("preemptions"), fleet.total("finished"),
        )  # fmt: skip
        by_place = list(zip(*(gauge.astype(float).tolist() for gauge in gauges), strict=True))
        for pool in self.pools.values():
            for model_id, name in pool.serving():
                place = place_of(name)
                # In the order of the fields: by name it takes half as long again, a thousand times a scrape.
                observe(MetricSample(model_id, name, now, now, *(_IDLE if place is None else by_place[place])))

    def _summarise(self) -> None:
        now = self._driver.now
        self._catch_up()
        summaries = self._door.summaries(now, self.settings.summary_interval_s)
        self._metrics.report(self._door.report(now), summaries)

    def _report_if_draining(self) -> None:
        if any(model.draining for model in self.state.models.values()):
            self._catch_up()
            self._metrics.report(self._door.report(self._driver.now))

    def _probe(self) -> None:
        now = self._driver.now
        for name, model_id in self._awaited.of(self.state):
            replica = self._replica(name)
            if replica is not None and replica.serves(now):
                self._driver.offer(Probe(name, model_id, ProbeVerdict.READY, now, now))

    # -- what is told

    def _on_step(self, ran: Ran) -> None:
        now = self._driver.now
        self._decisions.extend(ran.plan.decisions)
        for model_id in ran.touched:
            replicas, points = self.state.replicas_of(model_id), self._points[model_id]
            if replicas is self._replicas.get(model_id):  # the state shares what did not change
                continue
            self._replicas[model_id] = replicas
            phases = (replica.phase for replica in replicas.values())
            point = ReplicaPoint.of(max(0.0, now - self.settings.start_at), phases)
            if not points or points[-1].phases != point.phases:
                points.append(point)
        if ran.registry:
            self._follow(ran.registry)
            self._driver.at(now + _REPORT_DELAY_S, self._report_if_draining)

    def _follow(self, registry: Iterable[EndpointRecord]) -> None:
        """The gateway takes changes of the registry."""
        self._catch_up()
        replicas = [self._replica(record.endpoint_id) for record in registry]
        for replica in replicas:
            if replica is not None and replica.phase is ReplicaPhase.STARTING:
                self._door.admit(replica.replica_id, replica.profile)
        self._door.apply(registry, self._driver.now)
        for replica in replicas:
            if replica is not None:
                self._watch(replica)

    def _summary(self, trace: TraceCounts | None, *, drained_s: float) -> RunSummary:
        self._catch_up()
        self._checks.at_end(self._driver.now)
        reached_s, failed = self._driver.now - self.settings.start_at, self._driver.failed
        asked = self._demand.models if self._demand is not None else ()
        points = [self._points[model_id] for model_id in asked]
        return summarise(
            source="simulate",
            started_at=self.settings.start_at,
            duration_s=max(0.0, reached_s),
            outcomes=self.outcomes,
            replicas=points[0] if len(points) == 1 else together(points),
            decisions=self._decisions,
            trace=trace,
            problems=() if failed is None else (failed.words(self.settings.start_at),),
            models={model_id: self._figures(model_id) for model_id in asked} if len(asked) > 1 else None,
            cached_tokens=self._door.cached_tokens,
            partial=Partial("simulating", reached_s) if self._driver.stopped else None,
            drained_s=drained_s,
            not_asked=self._not_asked(asked),
            cuts=cuts_of(self._cuts),
        )

    def _not_asked(self, asked: Sequence[str]) -> dict[str, int]:
        """The most replicas of each model that nobody asked and that had any."""
        most = {
            model_id: max((sum(point.phases.values()) for point in points), default=0)
            for model_id, points in self._points.items()
            if model_id not in asked
        }
        return {model_id: count for model_id, count in most.items() if count}

    def _figures(self, model_id: str) -> ServiceFigures:
        start_at = self.settings.start_at
        outcomes = self._ledger.outcomes(start_at, self._door.arrived, self._door.pool_of(model_id))
        return service_figures(outcomes, self._points[model_id], max(0.0, self._driver.now - start_at))
