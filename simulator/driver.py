"""Drives the production core with an event heap and a simulated clock, without an event loop.

Events at one instant happen in the order of their priority, then of their scheduling; the core comes last, so that
it sees all of an instant at once. The same heap runs scripted observations (to prove that production decides the
same) and whole simulations.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeVar

from actuators.base import Actuator
from broker.control.answers import actuator_of, in_words, refusal, unknown_listing
from broker.control.core import BrokerCore
from broker.control.decide import Policies
from broker.control.listing import POOL_INTERVAL_S, ListingFilter, first_listing_at
from broker.control.loop import Ran
from broker.model.errors import ActuatorError, TidegateError
from broker.model.observation import Observation, Receipt
from broker.model.plan import Effect, Launch
from broker.model.ports import Log
from broker.model.signals import MetricSample, RequestSummary
from broker.model.units import format_duration

T = TypeVar("T")


class Priority(IntEnum):
    """The order of what happens at one instant."""

    ENGINE = 0
    TICK = 1


RETRY_S = 1.0
"""After this time a step that failed is tried again, as the production runtime does."""


class Suspended(RuntimeError):
    """A coroutine waited for something where nothing may wait."""


@dataclass(frozen=True, slots=True)
class FailedSteps:
    """Steps in which something could not be decided: how many, from when to when, and the first error.

    ``model_id``: whose policy raised in the first one, and kept its target for it. None for a step that failed as a
    whole: nothing was started or stopped by it, and what it had observed was kept for the next.
    """

    count: int
    first_at: float
    last_at: float
    first: Exception
    model_id: str | None

    def words(self, start_at: float) -> str:
        """For an operator; times are since ``start_at``."""
        first_s, last_s = (format_duration(max(0.0, at - start_at)) for at in (self.first_at, self.last_at))
        when = f"at {first_s}" if self.count == 1 else f"from {first_s} to {last_s}"
        times = "one step" if self.count == 1 else f"{self.count:,} steps"
        why = in_words(self.first)
        if self.model_id is None:
            return f"{times} could not be decided, {when}: {why}; nothing was started or stopped meanwhile"
        return f"the policy of {self.model_id} failed in {times}, {when}: {why}; the target was kept meanwhile"


FailureListener = Callable[[Exception, tuple[Observation, ...]], None]
"""Told of the error, and of what a step had observed that failed as a whole: it is pending."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends. One that does would make the result depend on an event loop: an error."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise Suspended("a coroutine suspended in the simulator; only implementations that never wait may run here")


class Driver:
    """One broker in simulated time. ``at`` and ``every`` schedule; ``run_until`` lets it happen.

    A step that fails is tried again ``RETRY_S`` later, again and again, as in production; ``failed`` says so, and of
    policies that raised.
    """

    def __init__(self, log: Log, policies: Policies, actuators: Mapping[str, Actuator], *, start_at: float) -> None:
        self.now = start_at
        self.core = BrokerCore(log, policies, self._dispatch)
        self._actuators = actuators
        self._heap: list[tuple[float, int, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._listeners: list[Callable[[Ran], None]] = []
        self._failure_listeners: list[FailureListener] = []
        self.failed: FailedSteps | None = None
        self.stopped = False
        self._not_before = -math.inf
        self._due_at = math.inf

    def open(self, holder: str, *first: Observation) -> None:
        """Take leadership and begin listing the pools. A broker that restarts is a new driver on the same store."""
        drive(self.core.open(holder, self.now))
        self._look_ahead()
        for observation in first:
            self.offer(observation)
        for index, actuator in enumerate(self._actuators.values()):
            look = functools.partial(self._list, actuator, ListingFilter())
            self.every(POOL_INTERVAL_S, look, first_at=first_listing_at(self.now, index))

    def listen(self, listener: Callable[[Ran], None]) -> None:
        """``listener`` is told of every step, at its instant."""
        self._listeners.append(listener)

    def listen_for_failure(self, listener: FailureListener) -> None:
        """``listener`` is told of the first step in which something could not be decided, at its instant."""
        self._failure_listeners.append(listener)

    def offer(self, observation: Observation) -> None:
        if self.core.offer(observation):
            self._look_ahead()

    def observe(self, sample: MetricSample | RequestSummary) -> None:
        if self.core.observe(sample):
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Find out when the core is due. Called when that may have changed, which most events do not do."""
        due = self.core.due_at()
        self._due_at = math.inf if due is None else max(due, self._not_before)

    def at(self, when: float, happen: Callable[[], None], priority: Priority = Priority.TICK) -> None:
        self._scheduled += 1
        heapq.heappush(self._heap, (max(when, self.now), priority, self._scheduled, happen))

    def every(self, interval_s: float, happen: Callable[[], None], *, first_at: float) -> None:
        """``happen`` at ``first_at`` and then each ``interval_s``, for as long as the driver runs."""

        def tick() -> None:
            happen()
            self.at(self.now + interval_s, tick)

        self.at(first_at, tick)

    def stop(self) -> None:
        """Let nothing more happen: ``run_until`` returns after the event in progress, and at once from then on."""
        self.stopped = True

    def run_until(self, end: float) -> None:
        """Let everything up to and including ``end`` happen."""
        heap = self._heap
        while not self.stopped:
            event_at = heap[0][0] if heap else math.inf
            if event_at <= self._due_at or event_at <= self.now:
                if event_at > end:
                    break
                self.now, _, _, happen = heapq.heappop(heap)
                happen()
            else:
                if self._due_at > end:
                    break
                self.now = max(self._due_at, self.now)
                self._run_core()
                self._look_ahead()
        else:
            return
        self.now = max(self.now, end)

    def _run_core(self) -> None:
        before = self.core.loop.state
        try:
            ran = drive(self.core.run(self.now))
        except (TidegateError, Suspended):
            raise
        except Exception as error:
            if self.core.loop.state is not before:
                raise  # it was decided: what failed is one of the simulated pools
            self._not_before = self.now + RETRY_S
            self._failed(error, None, self.core.loop.pending)
            return
        if ran is None:
            return
        for listener in self._listeners:
            listener(ran)
        if ran.faults:
            self._failed(ran.faults[0].error, ran.faults[0].model_id, ())

    def _failed(self, error: Exception, model_id: str | None, pending: tuple[Observation, ...]) -> None:
        failed = self.failed
        if failed is not None:
            self.failed = replace(failed, count=failed.count + 1, last_at=self.now)
            return
        self.failed = FailedSteps(1, self.now, self.now, error, model_id)
        for listener in self._failure_listeners:
            listener(error, pending)

    def _list(self, actuator: Actuator, listings: ListingFilter) -> None:
        try:
            listing = drive(actuator.observe())
        except ActuatorError as error:
            listing = unknown_listing(actuator.pool_id, str(error), self.now)
        told = listings.worth_telling(listing, self.core.loop.state)
        if told is not None:
            self.offer(told)

    def _dispatch(self, effect: Effect) -> None:
        """The inline runner: the receipt is there at once."""
        self.offer(self._execute(effect))

    def _execute(self, effect: Effect) -> Receipt:
        try:
            actuator = actuator_of(self._actuators, effect)
            return drive(actuator.start(effect) if isinstance(effect, Launch) else actuator.stop(effect))
        except ActuatorError as error:
            return refusal(effect, error, self.now)
