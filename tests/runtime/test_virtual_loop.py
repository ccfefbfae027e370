"""The loop that the runtime's tests run on: exact, ordered, and unable to hang."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_loop import VirtualClock, run_virtually

START = 1_700_000_000.0


def test_time_at_a_timer_is_the_timers_own_to_the_last_bit() -> None:
    whens = [START + step / 7.0 for step in range(1, 50)]

    async def main() -> list[float]:
        clock = VirtualClock()
        seen = []
        for when in whens:
            await clock.sleep_until(when)
            seen.append(clock.now())
        return seen

    assert run_virtually(main(), START) == whens


def test_timers_go_off_in_their_order_and_a_cancelled_one_does_not() -> None:
    async def main() -> tuple[list[str], float]:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        loop.call_at(START + 3, told.append, "third")
        loop.call_at(START + 2, told.append, "cancelled").cancel()
        loop.call_at(START + 1, told.append, "first")
        await VirtualClock().sleep_until(START + 3.5)
        return told, loop.time()

    assert run_virtually(main(), START) == (["first", "third"], START + 3.5)


def test_a_timeout_fires_at_its_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10.0):
                await asyncio.Event().wait()
        return VirtualClock().now()

    assert run_virtually(main(), START) == START + 10.0


def test_waiting_for_nothing_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="no timer is set"):
        run_virtually(main(), START)
