"""The broker as a running process: the core, fed by pools, probes, scrapes and gateways, in real or virtual time.

Everything that decides is in ``BrokerCore``; here are only the loops that look at the world, hand what they saw to
the core, and carry its effects out. Each loop survives whatever its world does: an error is an observation or a log
line, never an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from actuators.base import Actuator
from broker.control.core import BrokerCore
from broker.control.decide import Policies
from broker.control.listing import POOL_INTERVAL_S, POOL_PHASE_S, ListingFilter
from broker.control.loop import Ran
from broker.model.errors import ActuatorError, LogError
from broker.model.observation import Observation, PoolSnapshot
from broker.model.plan import Effect
from broker.model.ports import Clock, Log, Runner
from broker.model.replica import EndpointRecord
from broker.model.signals import MetricSample, RequestSummary

logger = structlog.get_logger("broker")

Listener = Callable[[tuple[EndpointRecord, ...]], None]
"""Told of every change of the registry, after it is durable."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """``pool_timeout_s``: how long a listing may take. ``retention_s``: how far back steps and decisions are kept."""

    pool_timeout_s: float = 10.0
    retention_s: float = 7 * 86400.0
    retry_s: float = 1.0


class Runtime:
    """Owns the tasks. ``offer`` and ``observe`` may be called from any of them."""

    def __init__(
        self, *, log: Log, policies: Policies, actuators: Mapping[str, Actuator], runner: Runner, clock: Clock,
        settings: RuntimeSettings | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.core = BrokerCore(log, policies, self._dispatch)
        self.log = log
        self.settings = settings or RuntimeSettings()
        self.log_problem: str | None = None
        self.last_run_at: float | None = None
        self._actuators = actuators
        self._runner = runner
        self._listeners: list[Listener] = []
        self._kick = asyncio.Event()
        self._effects: set[asyncio.Task[None]] = set()

    # -- feeding

    def offer(self, observation: Observation) -> None:
        self.core.offer(observation)
        self._kick.set()

    def observe(self, sample: MetricSample | RequestSummary) -> None:
        if self.core.observe(sample):
            self._kick.set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` on changes of the registry; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- running

    @asynccontextmanager
    async def running(self, holder: str, *first: Observation) -> AsyncIterator[Runtime]:
        """Lead, restore, take ``first`` into account, and run until the block ends. Raises ``LogError`` at the start.

        Effects under way are waited for at the end: a start that was sent must leave its receipt.
        """
        epoch = await self.core.open(holder, self.clock.now())
        logger.info("leadership_taken", epoch=epoch.number, holder=epoch.holder)
        for observation in first:
            self.offer(observation)
        loops = [self._control(), self._retention(), *(self._watch_pool(a) for a in self._actuators.values())]
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield self
        finally:
            await cancel(tasks)
            if self._effects:
                await asyncio.wait(self._effects, timeout=self.settings.pool_timeout_s)
            await cancel(self._effects)

    async def _control(self) -> None:
        while True:
            self._kick.clear()
            due = self.core.due_at()
            if due is None or due > self.clock.now():
                await self._wait_until(due)
                continue
            try:
                ran = await self.core.run(self.clock.now())
            except LogError as error:
                self._log_failed(error)
                await self.clock.sleep_until(self.clock.now() + self.settings.retry_s)
                continue
            self.log_problem = None
            self.last_run_at = self.clock.now()
            if ran is not None:
                self._tell(ran)

    async def _wait_until(self, due: float | None) -> None:
        """Until ``due`` or a kick, whichever is first."""
        if due is None:
            await self._kick.wait()
            return
        sleeping = asyncio.ensure_future(self.clock.sleep_until(due))
        kicked = asyncio.ensure_future(self._kick.wait())
        try:
            await asyncio.wait((sleeping, kicked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel((sleeping, kicked))

    def _log_failed(self, error: LogError) -> None:
        """Nothing is decided that cannot be written down; what serves keeps serving."""
        if self.log_problem != str(error):
            logger.error("log_failed", problem=str(error), action="nothing is started or stopped until it recovers")
        self.log_problem = str(error)

    def _tell(self, ran: Ran) -> None:
        for decision in ran.plan.decisions:
            logger.info(
                "decided", model_id=decision.model_id, before=decision.before, target=decision.target,
                code=decision.code, words=decision.words, actions=list(decision.actions),
            )  # fmt: skip
        for effect, problem in ran.held:
            logger.warning("effect_held_back", action_id=effect.action_id, problem=problem)
        if ran.registry:
            for listener in list(self._listeners):
                listener(ran.registry)

    def _dispatch(self, effect: Effect) -> None:
        task = asyncio.create_task(self._carry_out(effect))
        self._effects.add(task)
        task.add_done_callback(self._effects.discard)

    async def _carry_out(self, effect: Effect) -> None:
        receipt = await self._runner.execute(effect)
        logger.info(
            "effect_done", action_id=effect.action_id, replica_id=effect.replica_id, outcome=receipt.outcome.value,
            detail=receipt.detail,
        )  # fmt: skip
        self.offer(receipt)

    async def _watch_pool(self, actuator: Actuator) -> None:
        """List one pool for ever."""
        listings = ListingFilter()
        next_at = self.clock.now() + POOL_PHASE_S
        while True:
            await self.clock.sleep_until(next_at)
            listing = await self._list(actuator)
            if listings.worth_telling(listing):
                self.offer(listing)
            next_at = max(next_at + POOL_INTERVAL_S, self.clock.now())

    async def _list(self, actuator: Actuator) -> PoolSnapshot:
        try:
            async with asyncio.timeout(self.settings.pool_timeout_s):
                return await actuator.observe()
        except (ActuatorError, TimeoutError) as error:
            problem = str(error) or "the listing timed out"
        except Exception as error:
            logger.exception("listing_failed", pool_id=actuator.pool_id)
            problem = f"{type(error).__name__}: {error}"
        now = self.clock.now()
        return PoolSnapshot(actuator.pool_id, now, now, known=False, error=problem)

    async def _retention(self) -> None:
        while True:
            await self.clock.sleep_until(self.clock.now() + 3600.0)
            try:
                await self.log.trim(self.clock.now() - self.settings.retention_s)
            except LogError as error:
                logger.error("trim_failed", problem=str(error))


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """End tasks and wait until they have; what they raise after the cancellation is of no interest."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
