"""The broker is killed -9 around every write and every effect, with starts, drains and streams under way."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from broker.app.faultpoints import POINTS
from tests.faults.cluster import Cluster, cluster, load
from tests.faults.conftest import SEED, Note

KILLS = 3


async def kill_at(running: Cluster, point: str, *, target: int) -> int:
    """Let a broker die at ``point`` while it scales back and forth; returns the target that it last was given."""
    deadline = time.monotonic() + 60.0
    if not await running.start_broker(point):
        return target
    while time.monotonic() < deadline:
        target = 3 - target
        await running.scale(target)
        if await died_or_settled(running, target, deadline):
            return target
    raise AssertionError(f"the broker did not pass {point}\n{running.stack.log_tail('broker')}")


async def died_or_settled(running: Cluster, target: int, deadline: float) -> bool:
    """True once the broker is dead, False once it has reached its target."""
    settling = asyncio.create_task(running.settled(target))
    try:
        while time.monotonic() < deadline:
            if running.broker_dead():
                assert running.stack.broker is not None
                assert running.stack.broker.returncode == -9, running.stack.log_tail("broker")
                return True
            if settling.done():
                settling.result()
                return False
            await asyncio.sleep(0.02)
    finally:
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
    return False


async def survive(folder: Path, point: str, kills: int, note: Note) -> None:
    async with cluster(folder) as running, load(running) as streams:
        target = 1
        await running.scale(target)
        await running.stop_broker()
        for _ in range(kills):
            target = await kill_at(running, point, target=target)
        killed_at = time.monotonic()
        await running.start_broker()
        answers_after_s = time.monotonic() - killed_at
        assert (await running.model())["target"] == target, "the target was forgotten"
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


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
async def test_killed_three_times_at_a_point_it_goes_on_without_orphan_double_or_cut_stream(
    point: str, tmp_path: Path, note: Note
) -> None:
    await survive(tmp_path, point, KILLS, note)


@pytest.mark.integration
async def test_killed_at_a_point_chosen_by_the_seed_it_goes_on(tmp_path: Path, note: Note) -> None:
    point = random.Random(SEED).choice(POINTS)
    note(f"seed {SEED} chose {point}")
    await survive(tmp_path, point, 1, note)
