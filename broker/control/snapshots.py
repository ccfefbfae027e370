"""The snapshots of all models on record: from whose windows, and when each is due.

Whoever owns windows uses it: the core of an embedded broker for all models, a worker on Kafka for those whose
partitions it owns. Pure; a driver feeds it with samples and asks it when it is due.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from broker.control.decide import Policies
from broker.control.windows import TellFault, Windows
from broker.model.replica import Replica, ReplicaPhase
from broker.model.signals import MetricSample, RequestSummary
from broker.model.snapshot import ModelSnapshot, WindowNeed
from broker.model.spec import Limits, ModelSpec
from broker.model.state import BrokerState
from broker.model.window_state import WindowState

SNAPSHOT_SLOTS = 32
"""Each model has its own moment of the interval, so that 500 models make 32 small steps a second: one large one kept
whoever came during it waiting for seconds. A power of two, so that the moments are exact as floats."""
SNAPSHOTS_AT_ONCE = 32
"""In one step, of what is pressing: what matters much, and what is late by more than an interval. A broker that falls
behind looks at each model less often, but still acts at once."""
ROUTINE_AT_ONCE = 8
"""In one step while nothing is pressing, and of the late ones beside what matters much, which would wait for all of
their step: that of 8 takes some milliseconds."""


class SnapshotMaker:
    """Keeps a window for each model it follows, and makes the models' snapshots, urgent ones first.

    ``coalesced`` says when something routine of a time should be made, together with what comes meanwhile.
    """

    def __init__(
        self, policies: Policies, tell_fault: TellFault, coalesced: Callable[[float], float] = lambda at: at
    ) -> None:
        self._policies = policies
        self._tell_fault = tell_fault
        self._coalesced = coalesced
        self._windows = Windows(tell_fault)
        self._specs: dict[str, tuple[ModelSpec, Limits]] = {}
        self._followed: dict[str, Mapping[str, Replica]] = {}
        self._interval_s = Limits().snapshot_interval_s
        self._slots: dict[str, int] = {}
        self._snapshot_at: dict[str, float] = {}
        self._next_snapshot_at = math.inf
        self._urgent: set[str] = set()

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
        """When ``make`` should be called next, None while there is no model. Urgent snapshots wait for nothing but the
        step that runs: what comes meanwhile is coalesced all the same."""
        if not self._snapshot_at:
            return None
        return self._next_snapshot_at if self._urgent else self._coalesced(self._next_snapshot_at)

    def make(self, now: float) -> list[ModelSnapshot]:
        """The snapshots that are due, not too many at once, by model."""
        due_at = self.due_at()
        horizon = now + self._interval_s  # what is further ahead was set before the clock went back
        if due_at is None or (due_at > now and self._next_snapshot_at <= horizon):
            return []
        due = [
            (model_id not in self._urgent, at, model_id)
            for model_id, at in self._snapshot_at.items()
            if at <= now or at > horizon
        ]
        late = now - self._interval_s
        pressing = [entry for entry in due if not entry[0] or entry[1] <= late]
        most = min(len(self._urgent) + ROUTINE_AT_ONCE, SNAPSHOTS_AT_ONCE) if self._urgent else SNAPSHOTS_AT_ONCE
        chosen = sorted(pressing)[:most] or sorted(due)[:ROUTINE_AT_ONCE]
        snapshots = []
        for model_id in sorted(model_id for _, _, model_id in chosen):
            moment = self._moment_after(model_id, now)
            # What is merely due is told as of its moment, where the window has looked already: a second look a few
            # milliseconds later would cost as much again.
            at = now if model_id in self._urgent else moment - self._interval_s
            snapshots.append(self._windows.snapshot(model_id, at, now))
            self._snapshot_at[model_id] = moment
            self._urgent.discard(model_id)
        self._find_next_snapshot()
        return snapshots

    def follow(self, state: BrokerState, model_ids: Iterable[str], now: float) -> None:
        """Give each of these models that is on record a window with its policies' needs and the replicas that should
        report; forget the others."""
        limits = state.control.site.limits if state.control.site else Limits()
        self._interval_s = limits.snapshot_interval_s
        for model_id in model_ids:
            model = state.models.get(model_id)
            if model is None:
                self.forget(model_id)
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

    def forget(self, model_id: str) -> None:
        """The model is gone, or somebody else's."""
        self._windows.drop(model_id)
        self._specs.pop(model_id, None)
        self._followed.pop(model_id, None)
        self._slots.pop(model_id, None)
        self._snapshot_at.pop(model_id, None)
        self._urgent.discard(model_id)
        self._find_next_snapshot()

    def states(self) -> Iterator[WindowState]:
        """What is settled of each model's window, for whoever owns it next."""
        return self._windows.states()

    def resume(self, state: WindowState) -> None:
        """Go on from where the last owner of a model's window was, see ``SignalWindow.resume``."""
        self._windows.resume(state)

    def _find_next_snapshot(self) -> None:
        self._next_snapshot_at = min(self._snapshot_at.values(), default=math.inf)

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
