"""The shells' clocks, in virtual time where time has to pass."""

from __future__ import annotations

import asyncio
import math

import pytest

from broker.clock import CATCH_UP_PACE, LoopClock, SystemClock
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


class FakeClocks:
    """A machine's two clocks, of which the wall clock may be set."""

    def __init__(self) -> None:
        self.wall = BASE
        self.elapsed = 0.0
        self.clock = SystemClock(lambda: self.wall, lambda: self.elapsed)

    def pass_s(self, seconds: float) -> float:
        self.wall += seconds
        self.elapsed += seconds
        return self.clock.now()


def test_time_goes_on_when_the_wall_clock_is_set_back_and_meets_it_later() -> None:
    clocks = FakeClocks()
    assert clocks.pass_s(5) == BASE + 5
    clocks.wall -= 3600
    assert clocks.clock.now() == BASE + 5
    assert clocks.pass_s(10) == pytest.approx(BASE + 5 + 10 * CATCH_UP_PACE)
    assert clocks.pass_s(3600 / (1 - CATCH_UP_PACE)) == pytest.approx(clocks.wall)
    assert clocks.pass_s(1) == clocks.wall


def test_a_wall_clock_that_is_set_forward_again_is_followed_at_once() -> None:
    clocks = FakeClocks()
    clocks.wall -= 3600
    clocks.pass_s(1)
    clocks.wall += 3600
    assert clocks.pass_s(1) == clocks.wall == BASE + 2


def test_time_goes_on_from_what_was_written_down_before_a_restart() -> None:
    clocks = FakeClocks()
    clocks.clock.not_before(BASE + 3600)
    assert clocks.pass_s(10) == pytest.approx(BASE + 3600 + 10 * CATCH_UP_PACE)
    clocks.clock.not_before(BASE)
    assert clocks.clock.now() > BASE + 3600
