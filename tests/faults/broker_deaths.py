"""A broker that dies at a named point while it scales under load, and what its successors must find."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager

import httpx

from tests.faults.cluster import Cluster, load
from tests.faults.conftest import Note


async def kill_at(running: Cluster, point: str, targets: set[int]) -> set[int]:
    """Let a broker die at ``point`` while it scales back and forth. Returns the targets that its successor may have:
    the one that was accepted last, and beside it one that it died over."""
    deadline = time.monotonic() + 60.0
    if not await running.start_broker(point):
        return targets
    target = min(targets)
    while time.monotonic() < deadline:
        before, target = target, 3 - target
        try:
            await running.scale(target)
        except httpx.TransportError:
            await running.broker_died()
            return {before, target}
        if await died_or_settled(running, target, deadline):
            return {target}
    raise AssertionError(f"the broker did not pass {point}\n{running.stack.log_tail('broker')}")


async def died_or_settled(running: Cluster, target: int, deadline: float) -> bool:
    """True once the broker is dead, False once it has reached its target."""
    settling = asyncio.create_task(running.settled(target))
    try:
        while time.monotonic() < deadline:
            if running.broker_dead():
                await running.broker_died()
                return True
            if settling.done():
                settling.result()
                return False
            await asyncio.sleep(0.02)
    finally:
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
    return False


async def survive(opened: AbstractAsyncContextManager[Cluster], point: str, kills: int, note: Note) -> None:
    """Brokers die at ``point`` one after the other, ``kills`` of them; the last one finds all as it should be."""
    async with opened as running, load(running) as streams:
        await running.scale(1)
        targets = {1}
        assert await running.stop_broker() == 0
        for _ in range(kills):
            targets = await kill_at(running, point, targets)
        killed_at = time.monotonic()
        await running.start_broker()
        answers_after_s = time.monotonic() - killed_at
        target = (await running.model())["target"]
        assert target in targets, "an accepted target was forgotten"
        await running.settled(target)
        note(
            f"answers {answers_after_s:.1f} s after its last start, settled after {time.monotonic() - killed_at:.1f} s"
        )
        await running.no_orphan_no_double()
        assert [r["in_flight_at_stop"] for r in await running.replicas() if r["in_flight_at_stop"]] == []
        assert [r["failure"] for r in await running.replicas() if r["failure"]] == []
        await running.scale(2)
        await running.settled(2)
        await running.no_orphan_no_double()
        streams.stop()
    streams.all_finished()
    assert len(running.logged("leadership_taken")) == running.brokers
    running.no_traceback()
    await running.the_log_tells_one_story()
