"""The shells' clocks, in virtual time where time has to pass."""

from __future__ import annotations

import asyncio
import math

import pytest

from broker.app.clock import LoopClock, SystemClock
from broker.model.ports import Clock

BASE = 1_750_000_000.0


@pytest.mark.looptime
async def test_a_loop_clock_counts_from_its_base() -> None:
    clock: Clock = LoopClock(BASE)
    assert (clock.now(), clock.monotonic()) == (BASE, 0)
    await asyncio.sleep(90)
    assert (clock.now(), clock.monotonic()) == (BASE + 90, 90)


@pytest.mark.looptime
@pytest.mark.parametrize("delay_s", [0.0001, 1 / 3, 9.999999, 86400.1])
async def test_a_sleeper_wakes_when_its_time_has_come_and_at_most_a_millisecond_late(delay_s: float) -> None:
    clock = LoopClock(BASE)
    await clock.sleep_until(BASE + delay_s)
    assert BASE + delay_s <= clock.now() <= BASE + delay_s + 0.0011


@pytest.mark.looptime
async def test_a_time_that_has_passed_is_not_waited_for_but_lets_others_run() -> None:
    clock = LoopClock(BASE)
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "other")
    await clock.sleep_until(BASE - 5)
    assert (clock.now(), ran) == (BASE, ["other"])


@pytest.mark.looptime
async def test_a_clock_that_is_set_forward_while_somebody_sleeps_wakes_them_soon() -> None:
    class SetForward(LoopClock):
        def now(self) -> float:
            return super().now() + (3600 if self.monotonic() > 5 else 0)

    clock = SetForward(BASE)
    await clock.sleep_until(BASE + 1800)
    assert clock.monotonic() <= 10


async def test_the_system_clock_goes_forward() -> None:
    clock: Clock = SystemClock()
    now, monotonic = clock.now(), clock.monotonic()
    await clock.sleep_until(now + 0.002)
    assert clock.now() >= now + 0.002
    assert clock.monotonic() > monotonic
    assert math.isfinite(now)
