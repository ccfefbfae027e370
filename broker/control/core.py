"""Windows and control together: what a driver feeds with samples and observations, and runs when it is due.

Production feeds it from sockets and sleeps until ``due_at``; the simulator feeds it from its event heap and jumps
there. Neither can make it decide differently.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.control.decide import Policies
from broker.control.loop import ControlLoop, Ran
from broker.control.reconcile import Dispatch
from broker.control.snapshots import SnapshotMaker
from broker.control.windows import TellFault, raise_fault
from broker.model.observation import Observation
from broker.model.ports import Epoch, Log
from broker.model.signals import MetricSample, RequestSummary


class BrokerCore:
    """One cluster's broker without clock, sockets or event loop.

    With ``owns_windows`` False somebody else keeps the windows (workers, on Kafka), and their snapshots are offered
    like any other observation.
    """

    def __init__(
        self,
        log: Log,
        policies: Policies,
        dispatch: Dispatch,
        tell_fault: TellFault = raise_fault,
        *,
        owns_windows: bool = True,
    ) -> None:
        self.loop = ControlLoop(log, policies, dispatch)
        self._snapshots = SnapshotMaker(policies, tell_fault, self.loop.coalesced)
        self._owns_windows = owns_windows

    async def open(self, holder: str, now: float) -> Epoch:
        """Take leadership and restore the state; windows start empty and say so by their readings' freshness."""
        epoch = await self.loop.open(holder, now)
        self._follow(self.loop.state.models, now)
        return epoch

    def offer(self, observation: Observation) -> bool:
        """Something was learned. True if the next run is due earlier than before."""
        return self.loop.offer(observation)

    def observe(self, sample: MetricSample | RequestSummary) -> bool:
        """A measurement of a model; unknown models are ignored. True if it matters so much that a snapshot is due at
        once, earlier than before."""
        return self._snapshots.observe(sample)

    def due_at(self) -> float | None:
        """When ``run`` should be called next, None while there is nothing to wait for."""
        due, snapshots_due = self.loop.due_at(), self._snapshots.due_at()
        if due is None or snapshots_due is None:
            return snapshots_due if due is None else due
        return min(due, snapshots_due)

    async def run(self, now: float) -> Ran | None:
        """Take the snapshots that are due, then step if something is pending. Raises ``LogError`` (nothing lost)."""
        snapshots = self._snapshots.make(now)
        for snapshot in snapshots:
            self.loop.offer(snapshot)
        if not snapshots:
            due = self.loop.due_at()
            if due is None or due > now:
                return None
        ran = await self.loop.run(now)
        if ran.touched:
            self._follow(ran.touched, now)
        return ran

    def _follow(self, model_ids: Iterable[str], now: float) -> None:
        if self._owns_windows:
            self._snapshots.follow(self.loop.state, model_ids, now)
