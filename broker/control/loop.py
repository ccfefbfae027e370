"""The one loop that production and the simulator share: collect observations, step, commit, carry out.

It knows no clock and no event loop: whoever drives it asks ``due_at`` and calls ``run`` then. Its coroutines suspend
only inside the log, so that with the in-memory log a simulator can run them without an event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.control.decide import Policies
from broker.control.draft import PolicyFault
from broker.control.reconcile import Dispatch, Reconciler
from broker.control.step import StepResult, step
from broker.model.making import quickly_made
from broker.model.observation import GatewayReport, LeadershipTaken, Observation, PoolSnapshot, Probe
from broker.model.plan import Effect, Plan
from broker.model.ports import Checkpoint, Epoch, Log, StepRecord
from broker.model.replica import EndpointRecord, GatewaySessionKey, Replica
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, Changes, gateway_entity_key

ROUTINE_S = 1.0
"""What only says that somebody is still there waits so long for a step that is made anyway: a step of its own for
each gateway's heartbeat was a quarter of all that a quiet broker did."""

COALESCE_S = 0.02
"""Changes that come within this time of a step are decided together. On a busy site a step always has just been, so
that all of it is waited for: it leaves room for the rest of the 50 ms from a sample to its action."""


@quickly_made
@dataclass(frozen=True, slots=True)
class Ran:
    """What one run did: the committed plan, the registry's changes, the models whose records changed, the effects
    that were held back. ``late``: this step was committed when the run before thought that it was not; what has been
    offered since is pending. ``record`` is the step as the log has it. ``faults``: the policies that raised."""

    plan: Plan
    registry: tuple[EndpointRecord, ...]
    touched: frozenset[str]
    held: tuple[tuple[Effect, str], ...]
    record: StepRecord
    faults: tuple[PolicyFault, ...] = ()
    late: bool = False


class ControlLoop:
    """The single writer of the broker's state."""

    def __init__(self, log: Log, policies: Policies, dispatch: Dispatch, *, checkpoint_every_s: float = 600.0) -> None:
        self._log = log
        self._policies = policies
        self._reconciler = Reconciler(dispatch)
        self._checkpoint_every_s = checkpoint_every_s
        self._pending: dict[tuple[str, ...], Observation] = {}
        self._offered = 0
        self._unsure: tuple[StepRecord, StepResult] | None = None
        self._pending_at: float | None = None
        self._number = 0
        self._last_run_at = float("-inf")
        self._checkpoint_at = float("-inf")
        self._wake_at: float | None = None
        self.state = BrokerState()
        self.epoch: Epoch | None = None

    async def open(self, holder: str, now: float) -> Epoch:
        """Take leadership, restore the state, and note that a new term began. Raises ``LogError``."""
        self.epoch = await self._log.acquire_leadership(holder)
        restored = await self._log.load()
        self.state, self._number = restored.state, restored.number
        self.offer(LeadershipTaken(self.epoch.number, holder, now))
        return self.epoch

    def offer(self, observation: Observation) -> bool:
        """Something was learned; it is decided on by the next run. True if that is due earlier than before.

        What says the same thing anew replaces what waits: while the log refuses to write it must not pile up.
        """
        self._offered += 1
        place = _says(observation) or (str(self._offered),)
        self._pending.pop(place, None)
        self._pending[place] = observation
        at = observation.received_at + (ROUTINE_S if _is_routine(self.state, observation) else 0.0)
        if self._pending_at is not None and self._pending_at <= at:
            return False
        self._pending_at = at
        return True

    @property
    def pending(self) -> tuple[Observation, ...]:
        """What the next step will take in, in its order."""
        return _in_order(self._pending)

    def due_at(self) -> float | None:
        """When ``run`` should be called next, None while there is nothing to wait for."""
        wake_at, pending_at = self._wake_at, self._pending_at
        earliest = self._last_run_at + COALESCE_S
        if pending_at is None:
            return None if wake_at is None else max(wake_at, earliest)
        due = pending_at if wake_at is None or pending_at < wake_at else wake_at
        return min(max(due, earliest), self.coalesced(pending_at))

    def coalesced(self, at: float) -> float:
        """When something of ``at`` should be run, together with what comes meanwhile. It waits no longer than it takes
        to coalesce, even if the clock was set back since the last run."""
        return min(max(at, self._last_run_at + COALESCE_S), at + COALESCE_S)

    async def run(self, now: float) -> Ran:
        """One step on all that is pending. If the log refuses it (``LogError``), nothing happened: the observations
        stay pending, the state is as before, and no effect was carried out. If it was written all the same, the next
        run goes on from there."""
        if self.epoch is None:
            raise RuntimeError("the loop was not opened")
        if self._unsure is not None and (written := await self._written_after_all()) is not None:
            return replace(self._committed(*written, now), late=True)
        # Before the step, not after it: a checkpoint that fails must not keep a committed plan from being carried out.
        await self._checkpoint_if_due(now)
        pending, since = self._pending, self._pending_at
        self._pending, self._pending_at = {}, None
        try:
            observations = _in_order(pending)
            result = step(self.state, observations, self._policies, now)
            record = _record(self._number + 1, self.epoch, observations, result)
            self._unsure = record, result
            await self._log.commit(record)
        except BaseException:
            superseded = self._pending.keys()
            self._pending = {place: seen for place, seen in pending.items() if place not in superseded} | self._pending
            self._pending_at = self._pending_at if since is None else since
            raise
        return self._committed(record, result, now)

    async def _written_after_all(self) -> tuple[StepRecord, StepResult] | None:
        """The step whose commit failed, if the log has it: the disk may write and the answer be lost. To decide it
        anew under the same number would be refused for ever. What it took in is pending no more."""
        found = await anext(self._log.steps(after=self._number), None)
        unsure, self._unsure = self._unsure, None
        if unsure is None or found is None or found.epoch != unsure[0].epoch:
            return None
        taken_in = set(map(id, unsure[0].observations))
        self._pending = {place: seen for place, seen in self._pending.items() if id(seen) not in taken_in}
        self._pending_at = min((seen.received_at for seen in self._pending.values()), default=None)
        return unsure

    def _committed(self, record: StepRecord, result: StepResult, now: float) -> Ran:
        self._unsure = None
        self.state, self._wake_at, self._number = result.state, result.wake_at, record.number
        self._last_run_at = now
        held = self._reconciler.carry_out(self.state, tuple(self._pending.values()), record.effects)
        return Ran(result.plan, record.registry, _touched(result.changes), tuple(held), record, result.faults)

    async def _checkpoint_if_due(self, now: float) -> None:
        if now < self._checkpoint_at:
            return
        if self._number:
            await self._log.checkpoint(Checkpoint(self._number, self.state.control.last_now, self.state))
        self._checkpoint_at = now + self._checkpoint_every_s


def _says(observation: Observation) -> tuple[str, ...] | None:
    """What a later observation may say anew, so that only the later one counts. None for what must not be lost:
    receipts, listings with news, and an operator's word."""
    match observation:
        case ModelSnapshot(model_id=model_id):
            return "snapshot", model_id
        case Probe(replica_id=replica_id, verdict=verdict):
            return "probe", replica_id, verdict
        case GatewayReport(gateway_id=gateway_id, boot_id=boot_id):
            return "gateway", gateway_id, boot_id
        case PoolSnapshot(known=False, pool_id=pool_id):
            return "unknown", pool_id
        case PoolSnapshot(replicas=(), missing=(), pool_id=pool_id):
            return "alive", pool_id
        case _:
            return None


def _is_routine(state: BrokerState, observation: Observation) -> bool:
    """Whether nothing is decided by it: it says of somebody known that they are still there."""
    match observation:
        case GatewayReport(closed=False):
            session = GatewaySessionKey(observation.gateway_id, observation.boot_id)
            known = gateway_entity_key(session) in state.gateways
            return known and True not in [model.draining for model in state.models.values()]
        case PoolSnapshot(known=True, replicas=(), missing=(), pool_id=pool_id, gpus_total=gpus_total):
            pool, site = state.pools.get(pool_id), state.control.site
            if site is None or pool is None or pool.known_at is None or pool.unknown_since is not None:
                return False
            in_time = observation.received_at < pool.known_at + site.limits.pool_patience_s
            return in_time and pool.gpus_total == gpus_total
        case _:
            return False


def _in_order(pending: dict[tuple[str, ...], Observation]) -> tuple[Observation, ...]:
    """Snapshots last: a model is declared before it is measured."""
    snapshots = [seen for seen in pending.values() if isinstance(seen, ModelSnapshot)]
    return (*(seen for seen in pending.values() if not isinstance(seen, ModelSnapshot)), *snapshots)


def _record(number: int, epoch: Epoch, observations: tuple[Observation, ...], result: StepResult) -> StepRecord:
    plan = result.plan
    return StepRecord(
        number=number,
        epoch=epoch.number,
        now=plan.now,
        observations=observations,
        changes=result.changes,
        decisions=plan.decisions,
        effects=plan.effects,
        registry=plan.registry,
    )


def _touched(changes: Changes) -> frozenset[str]:
    models = {key for kind, key in changes if kind == "model"}
    return frozenset(models | {entity.model_id for entity in changes.values() if isinstance(entity, Replica)})
