"""A simulated pool: an actuator whose replicas are engines in simulated time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from broker.model.errors import CapacityUnavailable
from broker.model.observation import Outcome, PoolSnapshot, Receipt
from broker.model.plan import Launch, Stop
from broker.model.replica import ENDED, ObservedReplica, ReplicaPhase, StopMode
from broker.model.spec import PoolSpec
from simulator.engine.profile import EngineProfile
from simulator.report.summary import CutCause

ENDED_KEPT_S = 3600.0


@dataclass(slots=True)
class SimulatedReplica:
    """An engine's life. ``loaded_at``: when it begins to serve; infinity while that is not known.

    ``not_after``, ``exit_code`` and ``detail`` are what its pool's listing says of it. ``allocated_gpus``: what it
    takes from others, with what it leaves unused of whole nodes. ``busy_s``: for how long it computed, and ``cut_by``:
    why whatever it still answered was cut, both known when it has ended.
    """

    launch: Launch
    profile: EngineProfile
    started_at: float | None
    loaded_at: float
    phase: ReplicaPhase = ReplicaPhase.STARTING
    not_after: float | None = None
    exit_code: int | None = None
    detail: str = ""
    ended_at: float | None = None
    shown: ObservedReplica | None = None
    allocated_gpus: int = 0
    busy_s: float = 0.0
    cut_by: CutCause | None = None

    def __post_init__(self) -> None:
        self.allocated_gpus = self.allocated_gpus or self.launch.model.gpus

    @property
    def replica_id(self) -> str:
        return self.launch.replica_id

    def serves(self, now: float) -> bool:
        return now >= self.loaded_at and self.phase in (ReplicaPhase.STARTING, ReplicaPhase.STOPPING)

    def listed(self, now: float) -> ObservedReplica:
        """As its pool shows it; the same object until something changes, which makes listings cheap to compare."""
        url = f"http://{self.replica_id}" if self.serves(now) else None
        shown = self.shown
        if shown is None or (shown.phase, shown.url, shown.not_after) != (self.phase, url, self.not_after):
            launch = self.launch
            shown = self.shown = ObservedReplica(
                self.replica_id, launch.model.model_id, launch.generation, self.phase, url,
                not_after=self.not_after, started_at=self.started_at, exit_code=self.exit_code, detail=self.detail,
            )  # fmt: skip
        return shown


class Service(Protocol):
    """Where the requests are that replicas serve."""

    def leaves(self, replica: SimulatedReplica) -> bool:
        """It was told to exit and takes no more requests; whether some are in flight, which it still serves."""
        ...

    def ended(self, replica: SimulatedReplica) -> None:
        """It has exited; what was in flight is unserved."""
        ...


class SimulatedPool:
    """An ``Actuator`` that never waits."""

    def __init__(
        self,
        pool: PoolSpec,
        profile_of: Callable[[Launch], EngineProfile],
        service: Service,
        clock: Callable[[], float],
    ) -> None:
        self.pool_id = pool.pool_id
        self.replicas: dict[str, SimulatedReplica] = {}
        self._pool = pool
        self._profile_of = profile_of
        self._service = service
        self._now = clock
        self._actions: set[str] = set()
        self._listed: tuple[ObservedReplica, ...] = ()
        self._listed_until = -math.inf
        self._serving: list[tuple[str, str]] = []

    async def observe(self) -> PoolSnapshot:
        now = self._now()
        self._look(now)
        return PoolSnapshot(self.pool_id, now, now, True, self._listed, self._pool.gpus)

    def serving(self) -> list[tuple[str, str]]:
        """The replicas that answer now, each with its model before its name."""
        self._look(self._now())
        return self._serving

    def _look(self, now: float) -> None:
        """Make the listing anew unless it holds, until time changes it or somebody says so: a thousand replicas are
        listed twice a second, and nearly always as before."""
        if now < self._listed_until:
            return
        self._forget_before(now - ENDED_KEPT_S)
        replicas = self.replicas.values()
        self._listed = tuple([replica.listed(now) for replica in replicas])
        self._serving = [(r.launch.model.model_id, r.replica_id) for r in replicas if r.serves(now)]
        loaded = [replica.loaded_at for replica in replicas if now < replica.loaded_at]
        forgotten = [replica.ended_at + ENDED_KEPT_S for replica in replicas if replica.ended_at is not None]
        self._listed_until = min(loaded + forgotten, default=math.inf)

    def _changed(self) -> None:
        """A replica is to be listed otherwise."""
        self._listed_until = -math.inf

    async def start(self, launch: Launch) -> Receipt:
        now = self._now()
        if launch.action_id not in self._actions:
            used = sum(r.launch.model.gpus for r in self.replicas.values() if r.phase not in ENDED)
            if used + launch.model.gpus > self._pool.gpus:
                raise CapacityUnavailable(f"{self.pool_id} has {self._pool.gpus - used} GPUs left")
            profile = self._profile_of(launch)
            self.replicas[launch.replica_id] = SimulatedReplica(launch, profile, now, now + profile.load_time_s)
            self._actions.add(launch.action_id)
            self._changed()
        return self._accepted(launch.action_id, launch.replica_id, launch.model.model_id)

    async def stop(self, order: Stop) -> Receipt:
        replica = self.replicas.get(order.replica_id)
        if replica is not None and replica.launch.generation == order.generation and replica.phase not in ENDED:
            replica.phase = ReplicaPhase.STOPPING
            self._changed()
            busy = self._service.leaves(replica)
            if order.mode is StopMode.KILL or not busy:
                self.end(replica, exit_code=0)
        return self._accepted(order.action_id, order.replica_id, order.model_id)

    async def close(self) -> None:
        """Nothing to let go of."""

    def end(self, replica: SimulatedReplica, *, exit_code: int) -> None:
        """It exits now: as wanted if it was told to, by itself otherwise."""
        wanted = replica.phase is ReplicaPhase.STOPPING
        replica.phase = ReplicaPhase.GONE if wanted else ReplicaPhase.FAILED
        replica.cut_by = CutCause.DRAIN_LIMIT if wanted else CutCause.CRASHED
        replica.exit_code = exit_code
        replica.ended_at = self._now()
        self._changed()
        self._service.ended(replica)

    def _forget_before(self, horizon: float) -> None:
        """Ended replicas stay in the listing as long as a real actuator shows them: a run of weeks must not list all
        that ever were, twice a second."""
        old = [
            name
            for name, replica in self.replicas.items()
            if replica.ended_at is not None and replica.ended_at < horizon
        ]
        for name in old:
            del self.replicas[name]

    def _accepted(self, action_id: str, replica_id: str, model_id: str) -> Receipt:
        now = self._now()
        return Receipt(action_id, replica_id, model_id, Outcome.ACCEPTED, now, now)
