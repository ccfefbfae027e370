"""The one loop that production and the simulator share: collect observations, step, commit, carry out.

It knows no clock and no event loop: whoever drives it asks ``due_at`` and calls ``run`` then. Its coroutines suspend
only inside the log, so that with the in-memory log a simulator can run them without an event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.control.decide import Policies
from broker.control.reconcile import Dispatch, Reconciler
from broker.control.step import StepResult, step
from broker.model.observation import LeadershipTaken, Observation
from broker.model.plan import Effect, Plan
from broker.model.ports import Checkpoint, Epoch, Log, StepRecord
from broker.model.replica import EndpointRecord, Replica
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, Changes

COALESCE_S = 0.02
"""Changes that come within this time of a step are decided together. On a busy site a step always has just been, so
that all of it is waited for: it leaves room for the rest of the 50 ms from a sample to its action."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run did: the committed plan, the registry's changes, the models whose records changed, the effects
    that were held back."""

    plan: Plan
    registry: tuple[EndpointRecord, ...]
    touched: frozenset[str]
    held: tuple[tuple[Effect, str], ...]


class ControlLoop:
    """The single writer of the broker's state."""

    def __init__(
        self, log: Log, policies: Policies, dispatch: Dispatch, *, coalesce_s: float = COALESCE_S,
        checkpoint_every_s: float = 600.0,
    ) -> None:  # fmt: skip
        self._log = log
        self._policies = policies
        self._reconciler = Reconciler(dispatch)
        self._coalesce_s = coalesce_s
        self._checkpoint_every_s = checkpoint_every_s
        self._pending: list[Observation] = []
        self._snapshots: dict[str, ModelSnapshot] = {}
        self._pending_since: float | None = None
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

        Of a model's snapshots only the newest waits: while the log refuses to write they must not pile up.
        """
        if isinstance(observation, ModelSnapshot):
            self._snapshots[observation.model_id] = observation
        else:
            self._pending.append(observation)
        if self._pending_since is not None:
            return False
        self._pending_since = observation.received_at
        return True

    def due_at(self) -> float | None:
        """When ``run`` should be called next, None while there is nothing to wait for."""
        times = [at for at in (self._wake_at, self._pending_since) if at is not None]
        if not times:
            return None
        due = max(min(times), self._last_run_at + self._coalesce_s)
        return due if self._pending_since is None else min(due, self.coalesced(self._pending_since))

    def coalesced(self, at: float) -> float:
        """When something of ``at`` should be run, together with what comes meanwhile. It waits no longer than it takes
        to coalesce, even if the clock was set back since the last run."""
        return min(max(at, self._last_run_at + self._coalesce_s), at + self._coalesce_s)

    async def run(self, now: float) -> Ran:
        """One step on all that is pending. If the log refuses it (``LogError``), nothing happened: the observations
        stay pending, the state is as before, and no effect was carried out."""
        if self.epoch is None:
            raise RuntimeError("the loop was not opened")
        # Before the step, not after it: a checkpoint that fails must not keep a committed plan from being carried out.
        await self._checkpoint_if_due(now)
        pending, snapshots, since = self._pending, self._snapshots, self._pending_since
        self._pending, self._snapshots, self._pending_since = [], {}, None
        try:
            observations = (*pending, *snapshots.values())
            result = step(self.state, observations, self._policies, now)
            record = _record(self._number + 1, self.epoch, observations, result)
            await self._log.commit(record)
        except BaseException:
            self._pending, self._snapshots = pending + self._pending, snapshots | self._snapshots
            self._pending_since = self._pending_since if since is None else since
            raise
        self.state, self._wake_at, self._number = result.state, result.wake_at, record.number
        self._last_run_at = now
        held = self._reconciler.carry_out(self.state, self._pending, result.plan.effects)
        return Ran(result.plan, record.registry, _touched(result.changes), tuple(held))

    async def _checkpoint_if_due(self, now: float) -> None:
        if now < self._checkpoint_at:
            return
        if self._number:
            await self._log.checkpoint(Checkpoint(self._number, self.state.control.last_now, self.state))
        self._checkpoint_at = now + self._checkpoint_every_s


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
