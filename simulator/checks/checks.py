"""The invariants of a simulated run, asked after its steps; and the last steps, kept for the day when one is broken.

The cheap checks are always on and cost nothing at a step that plans nothing, which is nearly every one. ``FULL`` asks
everything at every step: it is for tests, and for the run in which something looks wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.control.core import BrokerCore
from broker.control.decide import Policies
from broker.control.invariants import LaunchHistory, check_plan
from broker.control.loop import Ran
from broker.model.errors import InvariantViolated
from broker.model.observation import Observation
from broker.model.ports import Checkpoint, StepRecord
from broker.model.replica import ENDED
from broker.model.spec import PoolSpec
from simulator.checks.audit import AuditedDoor, StepAudit
from simulator.checks.saved import SavedObservations, number_of, words_of
from simulator.checks.world import Account, Process, World, check_accounts, check_cut, check_world
from simulator.fleet import SimulatedPool
from simulator.front_door import FrontDoor
from simulator.ledger import OPEN, Ledger

STEPS_KEPT = 200
"""At least so many of the last steps, some minute of a busy model, and at most twice as many."""

_GROWTH = 1.25
"""The books are counted whole when the requests have grown by this factor: a count of each at every step would cost
more than the run."""


class Recent:
    """The last steps and the state that they began from, in bounded memory: the state costs nothing to keep, since a
    step shares with it what it did not change."""

    def __init__(self, start: Checkpoint) -> None:
        self._start = self._middle = start
        self._older: list[StepRecord] = []
        self._newer: list[StepRecord] = []

    def add(self, core: BrokerCore, record: StepRecord) -> None:
        """A step that ``core`` has just made."""
        self._newer.append(record)
        if len(self._newer) >= STEPS_KEPT:
            self._start, self._older, self._newer = self._middle, self._newer, []
            self._middle = Checkpoint(record.number, record.now, core.loop.state)

    @property
    def start(self) -> Checkpoint:
        return self._start

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        return (*self._older, *self._newer)


class Checks:
    """One run's. To be told of every step, of every answer that a replica's end cut, and of the run's end; each raises
    ``InvariantViolated``. ``saved`` then gives what to look at."""

    def __init__(
        self, core: BrokerCore, policies: Policies, pools: Sequence[PoolSpec], simulated: Mapping[str, SimulatedPool],
        door: FrontDoor, ledger: Ledger, *, began_at: float,
    ) -> None:  # fmt: skip
        self.failure: SavedObservations | None = None
        self._core = core
        self._gpus = {pool.pool_id: pool.gpus for pool in pools}
        self._pools = simulated
        self._door = door
        self._ledger = ledger
        self._began_at = began_at
        self._launched = LaunchHistory()
        self._before = core.loop.state
        self._recent = Recent(Checkpoint(0, 0.0, self._before))
        self._last_now = -1.0
        self._counted = 0
        self._world: World | None = None
        self._audit = StepAudit(policies, door) if isinstance(door, AuditedDoor) else None

    def on_step(self, ran: Ran) -> None:
        core, now = self._core, ran.plan.now
        self._world = None
        self._recent.add(core, ran.record)
        if now < self._last_now:
            raise InvariantViolated(8, f"time goes back from {self._last_now} to {now}")
        self._last_now = now
        if ran.plan.actions or ran.plan.decisions:
            self._planned(ran)
        if self._audit is not None:
            self._audit_step(self._audit, ran)
        self._before = core.loop.state

    def on_failure(self, error: Exception, pending: tuple[Observation, ...]) -> None:
        """The first step in which something could not be decided, before anything else happens. ``pending``: what it
        had observed, if it failed as a whole."""
        self.failure = self.saved(error, self._last_now, pending)

    def on_cut(self, replica_id: str) -> None:
        """An answer was cut by the end of a replica."""
        self._world = World(cut=(replica_id,))
        check_cut(replica_id, self._core.loop.state)

    def at_end(self, now: float) -> None:
        """The door has caught up with the run's end."""
        arrived = Account("requests that arrived by the end", self._door.arrived, self._ledger.arrived_by(now))
        self._world = World(accounts=(arrived, *self._books()))
        check_accounts(self._world.accounts)

    def saved(self, error: BaseException, now: float, pending: tuple[Observation, ...] = ()) -> SavedObservations:
        """What was observed before ``error``, to be written to a file."""
        return SavedObservations(
            problem=words_of(error),
            invariant=number_of(error),
            now=now,
            began_at=self._began_at,
            start=self._recent.start,
            steps=self._recent.steps,
            world=self._world,
            pending=pending,
        )

    def _planned(self, ran: Ran) -> None:
        state = self._core.loop.state
        check_plan(ran.plan, state)
        if ran.plan.actions:
            self._launched.check(self._before, ran.plan)
            self._world = self._look()
            check_world(self._world, state)

    def _audit_step(self, audit: StepAudit, ran: Ran) -> None:
        state = self._core.loop.state
        audit.check_step(self._before, ran.record, state)
        self._door.catch_up(ran.plan.now)
        self._world = replace(self._look(), accounts=(*self._books(), *audit.accounts(self._ledger)))
        check_world(self._world, state)

    def _look(self) -> World:
        processes = tuple(
            Process(
                replica.replica_id, replica.launch.model_id, pool_id, replica.launch.action_id,
                replica.launch.model.gpus,
            )
            for pool_id, pool in self._pools.items()
            for replica in pool.replicas.values()
            if replica.phase not in ENDED
        )  # fmt: skip
        arrived = self._door.arrived
        accounts = self._books() if arrived > self._counted * _GROWTH else ()
        return World(processes, self._gpus, self._door.routed(), accounts=accounts)

    def _books(self) -> tuple[Account, ...]:
        """Requests by the gateway's books and by the ledger's."""
        door, ledger = self._door, self._ledger
        self._counted = arrived = door.arrived
        unfinished = ledger.count(OPEN, arrived)
        return (Account(f"requests open at the gateway, of {arrived} that arrived", door.open_requests, unfinished),)
