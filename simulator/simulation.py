"""A trace through the production core: engines, front door and pools in simulated time, one summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from broker.control.decide import Policies
from broker.control.loop import Ran
from broker.model.errors import InvariantViolated
from broker.model.observation import Probe, ProbeVerdict, SpecChanged
from broker.model.plan import Decision, Launch
from broker.model.ports import Log
from broker.model.replica import ON_ITS_WAY, Replica, ReplicaPhase
from broker.model.signals import MetricSample
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from broker.model.state import BrokerState
from simulator.cluster.host import ClusterHost
from simulator.cluster.pool import SlurmPlace, SlurmPool
from simulator.driver import Driver, Priority
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineEvent, EngineRequest, Finished, FirstToken
from simulator.fleet import SimulatedPool, SimulatedReplica
from simulator.front_door import FrontDoor, OpenRequest
from simulator.profiles.document import load_profile
from simulator.report.summary import Outcome, ReplicaPoint, RequestOutcome, RunSummary, TraceCounts, summarise
from traces.schema import TraceRequest

_SCRAPE_INTERVAL_S = 1.0
_SUMMARY_INTERVAL_S = 1.0
_PROBE_INTERVAL_S = 0.5
_REPORT_DELAY_S = 0.01
"""How long a gateway takes to apply a change of the registry and say so (one event, one request on loopback)."""


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """``tail_s`` runs on after the last arrival, so that scale-in is seen. ``start_at``: the trace's second 0 as epoch
    seconds, which matters to schedules. ``warm_up_s`` lets the first replicas load before the trace begins."""

    tail_s: float = 60.0
    start_at: float = 1_700_000_000.0
    warm_up_s: float = 0.0


Progress = Callable[[float, int], None]
"""Told the simulated second (negative while warming up) and the number of requests so far, at every step."""


def profile_of_launch(launch: Launch) -> EngineProfile:
    """The profile that the model's engine names. Raises ``ConfigError`` if there is none of that name."""
    return load_profile(launch.model.engine.profile or "demo").engine


class Simulation:
    """One run. ``model_id`` gets the trace; every model of the site is served.

    ``slurm``: the pools, by id, whose replicas are jobs of a simulated cluster; in the others they start at once.
    """

    def __init__(
        self, site: SiteSpec, models: tuple[ModelSpec, ...], model_id: str, *, log: Log, policies: Policies,
        settings: SimulationSettings | None = None,
        profile_of: Callable[[Launch], EngineProfile] = profile_of_launch,
        slurm: Mapping[str, SlurmPlace] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or SimulationSettings()
        self._began_at = self.settings.start_at - self.settings.warm_up_s
        self._model_id = model_id
        self.clusters: dict[int, ClusterHost] = {}
        self.pools = {
            pool.pool_id: self._make_pool(pool, profile_of, (slurm or {}).get(pool.pool_id)) for pool in site.pools
        }
        self._driver = Driver(log, policies, self.pools, start_at=self._began_at)
        self._door = FrontDoor(model.model_id for model in models)
        self._open: dict[str, OpenRequest] = {}
        self.outcomes: list[RequestOutcome | None] = []
        self._decisions: list[Decision] = []
        self._points: list[ReplicaPoint] = []
        self._engine_due: dict[str, float] = {}
        self._replicas: Mapping[str, Replica] | None = None
        self._seen = 0
        for cluster in self.clusters.values():
            cluster.catch_up()
        self._driver.listen(self._on_step)
        self._driver.open("simulator", SpecChanged(site, models, self._began_at))
        self._driver.every(_SCRAPE_INTERVAL_S, self._scrape, first_at=self._began_at + 0.3)
        self._driver.every(_SUMMARY_INTERVAL_S, self._summarise, first_at=self._began_at + 0.5)
        self._driver.every(_PROBE_INTERVAL_S, self._probe, first_at=self._began_at + 0.4)

    @property
    def state(self) -> BrokerState:
        """The broker's state after the last step."""
        return self._driver.core.loop.state

    def run(
        self, requests: Iterable[TraceRequest], *, trace: Callable[[], TraceCounts] | None = None,
        progress: Progress | None = None,
    ) -> RunSummary:  # fmt: skip
        """Replay ``requests`` (none of them failed ones) and then the tail; requests still open at its end are
        ``unfinished``."""
        if progress is not None:
            # At steps, not at arrivals: a trace may be silent for hours.
            self._driver.listen(lambda ran: progress(self._driver.now - self.settings.start_at, self._seen))
        last_arrival_at = self.settings.start_at
        for request in requests:
            last_arrival_at = self.settings.start_at + request.arrival_s
            self._driver.run_until(last_arrival_at)
            self._arrive(request, last_arrival_at)
        end_at = last_arrival_at + self.settings.tail_s
        self._driver.run_until(end_at)
        patience_s = 3600.0 if any(model.spec.maximum for model in self.state.models.values()) else 0.0
        while self._open and self._driver.now < end_at + patience_s:
            self._driver.run_until(self._driver.now + 1.0)
        return self._summary(trace)

    # -- requests

    def _arrive(self, request: TraceRequest, at: float) -> None:
        name = f"r{self._seen}"
        self._seen += 1
        self.outcomes.append(None)
        opened = OpenRequest(
            name, self._model_id, self._seen - 1, at, max(1, request.prompt_tokens), max(1, request.output_tokens)
        )
        self._door.arrive(opened)
        self._open[name] = opened
        self._hand_over(opened)

    def _hand_over(self, request: OpenRequest) -> None:
        replica = self._route(request)
        if replica is None:
            return
        now = self._driver.now
        engine = replica.engine
        self._take_events(replica, engine.advance(now))
        try:
            engine.add(EngineRequest(request.request_id, now, request.prompt_tokens, request.output_tokens))
        except ValueError:
            self._close(request, now, Outcome.REJECTED)
            return
        replica.open_requests.add(request.request_id)
        self._schedule(replica)

    def _route(self, request: OpenRequest) -> SimulatedReplica | None:
        """The replica that takes it. None if it is held; until the registry catches up some refuse connections."""
        while (endpoint := self._door.route(request)) is not None:
            replica = self._replica(endpoint)
            if replica is not None and replica.phase is ReplicaPhase.STARTING:
                return replica
            self._door.refused(request)
        return None

    def _replica(self, replica_id: str) -> SimulatedReplica | None:
        return next((pool.replicas[replica_id] for pool in self.pools.values() if replica_id in pool.replicas), None)

    def _schedule(self, replica: SimulatedReplica) -> None:
        """One heap entry for each change of an engine's next event; those overtaken do nothing."""
        at = replica.engine.next_event_at()
        if at is None or self._engine_due.get(replica.replica_id) == at:
            return
        self._engine_due[replica.replica_id] = at
        self._driver.at(at, lambda: self._engine_event(replica, at), Priority.ENGINE)

    def _engine_event(self, replica: SimulatedReplica, at: float) -> None:
        if self._engine_due.get(replica.replica_id) != at:
            return
        self._engine_due.pop(replica.replica_id)
        self._take_events(replica, replica.engine.advance(self._driver.now))
        self._schedule(replica)

    def _take_events(self, replica: SimulatedReplica, events: Iterable[EngineEvent]) -> None:
        for event in events:
            request = self._open.get(event.request_id)
            if request is None:
                continue
            match event:
                case FirstToken(at=at):
                    self._door.first_token(request, at)
                case Finished(at=at):
                    replica.open_requests.discard(request.request_id)
                    self._close(request, at, Outcome.FINISHED)
        if replica.phase is ReplicaPhase.STOPPING and not replica.open_requests:
            self._pool_of(replica).end(replica, exit_code=0)

    def _close(self, request: OpenRequest, at: float, outcome: Outcome) -> None:
        del self._open[request.request_id]
        idle = self._door.leave(request, at, finished=outcome is Outcome.FINISHED)
        self.outcomes[request.index] = self._outcome(request, at, outcome)
        if idle:
            self._driver.at(self._driver.now + _REPORT_DELAY_S, self._report_if_draining)

    def _outcome(self, request: OpenRequest, at: float | None, outcome: Outcome) -> RequestOutcome:
        """Token gaps are the request's mean: the engine gives first and last token, not each."""
        first = request.first_token_at
        start = self.settings.start_at
        gaps = np.zeros(0)
        if outcome is Outcome.FINISHED and first is not None and at is not None and request.output_tokens > 1:
            count = request.output_tokens - 1
            gaps = np.full(count, (at - first) / count)
        return RequestOutcome(
            arrival_s=request.arrival_at - start,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens if outcome is Outcome.FINISHED else 0,
            status=outcome,
            first_token_s=None if first is None else first - start,
            end_s=None if at is None else at - start,
            token_gaps_s=gaps,  # type: ignore[arg-type]  # an array is a sequence of floats in all that matters here
        )

    # -- replicas

    def _make_pool(
        self, pool: PoolSpec, profile_of: Callable[[Launch], EngineProfile], place: SlurmPlace | None
    ) -> SimulatedPool:
        def clock() -> float:
            return self._driver.now

        if place is None:
            return SimulatedPool(pool, profile_of, self._replica_ended, clock)
        key = id(place.cluster)
        if key not in self.clusters:
            self.clusters[key] = ClusterHost(
                place.cluster, clock, lambda at, happen: self._driver.at(at, happen, Priority.ENGINE)
            )
        return SlurmPool(
            pool,
            profile_of,
            self._replica_ended,
            clock,
            host=self.clusters[key],
            jobs=place.jobs,
            cold_starts=place.cold_starts,
        )

    def _pool_of(self, replica: SimulatedReplica) -> SimulatedPool:
        return self.pools[replica.launch.pool_id]

    def _replica_ended(self, replica: SimulatedReplica) -> None:
        """Open requests of a replica that exits: cut if tokens had come, else routed again."""
        now = self._driver.now
        self._engine_due.pop(replica.replica_id, None)
        for name in sorted(replica.open_requests):
            request = self._open[name]
            if request.first_token_at is None:
                self._door.refused(request)
                self._hand_over(request)
            else:
                self._close(request, now, Outcome.CUT)
        replica.open_requests.clear()

    def crash(self, replica_id: str) -> None:
        """A replica dies by itself, now."""
        replica = self._replica(replica_id)
        if replica is not None and replica.phase is ReplicaPhase.STARTING:
            self._pool_of(replica).end(replica, exit_code=137)

    # -- what the broker sees

    def _serving(self) -> Iterator[SimulatedReplica]:
        for pool in self.pools.values():
            yield from (replica for replica in pool.replicas.values() if replica.serves(self._driver.now))

    def _scrape(self) -> None:
        now = self._driver.now
        for replica in list(self._serving()):
            engine = replica.engine
            self._take_events(replica, engine.advance(now))
            counters = engine.counters
            self._driver.observe(
                MetricSample(
                    replica.launch.model.model_id, replica.replica_id, now, now,
                    requests_running=float(engine.running),
                    requests_waiting=float(engine.waiting),
                    kv_cache_use=engine.kv_use,
                    prompt_tokens_total=float(counters.prompt_tokens),
                    generation_tokens_total=float(counters.generation_tokens),
                    preemptions_total=float(counters.preemptions),
                    requests_finished_total=float(counters.finished),
                )
            )  # fmt: skip

    def _summarise(self) -> None:
        now = self._driver.now
        for summary in self._door.summaries(now, _SUMMARY_INTERVAL_S):
            self._driver.observe(summary)
        self._driver.offer(self._door.report(now))

    def _report_if_draining(self) -> None:
        if any(model.draining for model in self.state.models.values()):
            self._driver.offer(self._door.report(self._driver.now))

    def _probe(self) -> None:
        now = self._driver.now
        for replica in self._serving():
            record = self.state.replicas_of(replica.launch.model.model_id).get(replica.replica_id)
            if record is not None and record.phase in ON_ITS_WAY:
                self._driver.offer(Probe(replica.replica_id, record.model_id, ProbeVerdict.READY, now, now))

    # -- what is told

    def _on_step(self, ran: Ran) -> None:
        now = self._driver.now
        self._decisions.extend(ran.plan.decisions)
        replicas = self.state.replicas_of(self._model_id)
        if replicas is not self._replicas:  # the state shares what did not change
            self._replicas = replicas
            phases = (replica.phase for replica in replicas.values())
            point = ReplicaPoint.of(max(0.0, now - self.settings.start_at), phases)
            if not self._points or self._points[-1].phases != point.phases:
                self._points.append(point)
        if ran.registry:
            for request in self._door.apply(ran.registry):
                self._hand_over(request)
            self._driver.at(now + _REPORT_DELAY_S, self._report_if_draining)

    def _summary(self, trace: Callable[[], TraceCounts] | None) -> RunSummary:
        for request in self._open.values():
            self.outcomes[request.index] = self._outcome(request, None, Outcome.UNFINISHED)
        outcomes = [outcome for outcome in self.outcomes if outcome is not None]
        if len(outcomes) != self._seen:
            raise InvariantViolated(9, f"{self._seen} requests arrived, {len(outcomes)} are accounted for")
        return summarise(
            source="simulate",
            started_at=self.settings.start_at,
            duration_s=self._driver.now - self.settings.start_at,
            outcomes=outcomes,
            replicas=self._points,
            decisions=self._decisions,
            trace=trace() if trace is not None else None,
        )
