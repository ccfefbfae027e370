"""Listens to a simulation and keeps what its report needs of the replicas: who was in which phase when, and how busy.

Requests are in the simulation's own table, and decisions in its summary. What is kept here grows with the number of
replicas that ever were, not with the length of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from broker.control.loop import Ran
from broker.model.replica import ENDED, Replica, ReplicaPhase, Tier
from broker.model.spec import ModelSpec, SiteSpec
from simulator.engine.profile import EngineProfile
from simulator.fleet import SimulatedReplica
from simulator.report.gpu_hours import PhaseInterval, weight_of
from simulator.report.summary import Floats
from simulator.simulation import Simulation, SimulationSettings

DAY_S = 86_400.0
_SERVING = frozenset({ReplicaPhase.READY, ReplicaPhase.UNKNOWN})
_QUEUED = frozenset({ReplicaPhase.REQUESTED, ReplicaPhase.PENDING})
_BEFORE = frozenset({*_QUEUED, ReplicaPhase.STARTING, ReplicaPhase.LOADING})
_SAMPLES = 4096
_FIRST_SAMPLE_S = 2.0


@dataclass(frozen=True, slots=True)
class ReplicaInterval:
    """One replica in one phase. ``interval.pool_id`` is where; times are seconds from the run's second 0."""

    replica_id: str
    model_id: str
    tier: Tier
    interval: PhaseInterval


@dataclass(frozen=True, slots=True, eq=False)
class BusyTime:
    """How long serving replicas had computed, all in all, at ``t_s`` (seconds from the run's second 0, rising);
    ``seconds`` by (model, pool)."""

    t_s: Floats
    seconds: Mapping[tuple[str, str], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """What a run's replicas did from ``begin_s`` (its warm-up) to ``end_s``. ``profiles``: the engine of each model
    that had a replica. ``settings``: what it ran under, None where nobody told."""

    site: SiteSpec
    models: tuple[ModelSpec, ...]
    begin_s: float
    end_s: float
    replicas: tuple[ReplicaInterval, ...]
    busy: BusyTime
    profiles: Mapping[str, EngineProfile]
    settings: SimulationSettings | None = None


@dataclass(slots=True)
class _Life:
    """A replica from the broker's record of it, and the process or job behind it, if its pool took it.

    ``changes``: (time, phase, seconds it had computed by then).
    """

    record: Replica
    process: SimulatedReplica | None
    changes: list[tuple[float, ReplicaPhase, float]] = field(default_factory=list)

    @property
    def phase(self) -> ReplicaPhase:
        return self.changes[-1][1]

    @property
    def over(self) -> bool:
        """Nothing is allocated to it any more, or ever will be."""
        if self.phase not in ENDED:
            return False
        return self.process is None or self.process.phase in ENDED or self.process.started_at is None


class Recorder:
    """Attach it before the run, and ask ``recorded`` when it has ended, however it did."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._start_at = simulation.settings.start_at
        self._known: dict[str, Mapping[str, Replica]] = {}
        self._lives: dict[str, _Life] = {}
        self._ended: list[ReplicaInterval] = []
        self._busy_ended: dict[tuple[str, str], float] = {}
        self._profiles: dict[str, EngineProfile] = {}
        self._samples: list[tuple[float, dict[tuple[str, str], float]]] = []
        self._sample_every_s = _FIRST_SAMPLE_S
        self._sample_at = simulation.now
        self._day = self._day_of(simulation.now)
        simulation.listen(self._on_step)

    def recorded(self) -> Recorded:
        """All until now; what goes on counts as if it ended here."""
        simulation = self._simulation
        self._take_sample(simulation.now)
        going_on = [one for life in self._lives.values() for one in self._intervals(life)]
        keys = sorted({key for _, seconds in self._samples for key in seconds})
        state, warm_up_s = simulation.state, simulation.settings.warm_up_s
        assert state.control.site is not None
        return Recorded(
            site=state.control.site,
            models=tuple(model.spec for model in state.models.values()),
            begin_s=-warm_up_s,
            end_s=simulation.now - self._start_at,
            replicas=(*self._ended, *going_on),
            busy=BusyTime(
                np.array([at - self._start_at for at, _ in self._samples]),
                {key: np.array([seconds.get(key, 0.0) for _, seconds in self._samples]) for key in keys},
            ),
            profiles=dict(self._profiles),
            settings=simulation.settings,
        )

    # -- what happens

    def _on_step(self, ran: Ran) -> None:
        state = self._simulation.state
        for model_id in ran.touched:
            replicas = state.replicas_of(model_id)
            known = self._known.get(model_id)
            if replicas is not known:  # the state shares what did not change
                self._known[model_id] = replicas
                self._compare(known or {}, replicas)
        if self._simulation.now >= self._sample_at:
            self._take_sample(self._simulation.now)

    def _compare(self, before: Mapping[str, Replica], after: Mapping[str, Replica]) -> None:
        for replica_id, record in after.items():
            if record is not before.get(replica_id):
                self._note(replica_id, record)

    def _note(self, replica_id: str, record: Replica) -> None:
        life = self._lives.get(replica_id)
        if life is None:
            if record.phase in ENDED:  # its end was noted when it came
                return
            life = self._lives[replica_id] = _Life(record, self._process_of(record))
        if life.process is None:
            life.process = self._process_of(record)
        if not life.changes or life.phase is not record.phase:
            life.changes.append((self._simulation.now, record.phase, self._busy_s(life)))
        if life.over:
            self._bury(replica_id)

    def _bury(self, replica_id: str) -> None:
        life = self._lives.pop(replica_id)
        key = (life.record.model_id, life.record.pool_id)
        self._busy_ended[key] = self._busy_ended.get(key, 0.0) + self._served_busy_s(life)
        self._ended.extend(self._intervals(life))

    def _process_of(self, record: Replica) -> SimulatedReplica | None:
        pool = self._simulation.pools.get(record.pool_id)
        found = pool.replicas.get(record.replica_id) if pool is not None else None
        if found is not None:
            self._profiles.setdefault(record.model_id, found.profile)
        return found

    def _busy_s(self, life: _Life) -> float:
        if life.process is None:
            return 0.0
        return life.process.busy_s if life.process.phase in ENDED else self._simulation.busy_s(life.record.replica_id)

    def _served_busy_s(self, life: _Life) -> float:
        """What it computed while it served: draining GPUs are counted as such, whatever they do."""
        leaving = next((busy_s for _, phase, busy_s in life.changes if phase not in _SERVING | _BEFORE), None)
        return self._busy_s(life) if leaving is None else leaving

    # -- samples

    def _take_sample(self, now: float) -> None:
        """Rarer and rarer, so that a run of weeks has no more of them than one of hours."""
        for replica_id in [name for name, life in self._lives.items() if life.over]:
            self._bury(replica_id)
        self._close_day(now)
        busy = dict(self._busy_ended)
        for life in self._lives.values():
            key = (life.record.model_id, life.record.pool_id)
            busy[key] = busy.get(key, 0.0) + self._served_busy_s(life)
        self._samples.append((now, busy))
        if len(self._samples) > _SAMPLES:
            self._samples = self._samples[::2]
            self._sample_every_s *= 2
        self._sample_at = now + self._sample_every_s

    def _close_day(self, now: float) -> None:
        """Intervals end with the day, so that each day's busy time is its own, and with the warm-up."""
        day = self._day_of(now)
        if day > self._day:
            self._day = day
            for life in self._lives.values():
                if life.phase in _SERVING:
                    life.changes.append((now, life.phase, self._busy_s(life)))

    def _day_of(self, now: float) -> int:
        """Negative in the warm-up."""
        return int((now - self._start_at) // DAY_S)

    # -- what is told

    def _weight_of(self, pool_id: str) -> float:
        site = self._simulation.state.control.site
        assert site is not None
        return next((weight_of(pool) for pool in site.pools if pool.pool_id == pool_id), 1.0)

    def _intervals(self, life: _Life) -> list[ReplicaInterval]:
        """Its phases as the broker saw them, its GPUs from when they were really given to when they were taken back."""
        process = life.process
        now = self._simulation.now
        started_at = process.started_at if process is not None else None
        ended_at = process.ended_at if process is not None and process.ended_at is not None else now
        told = []
        changes = [*life.changes, (ended_at if life.over else now, ReplicaPhase.GONE, self._busy_s(life))]
        for (begin, phase, busy_before), (end, _, busy_after) in pairwise(changes):
            for part, part_begin, part_end in _allocated(phase, begin, end, started_at, ended_at):
                busy_s = min(busy_after - busy_before, part_end - part_begin) if part in _SERVING else 0.0
                told.append(self._interval(life, part, part_begin, part_end, max(0.0, busy_s)))
        return told

    def _interval(self, life: _Life, phase: ReplicaPhase, begin: float, end: float, busy_s: float) -> ReplicaInterval:
        record, process = life.record, life.process
        allocated = process.allocated_gpus if process is not None else record.gpus
        interval = PhaseInterval(
            record.pool_id, phase, begin - self._start_at, end - self._start_at, record.gpus, busy_s,
            unused_gpus=max(0, allocated - record.gpus), gpu_weight=self._weight_of(record.pool_id),
        )  # fmt: skip
        return ReplicaInterval(record.replica_id, record.model_id, record.tier, interval)


def _allocated(
    phase: ReplicaPhase, begin: float, end: float, started_at: float | None, ended_at: float
) -> list[tuple[ReplicaPhase, float, float]]:
    """A phase's parts before and after its GPUs were given. The broker learns of both a listing later: what runs
    already is starting, and what it has given up and still runs is stopping."""
    if started_at is None:
        parts = [(phase, begin, end)] if phase in _QUEUED else []
    else:
        running = {ReplicaPhase.GONE: ReplicaPhase.STOPPING, ReplicaPhase.FAILED: ReplicaPhase.STOPPING}
        running |= dict.fromkeys(_QUEUED, ReplicaPhase.STARTING)
        parts = [
            (phase, begin, min(end, started_at)) if phase in _QUEUED else (phase, end, end),
            (running.get(phase, phase), max(begin, started_at), min(end, ended_at)),
        ]
    return [(part, since, until) for part, since, until in parts if until > since]
