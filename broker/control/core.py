"""Windows and control together: what a driver feeds with samples and observations, and runs when it is due.

Production feeds it from sockets and sleeps until ``due_at``; the simulator feeds it from its event heap and jumps
there. Neither can make it decide differently.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping

from broker.control.decide import Policies
from broker.control.loop import ControlLoop, Ran
from broker.control.reconcile import Dispatch
from broker.control.windows import TellFault, Windows, raise_fault
from broker.model.observation import Observation
from broker.model.ports import Epoch, Log
from broker.model.replica import Replica, ReplicaPhase
from broker.model.signals import MetricSample, RequestSummary
from broker.model.snapshot import WindowNeed
from broker.model.spec import Limits, ModelSpec

SNAPSHOT_SLOTS = 32
"""Each model has its own moment of the interval, so that 500 models make 32 small steps a second: one large one kept
whoever came during it waiting for seconds. A power of two, so that the moments are exact as floats."""
SNAPSHOTS_AT_ONCE = 32
"""In one step, of what is pressing: what matters much, and what is late by more than an interval. A broker that falls
behind looks at each model less often, but still acts at once."""
ROUTINE_AT_ONCE = 8
"""In one step while nothing is pressing, and of the late ones beside what matters much, which would wait for all of
their step: that of 8 takes some milliseconds."""


class BrokerCore:
    """One cluster's broker without clock, sockets or event loop."""

    def __init__(self, log: Log, policies: Policies, dispatch: Dispatch, tell_fault: TellFault = raise_fault) -> None:
        self._policies = policies
        self._tell_fault = tell_fault
        self._windows = Windows(tell_fault)
        self._specs: dict[str, tuple[ModelSpec, Limits]] = {}
        self._followed: dict[str, Mapping[str, Replica]] = {}
        self._interval_s = Limits().snapshot_interval_s
        self._slots: dict[str, int] = {}
        self._snapshot_at: dict[str, float] = {}
        self._next_snapshot_at = math.inf
        self._urgent: set[str] = set()
        self.loop = ControlLoop(log, policies, dispatch)

    async def open(self, holder: str, now: float) -> Epoch:
        """Take leadership and restore the state; windows start empty and say so by their readings' freshness."""
        epoch = await self.loop.open(holder, now)
        self._follow_state(self.loop.state.models, now)
        return epoch

    def offer(self, observation: Observation) -> bool:
        """Something was learned. True if the next run is due earlier than before."""
        return self.loop.offer(observation)

    def observe(self, sample: MetricSample | RequestSummary) -> bool:
        """A measurement of a model; unknown models are ignored. True if it matters so much that a snapshot is due at
        once, earlier than before."""
        if not self._windows.observe(sample):
            return False
        model_id = sample.model_id
        if model_id in self._urgent:
            return False
        self._urgent.add(model_id)
        at = self._snapshot_at[model_id] = min(self._snapshot_at[model_id], sample.received_at)
        self._next_snapshot_at = min(self._next_snapshot_at, at)
        return True

    def due_at(self) -> float | None:
        """When ``run`` should be called next, None while there is nothing to wait for."""
        due = self.loop.due_at()
        if not self._snapshot_at:
            return due
        snapshots_due = self._snapshots_due_at()
        return snapshots_due if due is None else min(due, snapshots_due)

    def _snapshots_due_at(self) -> float:
        """Urgent ones wait for nothing but the step that runs: what comes meanwhile is coalesced all the same."""
        return self._next_snapshot_at if self._urgent else self.loop.coalesced(self._next_snapshot_at)

    async def run(self, now: float) -> Ran | None:
        """Emit the snapshots that are due, then step if something is pending. Raises ``LogError`` (nothing lost)."""
        if not self._emit_snapshots(now):
            due = self.loop.due_at()
            if due is None or due > now:
                return None
        ran = await self.loop.run(now)
        if ran.touched:
            self._follow_state(ran.touched, now)
        return ran

    def _emit_snapshots(self, now: float) -> bool:
        """Offer the snapshots that are due; True if there were any."""
        horizon = now + self._interval_s  # what is further ahead was set before the clock went back
        if self._snapshots_due_at() > now and self._next_snapshot_at <= horizon:
            return False
        due = [
            (model_id not in self._urgent, at, model_id)
            for model_id, at in self._snapshot_at.items()
            if at <= now or at > horizon
        ]
        late = now - self._interval_s
        pressing = [entry for entry in due if not entry[0] or entry[1] <= late]
        most = min(len(self._urgent) + ROUTINE_AT_ONCE, SNAPSHOTS_AT_ONCE) if self._urgent else SNAPSHOTS_AT_ONCE
        chosen = sorted(pressing)[:most] or sorted(due)[:ROUTINE_AT_ONCE]
        for model_id in sorted(model_id for _, _, model_id in chosen):
            moment = self._moment_after(model_id, now)
            # What is merely due is told as of its moment, where the window has looked already: a second look a few
            # milliseconds later would cost as much again.
            at = now if model_id in self._urgent else moment - self._interval_s
            self.loop.offer(self._windows.snapshot(model_id, at, now))
            self._snapshot_at[model_id] = moment
            self._urgent.discard(model_id)
        self._find_next_snapshot()
        return bool(chosen)

    def _find_next_snapshot(self) -> None:
        self._next_snapshot_at = min(self._snapshot_at.values(), default=math.inf)

    def _follow_state(self, model_ids: Iterable[str], now: float) -> None:
        """Give each model on record a window with its policies' needs and the replicas that should report."""
        state = self.loop.state
        limits = state.control.site.limits if state.control.site else Limits()
        self._interval_s = limits.snapshot_interval_s
        for model_id in model_ids:
            model = state.models.get(model_id)
            if model is None:
                self._windows.drop(model_id)
                self._specs.pop(model_id, None)
                self._followed.pop(model_id, None)
                self._slots.pop(model_id, None)
                self._snapshot_at.pop(model_id, None)
                self._urgent.discard(model_id)
                self._find_next_snapshot()
                continue
            known = self._specs.get(model_id)
            if known is None or known[0] is not model.spec or known[1] is not limits:
                self._specs[model_id] = (model.spec, limits)
                self._configure(model.spec, limits, now)
            replicas = state.replicas_of(model_id)
            if self._followed.get(model_id) is not replicas:  # the state shares what did not change
                self._followed[model_id] = replicas
                ready = [name for name, record in replicas.items() if record.phase is ReplicaPhase.READY]
                self._windows.expect(model_id, ready, now)

    def _configure(self, spec: ModelSpec, limits: Limits, now: float) -> None:
        model_id = spec.model_id
        slot = self._slots[model_id] = zlib.crc32(model_id.encode()) % SNAPSHOT_SLOTS
        self._windows.configure(model_id, self._needs(spec), limits.signal_patience_s, _phase(slot))
        self._snapshot_at.setdefault(model_id, self._moment_after(model_id, now))
        self._find_next_snapshot()

    def _moment_after(self, model_id: str, now: float) -> float:
        """The model's next moment: of a second at which its window looks, and of an own one where the interval is
        long."""
        slot, interval_s = self._slots[model_id], self._interval_s
        moment = _phase(slot) + slot % max(1, math.floor(interval_s))
        return moment + interval_s * (math.floor((now - moment) / interval_s) + 1)

    def _needs(self, spec: ModelSpec) -> tuple[WindowNeed, ...]:
        """Without those of a policy that raises: it sees its windows as absent, and no other model is kept from its
        own."""
        needs: dict[WindowNeed, None] = {}
        if spec.policy.kind != "none":
            for policy in (spec.policy, *spec.shadows.values()):
                try:
                    needs.update(dict.fromkeys(self._policies(policy).needs()))
                except Exception as error:
                    self._tell_fault(spec.model_id, error)
        return tuple(needs)


def _phase(slot: int) -> float:
    """The slot's own moment of each second. Half a slot off the whole second, where listings and timers fall."""
    return (slot + 0.5) / SNAPSHOT_SLOTS
