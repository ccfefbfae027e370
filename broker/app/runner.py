"""Carries out effects through the pools' actuators: bounded in time and number, errors turned into receipts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from actuators.base import Actuator
from broker.control.answers import RETRY_AFTER_S, actuator_of, foreseen, refusal
from broker.model.errors import TransientError
from broker.model.observation import Receipt
from broker.model.plan import Effect, Launch
from broker.model.ports import Clock

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Call:
    task: asyncio.Task[Receipt]
    waiters: int = 0


class AsyncRunner:
    """``broker.model.ports.Runner`` for the event loop.

    At most ``concurrency`` effects run at once in each pool, so that a pool that hangs delays nobody else's; each
    has ``timeout_s`` from when it begins. An effect that is asked for again while it runs is not begun again: both
    callers get its one receipt. ``may_act`` is asked right before each effect begins: a broker whose lease is in
    doubt must not touch a pool. What is cut off by the time-out may have happened: the pool's next listing tells,
    and repeating it is harmless by its ``action_id``.
    """

    def __init__(
        self,
        actuators: Mapping[str, Actuator],
        clock: Clock,
        *,
        timeout_s: float,
        concurrency: int,
        may_act: Callable[[], bool],
    ) -> None:
        self._actuators = dict(actuators)
        self._slots = {pool_id: asyncio.Semaphore(concurrency) for pool_id in actuators}
        self._clock = clock
        self._timeout_s = timeout_s
        self._may_act = may_act
        self._calls: dict[str, _Call] = {}

    async def execute(self, effect: Effect) -> Receipt:
        """The pool's answer. Raises nothing but the caller's own cancellation, which ends the effect's call if
        nobody else waits for it."""
        action_id = effect.action_id
        while (call := self._calls.get(action_id)) is not None and call.waiters == 0:
            await asyncio.wait([call.task])  # its last caller is just cancelling it
        if call is None:
            call = _Call(asyncio.create_task(self._carry_out(effect), name=action_id))
            call.task.add_done_callback(lambda _: self._calls.pop(action_id))
            self._calls[action_id] = call
        call.waiters += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiters -= 1
            if call.waiters == 0 and not call.task.done():
                call.task.cancel()
                await asyncio.wait([call.task])

    async def _carry_out(self, effect: Effect) -> Receipt:
        try:
            actuator = actuator_of(self._actuators, effect)
            async with self._slots[effect.pool_id]:
                if not self._may_act():
                    raise TransientError("this broker does not hold the lease", retry_after_s=RETRY_AFTER_S)
                return await self._call(actuator, effect)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._refused(effect, error)  # something inside the actuator was cancelled, not we
        except Exception as error:
            return self._refused(effect, error)

    async def _call(self, actuator: Actuator, effect: Effect) -> Receipt:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                if isinstance(effect, Launch):
                    return await actuator.start(effect)
                return await actuator.stop(effect)
        except TimeoutError:
            if not limit.expired():
                raise
            problem = f"pool {effect.pool_id} did not answer within {self._timeout_s:g} s"
            raise TransientError(problem, retry_after_s=RETRY_AFTER_S) from None

    def _refused(self, effect: Effect, error: BaseException) -> Receipt:
        if not foreseen(error):
            _log.error(
                "effect_failed_unexpectedly",
                action_id=effect.action_id,
                replica_id=effect.replica_id,
                pool_id=effect.pool_id,
                exc_info=error,
            )
        return refusal(effect, error, self._clock.now())
