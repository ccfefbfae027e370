"""The simulated world beside the broker's records: facts as plain values, and what must be true of them.

Facts are values so that they can be saved with a violation and held against the records once more when it is replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.errors import InvariantViolated
from broker.model.replica import ENDED, ReplicaPhase
from broker.model.state import BrokerState


@dataclass(frozen=True, slots=True)
class Process:
    """One replica as its pool runs it."""

    replica_id: str
    model_id: str
    pool_id: str
    action_id: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Account:
    """Two numbers that must be the same: what one side of the books says of ``name``, and what the other does."""

    name: str
    found: int
    expected: int


@dataclass(frozen=True, slots=True)
class World:
    """What is there at the instant of a step, after it was carried out.

    ``processes`` are the replicas that run or wait in their pool's queue; ``gpus`` what each pool has; ``routed`` the
    replicas, by model, that the next request may go to; ``cut`` those whose end cut an answer since the last step.
    """

    processes: tuple[Process, ...] = ()
    gpus: Mapping[str, int] = field(default_factory=dict)
    routed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cut: tuple[str, ...] = ()
    accounts: tuple[Account, ...] = ()


def check_world(world: World, state: BrokerState) -> None:
    """``state`` is the broker's after the step. Raises ``InvariantViolated``."""
    check_accounts(world.accounts)
    _routes_hold(world, state)
    _processes_hold(world, state)
    for replica_id in world.cut:
        check_cut(replica_id, state)


def check_accounts(accounts: tuple[Account, ...]) -> None:
    """Raises ``InvariantViolated`` for the first that does not add up."""
    for account in accounts:
        if account.found != account.expected:
            raise InvariantViolated(9, f"{account.name}: {account.found} where {account.expected} are expected")


def check_cut(replica_id: str, state: BrokerState) -> None:
    """An answer was cut by the end of this replica. Raises ``InvariantViolated`` if it had been drained in order: then
    nothing was in flight any more when it was told to exit."""
    record = next((m[replica_id] for m in state.replicas.values() if replica_id in m), None)
    if record is None or record.drain is None or record.stop_mode is None or record.in_flight_at_stop:
        return
    told_at = record.phase_since if record.phase is ReplicaPhase.STOPPING else record.drain.deadline_at
    if told_at < record.drain.deadline_at:
        raise InvariantViolated(1, f"an answer was cut on {replica_id}, which had been drained ({record.drain.reason})")


def _routes_hold(world: World, state: BrokerState) -> None:
    """Requests go only where the registry says, and to what runs."""
    running = {process.replica_id: process for process in world.processes}
    for model_id, names in world.routed.items():
        records = state.replicas_of(model_id)
        for name in names:
            record, process = records.get(name), running.get(name)
            if record is None or record.phase is not ReplicaPhase.READY or not record.published:
                phase = "not on record" if record is None else record.phase.value
                raise InvariantViolated(5, f"requests for {model_id} go to {name}, which is {phase}")
            if process is None or process.model_id != model_id:
                raise InvariantViolated(5, f"requests for {model_id} go to {name}, which does not serve it")


def _processes_hold(world: World, state: BrokerState) -> None:
    """Each launch has at most one effect, nothing runs without a record, and no pool holds more than it has."""
    used = dict.fromkeys(world.gpus, 0)
    actions: dict[str, str] = {}
    for process in world.processes:
        other = actions.setdefault(process.action_id, process.replica_id)
        if other != process.replica_id:
            raise InvariantViolated(4, f"{process.action_id} started {other} and {process.replica_id}")
        record = state.replicas_of(process.model_id).get(process.replica_id)
        if record is None:
            raise InvariantViolated(4, f"{process.replica_id} runs in {process.pool_id} and is not on record")
        if record.pool_id != process.pool_id or (record.gpus != process.gpus and record.phase not in ENDED):
            raise InvariantViolated(
                6,
                f"{process.replica_id} holds {process.gpus} GPUs of {process.pool_id}, and the record says "
                f"{record.gpus} of {record.pool_id}",
            )
        used[process.pool_id] = used.get(process.pool_id, 0) + process.gpus
    for pool_id, gpus in used.items():
        if gpus > world.gpus.get(pool_id, 0):
            raise InvariantViolated(6, f"{gpus} GPUs of {pool_id} are held, and it has {world.gpus.get(pool_id, 0)}")
