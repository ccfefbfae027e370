"""Steps over the large site of ``control_world``, timed one by one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import control_world as world
from broker.app.steadiness import steady_steps
from broker.control.decide import Policies
from broker.control.step import step
from broker.model.observation import Observation
from broker.model.replica import ReplicaPhase
from broker.model.spec import ModelSpec
from broker.model.state import BrokerState
from policies.registry import cached

HOT_SHARE = 0.05
"""The models in which a rule fires: their decisions differ from the last ones and are told."""


@dataclass(frozen=True, slots=True)
class Site:
    """A site at rest: everything ready, every model decided once."""

    models: tuple[ModelSpec, ...]
    policies: Policies
    state: BrokerState
    at: float

    def snapshots(self, changed: Sequence[ModelSpec], sequence: int, at: float) -> list[Observation]:
        chance = random.Random(sequence)
        needs = world.needs_of(changed[0])
        return [
            world.snapshot(model.model_id, sequence, at, needs, chance, hot=chance.random() < HOT_SHARE)
            for model in changed
        ]


def site(*, shadows: bool = False, phase: ReplicaPhase = ReplicaPhase.READY) -> Site:
    models = world.model_specs(world.shipped_model(shadows=shadows))
    policies = cached()
    state = step(BrokerState(), [world.spec_changed(models)], policies, world.START_AT).state
    state = world.with_replicas(state, models, phase)
    made = Site(models, policies, state, world.START_AT)
    shown = ReplicaPhase.PENDING if phase is ReplicaPhase.PENDING else ReplicaPhase.STARTING
    listed = world.listing(models, world.START_AT, shown)
    first = [*made.snapshots(models, 1, world.START_AT), listed]
    return Site(models, policies, step(state, first, policies, world.START_AT).state, world.START_AT)


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall and processor milliseconds of each step; the second does not see the machine's other users."""

    wall_ms: list[float]
    cpu_ms: list[float]
    decisions: int
    changes: int

    def details(self) -> dict[str, object]:
        return {
            "steps": len(self.wall_ms),
            "p50_ms": round(world.quantile(self.wall_ms, 0.5), 2),
            "max_ms": round(max(self.wall_ms), 2),
            "cpu_p50_ms": round(world.quantile(self.cpu_ms, 0.5), 2),
            "cpu_p99_ms": round(world.quantile(self.cpu_ms, 0.99), 2),
            "decisions_told": self.decisions,
            "entities_changed": self.changes,
        }

    @property
    def p99_ms(self) -> float:
        return round(world.quantile(self.wall_ms, 0.99), 2)


def timed(
    site: Site, repetitions: int, observe: Callable[[int, float], Sequence[Observation]], *, interval_s: float,
    again: bool = False, warm_up: int = 3,
) -> Timings:  # fmt: skip
    """Each step goes on from the last one's state, or, ``again``, from the same. Making observations is not timed."""
    with steady_steps():  # as in the broker's process
        return _timed(site, repetitions, observe, interval_s, again=again, warm_up=warm_up)


def _timed(
    site: Site, repetitions: int, observe: Callable[[int, float], Sequence[Observation]], interval_s: float, *,
    again: bool, warm_up: int,
) -> Timings:  # fmt: skip
    wall_ms: list[float] = []
    cpu_ms: list[float] = []
    decisions = changes = 0
    state = site.state
    for number in range(repetitions + warm_up):
        now = site.at + (number + 1) * interval_s
        observations = observe(number + 2, now)
        cpu, wall = time.process_time(), time.perf_counter()
        result = step(state, observations, site.policies, now)
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        if not again:
            state = result.state
        if number >= warm_up:
            wall_ms.append(1e3 * wall_s)
            cpu_ms.append(1e3 * cpu_s)
            decisions += len(result.plan.decisions)
            changes += len(result.changes)
    return Timings(wall_ms, cpu_ms, decisions // repetitions, changes // repetitions)
