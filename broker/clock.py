"""The clocks of the shells: the machine's, and an event loop's for tests in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

logger = structlog.get_logger("broker")

SHORTEST_SLEEP_S = 0.001
LONGEST_SLEEP_S = 10.0
CATCH_UP_PACE = 0.9
"""How fast time goes while the wall clock is behind: timers stay nearly true, and an hour is made good in ten."""


class SystemClock:
    """``broker.model.ports.Clock`` on the machine's clocks: the wall clock's time, which never goes back here.

    Where the wall clock is set back, time goes on at nine tenths of its pace until the wall clock has caught up:
    every timer of the broker compares with ``now``, and would otherwise stand still for as long as the step was.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - the one place that reads the wall clock
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._last = wall()
        self._read_at = monotonic()
        self._behind = False

    def now(self) -> float:
        wall, read_at = self._wall(), self._monotonic()
        if wall < self._last:
            self._tell_once(self._last - wall)
            self._last += CATCH_UP_PACE * (read_at - self._read_at)
        else:
            self._last, self._behind = wall, False
        self._read_at = read_at
        return self._last

    def not_before(self, when: float) -> None:
        """Time goes on from ``when``, if that is later: what was written down before a restart lies in the past."""
        self._last = max(self.now(), when)

    def monotonic(self) -> float:
        return self._monotonic()

    def _tell_once(self, behind_s: float) -> None:
        if not self._behind:
            logger.warning("clock_went_back", behind_s=behind_s, action="time goes on slower until it has caught up")
        self._behind = True

    async def sleep_until(self, when: float) -> None:
        await _sleep_until(self, when)


class LoopClock:
    """``broker.model.ports.Clock`` on the running event loop's time, counted from ``base``: virtual if the loop is."""

    def __init__(self, base: float) -> None:
        self._base = base

    def now(self) -> float:
        return self._base + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep_until(self, when: float) -> None:
        await _sleep_until(self, when)


class _Wall(Protocol):
    def now(self) -> float: ...


async def _sleep_until(clock: _Wall, when: float) -> None:
    """Looks at the clock again at least every 10 s, since a wall clock may be set meanwhile.

    Suspends at least once, so that a caller whose time is always past starves nobody. Times of day as floats are a
    quarter of a microsecond apart: without a shortest sleep the last rest of a wait would spin.
    """
    await asyncio.sleep(0)
    while (rest := when - clock.now()) > 0:
        nap_s = min(max(rest, SHORTEST_SLEEP_S), LONGEST_SLEEP_S)
        await asyncio.sleep(nap_s)
