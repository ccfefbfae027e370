"""An event loop in virtual time that is exact: at a timer's turn the loop's time is the timer's own ``when``.

looptime rounds times to a resolution, which is fine for seconds since the loop began but not for comparing bytes: a
time of day that is off by one rounding makes another record. Here the loop's time *is* the time of day.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Nothing waits: when all that is ready has run, time jumps to the next timer. No sockets, no threads."""

    def __init__(self, start_at: float) -> None:
        self._now = start_at
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        super().__init__(_NoWaiting(self))
        # asyncio runs the timers before time() + resolution. Exactly those at time() are due here.
        self._clock_resolution = math.ulp(start_at)

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, handle))
        return handle

    def jump(self) -> None:
        """To the next timer that was not cancelled. Raises ``RuntimeError`` if there is none: a deadlock."""
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled() and when > self._now:
                self._now = when
                return
        raise RuntimeError("everything waits, and no timer is set: the program would hang for ever")


class _NoWaiting(selectors.SelectSelector):
    """Where a loop would sleep, virtual time jumps."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._loop.jump()
        return ready


class VirtualClock:
    """``broker.model.ports.Clock`` on a running ``VirtualLoop``."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return self.now()

    async def sleep_until(self, when: float) -> None:
        """Suspends at least once, as the production clocks do."""
        loop = asyncio.get_running_loop()
        if when <= loop.time():
            await asyncio.sleep(0)
            return
        woken = loop.create_future()
        handle = loop.call_at(when, _wake, woken)
        try:
            await woken
        finally:
            handle.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def run_virtually(main: Coroutine[Any, Any, T], start_at: float) -> T:
    """Run to the end in virtual time that begins at ``start_at`` (epoch seconds)."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start_at)) as runner:
        return runner.run(main)
