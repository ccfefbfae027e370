"""The broker as a running process: the core, fed by pools, probes, scrapes and gateways, in real or virtual time.

Everything that decides is in ``BrokerCore``; here are only the loops that look at the world, hand what they saw to
the core, and carry its effects out. Each loop survives whatever its world does: an error is an observation or a log
line, never an end.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from actuators.base import Actuator
from broker.control.answers import in_words, unknown_listing
from broker.control.core import BrokerCore
from broker.control.decide import Policies
from broker.control.draft import PolicyFault
from broker.control.listing import POOL_INTERVAL_S, ListingFilter, first_listing_at
from broker.control.loop import Ran
from broker.model.errors import ActuatorError, LeadershipRefused, LogError, TidegateError
from broker.model.observation import Observation, Outcome, PoolSnapshot
from broker.model.plan import Effect, Launch
from broker.model.ports import Clock, Log, Runner
from broker.model.replica import EndpointRecord, Replica, ReplicaPhase
from broker.model.signals import MetricSample, RequestSummary

logger = structlog.get_logger("broker")

STALLED_AFTER_S = 5.0
"""A step that is due for longer hangs: in a disk that does not answer, most likely."""

Listener = Callable[[tuple[EndpointRecord, ...]], None]
"""Told of every change of the registry, after it is durable."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """``pool_timeout_s``: how long a listing may take. ``retention_s``: how far back steps and decisions are kept."""

    pool_timeout_s: float = 10.0
    retention_s: float = 7 * 86400.0
    retry_s: float = 1.0


class Runtime:
    """Owns the tasks. ``offer`` and ``observe`` may be called from any of them.

    ``restored`` is told the time of the last step on record, before anything runs: a clock that went back while no
    broker ran must not make time stand still until it has caught up. ``rehearsed`` gives the text of what a launch
    would start, for the log of a broker that only observes. ``measured`` is told what is measured where others keep
    the windows, whose snapshots are offered then; None: this broker keeps them.
    """

    def __init__(
        self, *, log: Log, policies: Policies, actuators: Mapping[str, Actuator], runner: Runner, clock: Clock,
        settings: RuntimeSettings | None = None, restored: Callable[[float], None] = lambda last_now: None,
        rehearsed: Callable[[Launch], str] = lambda launch: " ".join(launch.model.engine.command),
        measured: Callable[[MetricSample | RequestSummary], None] | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.core = BrokerCore(log, policies, self._dispatch, window_failed, owns_windows=measured is None)
        self.log = log
        self.settings = settings or RuntimeSettings()
        self.log_problem: str | None = None
        self.last_run_at: float | None = None
        self._actuators = actuators
        self._runner = runner
        self._restored = restored
        self._rehearsed = rehearsed
        self._measured = measured
        self._listeners: list[Listener] = []
        self._kick = asyncio.Event()
        self._effects: set[asyncio.Task[None]] = set()
        self._unrecorded: list[asyncio.Future[None]] = []
        self._died = asyncio.Event()
        self._death: Exception | None = None
        self._refusals: dict[tuple[str, str], str] = {}

    @property
    def problem(self) -> str | None:
        """Why steps do not go on, None while they do."""
        if self.log_problem is not None:
            return self.log_problem
        if self._died.is_set():
            return "a part of the broker ended unexpectedly; its log says why"
        due = self.core.due_at()
        late_s = 0.0 if due is None else self.clock.now() - due
        return f"a step has been due for {late_s:.0f} s" if late_s > STALLED_AFTER_S else None

    async def died(self) -> Exception | None:
        """Returns, with its error, when one of the loops has ended: the broker must start anew, or another leads."""
        await self._died.wait()
        return self._death

    # -- feeding

    def offer(self, observation: Observation) -> None:
        if self.core.offer(observation):
            self._kick.set()

    def observe(self, sample: MetricSample | RequestSummary) -> None:
        if self._measured is not None:
            self._measured(sample)
        elif self.core.observe(sample):
            self._kick.set()

    async def record(self, observation: Observation, timeout_s: float = 5.0) -> None:
        """Offer ``observation`` and wait until a committed step contains it: it then survives a crash.

        Raises ``LogError``: at once, with nothing offered, while the log is known to fail; else if this step's
        commit fails or takes too long, and then the observation stays pending.
        """
        if self.problem is not None:
            raise LogError(f"nothing was changed, since it could not be written down: {self.problem}")
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unrecorded.append(recorded)
        self.offer(observation)
        try:
            async with asyncio.timeout(timeout_s):
                await recorded
        except TimeoutError:
            raise LogError(f"not written down within {timeout_s:g} s; {_PENDING}") from None
        finally:
            if recorded in self._unrecorded:
                self._unrecorded.remove(recorded)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` on changes of the registry; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- running

    @asynccontextmanager
    async def running(self, holder: str, *first: Observation) -> AsyncIterator[Runtime]:
        """Lead, restore, take ``first`` into account, and run until the block ends. Raises ``LogError`` at the start.

        Effects under way are let finish, so that no pool is left halfway. Their receipts come too late to be written:
        the next leader asks again, which is harmless by their ``action_id``.
        """
        epoch = await self.core.open(holder, self.clock.now())
        self._restored(self.core.loop.state.control.last_now)
        logger.info("leadership_taken", epoch=epoch.number, holder=epoch.holder)
        for observation in first:
            self.offer(observation)
        loops: list[Callable[[], Coroutine[Any, Any, None]]] = [self._control, self._retention]
        for index, actuator in enumerate(self._actuators.values()):
            first_at = first_listing_at(self.clock.now(), index)
            loops.append(functools.partial(self._watch_pool, actuator, first_at))
        tasks = [asyncio.create_task(self._watched(loop)) for loop in loops]
        try:
            yield self
        finally:
            for recorded in self._unrecorded:
                _settle(recorded, LogError("not written down: the broker is stopping"))
            await cancel(tasks)
            if self._effects:
                await asyncio.wait(self._effects, timeout=self.settings.pool_timeout_s)
            await cancel(self._effects)

    async def _watched(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A loop that ends by a mistake of ours must not leave a broker that seems to run."""
        try:
            await loop()
        except Exception as error:
            self._death = error
            self._died.set()  # before anything else: it may be the log line that fails
            if not isinstance(error, LeadershipRefused):
                logger.exception("loop_died", action="the broker ends; its successor goes on from the log")

    async def _control(self) -> None:
        while True:
            self._kick.clear()
            due = self.core.due_at()
            if due is None or due > self.clock.now():
                await self._wait_until(due)
                continue
            waiting, self._unrecorded = self._unrecorded, []  # what was offered so far is in the next step, or pending
            try:
                ran = await self.core.run(self.clock.now())
            except LeadershipRefused:
                raise
            except Exception as error:
                self._step_failed(error)
                for recorded in waiting:
                    _settle(recorded, LogError(f"not written down: {error}; {_PENDING}"))
                await self.clock.sleep_until(self.clock.now() + self.settings.retry_s)
                continue
            self.log_problem = None
            self.last_run_at = self.clock.now()
            if ran is None or ran.late:
                self._unrecorded = waiting + self._unrecorded
            else:
                for recorded in waiting:
                    _settle(recorded, None)
            if ran is None:
                continue
            self._tell(ran)
            if ran.plan.effects:
                await _let_effects_begin()

    async def _wait_until(self, due: float | None) -> None:
        """Until ``due`` or a kick, whichever is first."""
        alarm = None if due is None else asyncio.create_task(self._kick_at(due))
        try:
            await self._kick.wait()
        finally:
            if alarm is not None:
                await cancel([alarm])

    async def _kick_at(self, when: float) -> None:
        await self.clock.sleep_until(when)
        self._kick.set()

    def _step_failed(self, error: Exception) -> None:
        """Nothing is done that cannot be decided and written down; what serves keeps serving."""
        problem = str(error) if isinstance(error, LogError) else in_words(error)
        if self.log_problem != problem:
            trace = None if isinstance(error, LogError) else error
            action = "nothing is started or stopped until it recovers"
            logger.error("step_failed", problem=problem, action=action, exc_info=trace)
        self.log_problem = problem

    def _tell(self, ran: Ran) -> None:
        for decision in ran.plan.decisions:
            logger.info(
                "decided", model_id=decision.model_id, before=decision.before, target=decision.target,
                code=decision.code, words=decision.words, actions=list(decision.actions),
            )  # fmt: skip
            for fault in ran.faults:  # with a decision, which says it once, and not each time that it fails again
                if fault.model_id == decision.model_id:
                    _policy_failed(fault)
        for entity in ran.record.changes.values():
            if isinstance(entity, Replica):
                self._tell_failure(entity)
        for launch in ran.plan.rehearsals:
            self._tell_rehearsal(launch)
        for effect, problem in ran.held:
            logger.warning("effect_held_back", action_id=effect.action_id, problem=problem)
        if ran.registry:
            for listener in list(self._listeners):
                self._tell_registry(listener, ran.registry)

    def _tell_failure(self, record: Replica) -> None:
        """Once for what a pool refuses of a model, however often it is tried, until it has taken one."""
        start = record.model_id, record.pool_id
        if record.phase is ReplicaPhase.PENDING:
            self._refusals.pop(start, None)
        if record.phase is not ReplicaPhase.FAILED:
            return
        if record.failure == "rejected":
            if self._refusals.get(start) == record.detail:
                return
            self._refusals[start] = record.detail
        logger.warning(
            "replica_failed", replica_id=record.replica_id, pool_id=record.pool_id, failure=record.failure,
            problem=record.detail,
        )  # fmt: skip

    def _tell_rehearsal(self, launch: Launch) -> None:
        """The mode is observe: what would be started, as it would be."""
        told = {"replica_id": launch.replica_id, "pool_id": launch.pool_id}
        try:
            logger.info("would_start", **told, text=self._rehearsed(launch))
        except TidegateError as error:
            logger.warning("could_not_start", **told, problem=str(error))

    def _tell_registry(self, listener: Listener, records: tuple[EndpointRecord, ...]) -> None:
        try:
            listener(records)
        except Exception:
            logger.exception("listener_failed", revision=records[-1].revision)

    def _dispatch(self, effect: Effect) -> None:
        task = asyncio.create_task(self._carry_out(effect))
        self._effects.add(task)
        task.add_done_callback(self._effects.discard)

    async def _carry_out(self, effect: Effect) -> None:
        receipt = await self._runner.execute(effect)
        rejected = receipt.outcome is Outcome.REJECTED
        if not (rejected and isinstance(effect, Launch)):  # of which its record tells
            tell = logger.warning if rejected else logger.info
            tell(
                "effect_done", action_id=effect.action_id, replica_id=effect.replica_id, outcome=receipt.outcome.value,
                detail=receipt.detail,
            )  # fmt: skip
        self.offer(receipt)

    async def _watch_pool(self, actuator: Actuator, next_at: float) -> None:
        """List one pool for ever."""
        listings, outage = ListingFilter(), _Outage(actuator.pool_id)
        while True:
            await self.clock.sleep_until(next_at)
            listing = await self._list(actuator)
            outage.tell(listing)
            told = listings.worth_telling(listing, self.core.loop.state)
            if told is not None:
                self.offer(told)
            next_at = max(next_at + POOL_INTERVAL_S, self.clock.now())

    async def _list(self, actuator: Actuator) -> PoolSnapshot:
        try:
            async with asyncio.timeout(self.settings.pool_timeout_s):
                return await actuator.observe()
        except TimeoutError as error:
            problem = str(error) or "the listing timed out"
        except ActuatorError as error:
            problem = str(error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            problem = in_words(error)  # something inside the actuator was cancelled, not we
        except Exception as error:
            logger.exception("listing_failed", pool_id=actuator.pool_id)
            problem = in_words(error)
        return unknown_listing(actuator.pool_id, problem, self.clock.now())

    async def _retention(self) -> None:
        while True:
            await self.clock.sleep_until(self.clock.now() + 3600.0)
            try:
                await self.log.trim(self.clock.now() - self.settings.retention_s)
            except LogError as error:
                logger.error("trim_failed", problem=str(error))


class _Outage:
    """One line in the log when a pool becomes unknown, and one when it is known again."""

    def __init__(self, pool_id: str) -> None:
        self._pool_id = pool_id
        self._since: float | None = None

    def tell(self, listing: PoolSnapshot) -> None:
        if not listing.known and self._since is None:
            self._since = listing.received_at
            action = "nothing is started there until it can be listed again; what serves, serves on"
            logger.warning("pool_unknown", pool_id=self._pool_id, problem=listing.error, action=action)
        elif listing.known and self._since is not None:
            unknown_s = round(listing.received_at - self._since, 1)
            logger.info("pool_known_again", pool_id=self._pool_id, unknown_s=unknown_s)
            self._since = None


async def _let_effects_begin() -> None:
    """Two turns of the event loop: the effect's task, and the runner's for its call. On a busy site the next step is
    due already, and an effect that is written down would wait for all of it."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


_PENDING = "it takes effect once the log can be written again, unless the broker ends before"


def window_failed(model_id: str, error: Exception) -> None:
    action = "this model's signals are unknown until its window can tell them again; the other models go on"
    logger.error("window_failed", model_id=model_id, problem=in_words(error), action=action, exc_info=error)


def _policy_failed(fault: PolicyFault) -> None:
    action = "this model keeps its target, if it follows the policy; the other models go on"
    problem = in_words(fault.error)
    logger.error(
        "policy_failed", model_id=fault.model_id, policy=fault.policy, problem=problem, action=action,
        exc_info=fault.error,
    )  # fmt: skip


def _settle(recorded: asyncio.Future[None], error: LogError | None) -> None:
    """Tell who waits; nobody does after a time-out."""
    if recorded.done():
        return
    if error is None:
        recorded.set_result(None)
    else:
        recorded.set_exception(error)


async def cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """End tasks and wait until they have; what they raise after the cancellation is of no interest."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
