"""The one loop that production and the simulator share: collect observations, step, commit, carry out.

It knows no clock and no event loop: whoever drives it asks ``due_at`` and calls ``run`` then. Its coroutines suspend
only inside the log, so that with the in-memory log a simulator can run them without an event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.control.decide import Policies
from broker.control.reconcile import Dispatch, Reconciler
from broker.control.step import step
from broker.model.observation import LeadershipTaken, Observation
from broker.model.plan import Effect, Plan, Publish, Withdraw
from broker.model.ports import Checkpoint, Epoch, Log, StepRecord
from broker.model.replica import EndpointRecord, Replica
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

    def offer(self, observation: Observation) -> None:
        """Something was learned; it is decided on by the next run."""
        self._pending.append(observation)

    def due_at(self) -> float | None:
        """When ``run`` should be called next, None while there is nothing to wait for."""
        times = [] if self._wake_at is None else [self._wake_at]
        if self._pending:
            times.append(self._pending[0].received_at)
        return max(min(times), self.rested_at) if times else None

    @property
    def rested_at(self) -> float:
        """Before this ``run`` should not be called again: what comes meanwhile is decided together."""
        return self._last_run_at + self._coalesce_s

    async def run(self, now: float) -> Ran:
        """One step on all that is pending. If the log refuses it (``LogError``), nothing happened: the observations
        stay pending, the state is as before, and no effect was carried out."""
        if self.epoch is None:
            raise RuntimeError("the loop was not opened")
        observations = tuple(self._pending)
        result = step(self.state, observations, self._policies, now)
        registry = tuple(a.record for a in result.plan.actions if isinstance(a, Publish | Withdraw))
        record = StepRecord(
            number=self._number + 1, epoch=self.epoch.number, now=result.plan.now, observations=observations,
            changes=result.changes, decisions=result.plan.decisions, effects=result.plan.effects, registry=registry,
        )  # fmt: skip
        await self._log.commit(record)
        del self._pending[: len(observations)]
        self.state, self._wake_at, self._number = result.state, result.wake_at, record.number
        self._last_run_at = now
        if now >= self._checkpoint_at:
            await self._log.checkpoint(Checkpoint(self._number, result.plan.now, self.state))
            self._checkpoint_at = now + self._checkpoint_every_s
        held = self._reconciler.carry_out(self.state, self._pending, result.plan.effects)
        return Ran(result.plan, registry, _touched(result.changes), tuple(held))


def _touched(changes: Changes) -> frozenset[str]:
    models = {key for kind, key in changes if kind == "model"}
    return frozenset(models | {entity.model_id for entity in changes.values() if isinstance(entity, Replica)})
