"""The clocks of the shells: the machine's, and an event loop's for tests in virtual time."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

SHORTEST_SLEEP_S = 0.001
LONGEST_SLEEP_S = 10.0


class SystemClock:
    """``broker.model.ports.Clock`` on the machine's clocks."""

    def now(self) -> float:
        return time.time()  # noqa: TID251 - the one place that reads the wall clock

    def monotonic(self) -> float:
        return time.monotonic()

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
