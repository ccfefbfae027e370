"""How long it takes from a sample that makes a rule fire to the actuator's start: what the benchmarks of it share.

The site's log says that all replicas are ready, a pool of pretended ones has them, and up to 200 models, one after the
other, get a queue for which one more is to be started.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace

from actuators.fake import FakeActuator
from benchmarks import control_world as world
from broker.control.step import step
from broker.model.identity import action_id
from broker.model.observation import Receipt
from broker.model.plan import Launch
from broker.model.ports import Clock, Log, StepRecord
from broker.model.replica import ReplicaPhase, Tier
from broker.model.spec import Limits, ModelSpec
from broker.model.state import BrokerState
from policies.registry import cached

ACTIONS = 200
BETWEEN_S = 0.087
"""No part of a second, so that the samples fall on all moments of the broker's own rhythm."""

LONGEST_S = 30.0

_LIMITS = Limits(starts_per_minute=10_000, starts_per_hour=10_000, concurrent_loads=10_000)


class TimedActuator(FakeActuator):
    """Notes when a start for a model of ``waited_for`` came."""

    def watch(self) -> None:
        self.waited_for: dict[str, float] = {}
        self.waits_s: list[float] = []
        self._all_came = asyncio.Event()

    async def start(self, launch: Launch) -> Receipt:
        fired_at = self.waited_for.pop(launch.model.model_id, None)
        if fired_at is not None:
            self.waits_s.append(time.perf_counter() - fired_at)
            if not self.waited_for:
                self._all_came.set()
        return await super().start(launch)

    async def timed(self, models: tuple[ModelSpec, ...], fire: Callable[[str], None]) -> list[float]:
        """Each start's wait in milliseconds. ``fire`` is called with a model, and brings the sample."""
        for model in random.Random(1).sample(models, min(ACTIONS, len(models))):
            self._all_came.clear()
            self.waited_for[model.model_id] = time.perf_counter()
            fire(model.model_id)
            await asyncio.sleep(BETWEEN_S)
        await asyncio.wait_for(self._all_came.wait(), LONGEST_S)
        return [1e3 * wait_s for wait_s in self.waits_s]


async def write_state(log: Log, models: tuple[ModelSpec, ...]) -> None:
    """A first step that leaves everything ready."""
    begun = step(BrokerState(), [world.spec_changed(models, _LIMITS)], cached(), world.START_AT).state
    state = world.with_replicas(begun, models, ReplicaPhase.READY)
    control = replace(state.control, last_now=0.0)
    changes = {**state.entities(), ("control", ""): control}
    epoch = await log.acquire_leadership("benchmark")
    await log.commit(StepRecord(1, epoch.number, 0.0, observations=(), changes=changes))


async def filled_pool(models: tuple[ModelSpec, ...], clock: Clock) -> TimedActuator:
    """A pool that has what the log says."""
    actuator = TimedActuator(world.POOL, gpus=2 * world.REPLICAS, now=clock.now)
    actuator.watch()
    for model in models:
        for ordinal, name in enumerate(world.names_of(model.model_id)):
            generation = ordinal + 1
            action = action_id("launch", "bench", model.model_id, ordinal, generation)
            await actuator.start(Launch(action, "bench", name, model, world.POOL, ordinal, generation, Tier.ELASTIC))
    return actuator
