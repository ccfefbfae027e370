"""The broker is killed -9 around every write and every effect, with starts, drains and streams under way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import httpx
import pytest

from broker.app.faultpoints import POINTS
from tests.faults.broker_deaths import survive
from tests.faults.cluster import cluster, policies_yaml
from tests.faults.conftest import SEED, Note

KILLS = 3


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
async def test_killed_three_times_at_a_point_it_goes_on_without_orphan_double_or_cut_stream(
    point: str, tmp_path: Path, note: Note
) -> None:
    await survive(cluster(tmp_path), point, KILLS, note)


@pytest.mark.integration
@pytest.mark.parametrize("point", random.Random(SEED).sample(POINTS, 1))
async def test_killed_once_at_a_point_that_the_seed_chose_it_goes_on(point: str, tmp_path: Path, note: Note) -> None:
    await survive(cluster(tmp_path), point, 1, note)


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
