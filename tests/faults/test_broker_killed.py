"""The broker is killed -9 around every write and every effect, with starts, drains and streams under way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import httpx
import pytest

from broker.app.faultpoints import POINTS
from tests.faults.cluster import Cluster, cluster, load, policies_yaml
from tests.faults.conftest import SEED, Note

KILLS = 3


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


async def survive(folder: Path, point: str, kills: int, note: Note) -> None:
    async with cluster(folder) as running, load(running) as streams:
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


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
async def test_killed_three_times_at_a_point_it_goes_on_without_orphan_double_or_cut_stream(
    point: str, tmp_path: Path, note: Note
) -> None:
    await survive(tmp_path, point, KILLS, note)


@pytest.mark.integration
@pytest.mark.parametrize("point", random.Random(SEED).sample(POINTS, 1))
async def test_killed_once_at_a_point_that_the_seed_chose_it_goes_on(point: str, tmp_path: Path, note: Note) -> None:
    await survive(tmp_path, point, 1, note)


@pytest.mark.faults
async def test_a_replica_whose_launch_was_not_written_down_outlives_a_broker_away_longer_than_its_load_timeout(
    tmp_path: Path,
) -> None:
    """Loaded and healthy, it was killed by the next broker before that had probed it."""
    async with cluster(tmp_path, policies=policies_yaml(load_timeout="6s"), gateway=False) as running:
        await running.stop_broker()
        assert await running.start_broker("after_launch")
        with contextlib.suppress(httpx.TransportError):
            await running.scale(2)
        await running.broker_died()
        await asyncio.sleep(8)
        await running.start_broker()
        await running.scale(2)
        await running.settled(2)
        found = [(r["replica_id"], r["failure"]) for r in await running.replicas()]
        assert found == [("chat-0-g1", ""), ("chat-1-g2", "")]
