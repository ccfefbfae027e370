"""A trace through the production core: engines, front door and pools in simulated time, one summary at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import simulator.engine.fleet
import simulator.tally
from broker.control.answers import in_words
from broker.control.decide import Policies
from broker.control.loop import Ran
from broker.model.errors import ConfigError
from broker.model.observation import Probe, ProbeVerdict, SpecChanged
from broker.model.plan import Decision, Launch
from broker.model.ports import Log
from broker.model.replica import ON_ITS_WAY, EndpointRecord, Replica, ReplicaPhase
from broker.model.signals import MetricSample
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from broker.model.state import BrokerState
from broker.model.units import format_duration
from simulator.checks.audit import AuditedDoor
from simulator.checks.checks import Checks
from simulator.checks.level import CheckLevel
from simulator.checks.saved import SavedObservations
from simulator.cluster.host import ClusterHost
from simulator.cluster.pool import SlurmPlace, SlurmPool
from simulator.crowd import SHORTEST_S, Crowd
from simulator.demand import Demand
from simulator.driver import Driver, FailedSteps, Priority
from simulator.engine.audit import AuditedFleet
from simulator.engine.fleet import EngineFleet
from simulator.engine.profile import EngineProfile
from simulator.engine.routing import Routing
from simulator.fleet import SimulatedPool, SimulatedReplica
from simulator.front_door import FrontDoor
from simulator.ledger import ABANDONED, CUT, FINISHED, OPEN, REJECTED, Ledger
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
from traces.blocks import RequestBlock
from traces.clients import Ending
from traces.conditions import PERFECT, MetricFaults

_SPAN_S = 86_400.0
"""Of the arrivals that the fleet is told ahead of: it counts them only for some months."""

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


_ENDINGS = {FINISHED: Ending.ANSWERED, CUT: Ending.FAILED, REJECTED: Ending.REJECTED, ABANDONED: Ending.ABANDONED}
"""What clients make of how their requests ended."""

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


def _within(span_s: float, block: RequestBlock) -> Iterator[RequestBlock]:
    """The block in parts that last no longer."""
    begin = 0
    while begin < len(block):
        end = int(np.searchsorted(block.arrival_s, block.arrival_s[begin] + span_s, side="right"))
        yield block.take(slice(begin, end))
        begin = end


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
        self._crowd: Crowd | None = None
        self._replicas: dict[str, Mapping[str, Replica]] = {}
        self._watched: set[str] = set()
        self._looked_at: Mapping[str, Mapping[str, Replica]] | None = None
        self._awaited: dict[str, tuple[Mapping[str, Replica], list[tuple[str, str]]]] = {}
        self._awaiting: list[tuple[str, str]] = []
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
        numbers = self._numbers_of(demand.models)
        self._demand = demand
        if progress is not None:
            # At steps, not at arrivals: a trace may be silent for hours.
            self._driver.listen(lambda ran: progress(self._driver.now - self.settings.start_at, self._door.arrived))
        last_arrival_at = self._let_react(demand, numbers) if demand.reacting else self._let_come(demand, numbers)
        end_at = last_arrival_at + self.settings.tail_s
        self._run_to(end_at)
        patience_s = 3600.0 if any(model.spec.maximum for model in self.state.models.values()) else 0.0
        while not self._driver.stopped and self._open_requests() and self._driver.now < end_at + patience_s:
            self._run_to(self._driver.now + 1.0)
        return self._summary(trace, drained_s=max(0.0, self._driver.now - end_at))

    def _let_come(self, demand: Demand, numbers: NDArray[np.int16]) -> float:
        """Requests that come as they may; when the last one did."""
        last_arrival_at = self.settings.start_at
        for block in demand.requests.blocks():
            for part in _within(_SPAN_S, block):
                self._run_before(self.settings.start_at + float(part.arrival_s[0]))
                if self._driver.stopped:
                    return last_arrival_at
                last_arrival_at = self._expect(part, numbers)
                self._run_before(last_arrival_at)
        return last_arrival_at

    def _let_react(self, demand: Demand, numbers: NDArray[np.int16]) -> float:
        """Requests of clients who react, and the others between them; when the last one came."""
        start_at = last_arrival_at = self.settings.start_at
        crowd = self._crowd = Crowd(demand.requests, demand.reacting, demand.until_s)
        at_s = crowd.next_at_s
        while at_s < demand.until_s and not self._driver.stopped:
            self._run_before(start_at + at_s)
            self._look_after(crowd, at_s)
            asked_s = at_s
            while crowd.next_at_s < crowd.look_at_s():
                asked_s = min(crowd.next_at_s + SHORTEST_S, crowd.look_at_s())
                block, who = crowd.asked_before(asked_s)
                crowd.sent(len(self._ledger), who)
                last_arrival_at = self._expect(block, numbers)
            at_s = max(asked_s, crowd.look_at_s()) if crowd.waits else max(asked_s, crowd.next_at_s)
        self._run_before(last_arrival_at)
        return last_arrival_at

    def _run_to(self, at: float) -> None:
        """With an eye on the clients who react."""
        while self._crowd is not None and self._crowd.waits and self._driver.now < at and not self._driver.stopped:
            look_at = self.settings.start_at + self._crowd.look_at_s()
            self._driver.run_until(min(at, max(look_at, self._driver.now)))
            self._look_after(self._crowd, self._driver.now - self.settings.start_at)
        self._driver.run_until(at)

    def _look_after(self, crowd: Crowd, now_s: float) -> None:
        """Who lost patience leaves; who was answered, or failed, or left, thinks of what to ask next."""
        self._catch_up()
        ledger, start_at = self._ledger, self.settings.start_at
        late = crowd.out_of_patience(
            now_s, lambda row: ledger.status[row] != OPEN or not math.isnan(ledger.first_token_at[row])
        )
        if late:
            self._door.abandon(np.array(late, np.int64), self._driver.now)
        rows = np.array(crowd.open_rows, np.int64)
        ended = rows[ledger.status[rows] != OPEN]
        for row, status, at in zip(ended.tolist(), ledger.status[ended], ledger.ended_at[ended], strict=True):
            crowd.ended(row, _ENDINGS[status], float(at) - start_at, now_s)

    def _run_before(self, at: float) -> None:
        """Up to an arrival: others may come at the same instant that are not known yet, and they all come first."""
        self._driver.run_until(math.nextafter(at, -math.inf))

    # -- requests

    def _numbers_of(self, models: Iterable[str]) -> NDArray[np.int16]:
        """By a demand's code of a model the number by which door and ledger know it."""
        if unknown := sorted(set(models) - self._points.keys()):
            raise ConfigError(
                f"the load asks {', '.join(unknown)}; the policies have {', '.join(self._points)}", field="models"
            )
        return np.array([self._door.pool_of(model_id) for model_id in models], np.int16)

    def _expect(self, block: RequestBlock, numbers: NDArray[np.int16]) -> float:
        """Take a block's requests in, each to come at its time; when the last one does."""
        arrival_at = self.settings.start_at + block.arrival_s
        rows = self._ledger.append(
            arrival_at, block.prompt_tokens, block.output_tokens, numbers[block.model], block.tenant
        )
        self._door.expect(rows, block.prefix_group, block.prefix_tokens)
        return float(arrival_at[-1])

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
        for name, model_id in self._on_their_way():
            replica = self._replica(name)
            if replica is not None and replica.serves(now):
                self._driver.offer(Probe(name, model_id, ProbeVerdict.READY, now, now))

    def _on_their_way(self) -> list[tuple[str, str]]:
        """Replicas, with their models, that the broker waits for. It looks only at what changed since it looked last:
        the state shares what did not."""
        state = self.state
        if state.replicas is not self._looked_at:
            self._looked_at = state.replicas
            for model_id, replicas in state.replicas.items():
                known = self._awaited.get(model_id)
                if known is None or known[0] is not replicas:
                    names = [(name, model_id) for name, record in replicas.items() if record.phase in ON_ITS_WAY]
                    self._awaited[model_id] = (replicas, names)
            self._awaiting = [name for model_id in state.replicas for name in self._awaited[model_id][1]]
        return self._awaiting

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
            problems=() if failed is None else (_told(failed, self.settings.start_at),),
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


def _told(failed: FailedSteps, start_at: float) -> str:
    """What an operator must know of steps in which something could not be decided."""
    first_s, last_s = (format_duration(max(0.0, at - start_at)) for at in (failed.first_at, failed.last_at))
    when = f"at {first_s}" if failed.count == 1 else f"from {first_s} to {last_s}"
    times = "one step" if failed.count == 1 else f"{failed.count:,} steps"
    why = in_words(failed.first)
    if failed.model_id is None:
        return f"{times} could not be decided, {when}: {why}; nothing was started or stopped meanwhile"
    return f"the policy of {failed.model_id} failed in {times}, {when}: {why}; the target was kept meanwhile"
