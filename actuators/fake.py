"""A pool in memory for tests, benchmarks and rehearsals: it never suspends, and its time is the ``now`` it is given.

A replica is PENDING for ``pending_s``, then STARTING, listens (has a URL) ``start_s`` later, is GONE ``exit_s`` after a
gentle stop and at once after a kill. Nothing happens between calls: what has fallen due is worked off when someone
looks. Work per call is proportional to what changed, so 10,000 quiet replicas cost nothing to observe.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from broker.model.errors import ActuatorError, CapacityUnavailable
from broker.model.observation import Outcome, PoolSnapshot, Receipt
from broker.model.plan import Launch, Stop
from broker.model.replica import ENDED, ObservedReplica, ReplicaPhase, StopMode

FORGET_AFTER_S = 3600.0


@dataclass(slots=True)
class _Held:
    """One replica of the pretended world. ``turn`` counts changes of course: what was due before one is void."""

    launch: Launch
    turn: int = 0


class FakeActuator:
    """An ``Actuator`` without a machine.

    ``starts`` and ``stops`` record every call in order, repeated and refused ones included; ``launched`` the launches
    that had an effect. Attributes ``pending_s``,
    ``start_s`` and ``exit_s`` may be changed at any time and hold for what is asked from then on.
    """

    def __init__(
        self,
        pool_id: str,
        *,
        gpus: int,
        now: Callable[[], float],
        pending_s: float = 0.0,
        start_s: float = 0.0,
        exit_s: float = 0.0,
    ) -> None:
        self._pool_id = pool_id
        self.gpus = gpus
        self.pending_s = pending_s
        self.start_s = start_s
        self.exit_s = exit_s
        self._now = now
        self.reset()

    @property
    def pool_id(self) -> str:
        return self._pool_id

    def reset(self) -> None:
        """An empty pool that remembers nothing, not even which actions it has carried out."""
        self.starts: list[Launch] = []
        self.stops: list[Stop] = []
        self.launched: list[Launch] = []
        self._actions: set[str] = set()
        self._held: dict[str, _Held] = {}
        self._seen: dict[str, ObservedReplica] = {}
        self._listing: tuple[ObservedReplica, ...] | None = ()
        self._gpus_used = 0
        self._due: list[tuple[float, int, int, ObservedReplica]] = []
        self._forget: deque[tuple[float, str]] = deque()
        self._serial = itertools.count()
        self._start_errors: deque[ActuatorError] = deque()
        self._stop_errors: deque[ActuatorError] = deque()
        self._observe_errors: deque[str] = deque()

    def fail_next_start(self, error: ActuatorError) -> None:
        """The next start raises ``error`` and has no effect; several wait in line."""
        self._start_errors.append(error)

    def fail_next_stop(self, error: ActuatorError) -> None:
        """The next stop raises ``error`` and has no effect; several wait in line."""
        self._stop_errors.append(error)

    def fail_next_observe(self, error: str = "the listing failed") -> None:
        """The next listing is unknown, with these words; several wait in line."""
        self._observe_errors.append(error)

    def crash(self, replica_id: str, *, exit_code: int = 1) -> None:
        """The replica ends by itself, now. Raises ``KeyError`` if there is no such replica."""
        now = self._catch_up()
        if self._seen[replica_id].phase not in ENDED:
            self._end(replica_id, ReplicaPhase.FAILED, now, exit_code, "crashed")

    async def observe(self) -> PoolSnapshot:
        now = self._catch_up()
        if self._observe_errors:
            return PoolSnapshot(self._pool_id, now, now, known=False, error=self._observe_errors.popleft())
        if self._listing is None:
            self._listing = tuple(self._seen.values())
        return PoolSnapshot(self._pool_id, now, now, known=True, replicas=self._listing, gpus_total=self.gpus)

    async def start(self, launch: Launch) -> Receipt:
        now = self._catch_up()
        self.starts.append(launch)
        if self._start_errors:
            raise self._start_errors.popleft()
        if launch.action_id not in self._actions:
            if self._gpus_used + launch.model.gpus > self.gpus:
                raise CapacityUnavailable(
                    f"pool {self._pool_id} has {self.gpus - self._gpus_used} of {self.gpus} GPUs free; "
                    f"{launch.replica_id} needs {launch.model.gpus}"
                )
            self._begin(launch, now)
        return self._accepted(launch.action_id, launch.replica_id, launch.model.model_id, now)

    async def stop(self, order: Stop) -> Receipt:
        now = self._catch_up()
        self.stops.append(order)
        if self._stop_errors:
            raise self._stop_errors.popleft()
        seen = self._seen.get(order.replica_id)
        if seen is not None and seen.generation == order.generation and seen.phase not in ENDED:
            if order.mode is StopMode.KILL or self.exit_s <= 0:
                self._end(order.replica_id, ReplicaPhase.GONE, now, 0, "")
            elif seen.phase is not ReplicaPhase.STOPPING:
                self._held[order.replica_id].turn += 1
                stopping = replace(seen, phase=ReplicaPhase.STOPPING)
                self._show(stopping)
                self._plan(now + self.exit_s, replace(stopping, phase=ReplicaPhase.GONE, url=None, exit_code=0))
        return self._accepted(order.action_id, order.replica_id, order.model_id, now)

    async def close(self) -> None:
        """Nothing to let go of: this object is the world itself, and goes on after it."""

    def _accepted(self, action_id: str, replica_id: str, model_id: str, now: float) -> Receipt:
        return Receipt(action_id, replica_id, model_id, Outcome.ACCEPTED, observed_at=now, received_at=now)

    def _begin(self, launch: Launch, now: float) -> None:
        self._actions.add(launch.action_id)
        self.launched.append(launch)
        self._gpus_used += launch.model.gpus
        self._held[launch.replica_id] = _Held(launch)
        pending = ObservedReplica(
            launch.replica_id, launch.model.model_id, launch.generation, ReplicaPhase.PENDING, started_at=now
        )
        self._show(pending)
        runs_at = now + self.pending_s
        running = replace(pending, phase=ReplicaPhase.STARTING, started_at=runs_at)
        self._plan(runs_at, running)
        self._plan(runs_at + self.start_s, replace(running, url=f"http://{launch.replica_id}.invalid:8000"))
        self._catch_up()

    def _end(self, replica_id: str, phase: ReplicaPhase, now: float, exit_code: int, detail: str) -> None:
        seen = replace(self._seen[replica_id], phase=phase, url=None, exit_code=exit_code, detail=detail)
        self._held[replica_id].turn += 1
        self._show(seen)
        self._settle(seen, now)

    def _settle(self, ended: ObservedReplica, at: float) -> None:
        self._gpus_used -= self._held[ended.replica_id].launch.model.gpus
        self._forget.append((at + FORGET_AFTER_S, ended.replica_id))

    def _show(self, replica: ObservedReplica) -> None:
        self._seen[replica.replica_id] = replica
        self._listing = None

    def _plan(self, at: float, replica: ObservedReplica) -> None:
        turn = self._held[replica.replica_id].turn
        heapq.heappush(self._due, (at, next(self._serial), turn, replica))

    def _catch_up(self) -> float:
        """Work off what has fallen due, in its order; returns the time."""
        now = self._now()
        while self._due and self._due[0][0] <= now:
            at, _, turn, replica = heapq.heappop(self._due)
            held = self._held.get(replica.replica_id)
            if held is None or held.turn != turn:
                continue
            self._show(replica)
            if replica.phase in ENDED:
                self._settle(replica, at)
        while self._forget and self._forget[0][0] <= now:
            _, replica_id = self._forget.popleft()
            del self._seen[replica_id], self._held[replica_id]
            self._listing = None
        return now
