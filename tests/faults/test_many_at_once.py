"""Whatever comes, in whatever order: brokers and replicas die and freeze while targets change; then all is well."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from simulator.report.summary import Outcome
from tests.faults.cluster import Cluster, cluster, load, site_yaml
from tests.faults.conftest import SEED, Note
from tests.support.ports import free_port

BLOWS = 14
PATIENT = "limits: {breaker: {failures: 100}}"

Blow = Callable[[Cluster, random.Random], Awaitable[None]]


async def scale(running: Cluster, chance: random.Random) -> None:
    with contextlib.suppress(httpx.HTTPError):
        await running.scale(chance.randint(1, 3))


async def restart_broker(running: Cluster, chance: random.Random) -> None:
    await running.kill_broker()
    await asyncio.sleep(chance.uniform(0.0, 3.0))
    await running.start_broker()


async def kill_replica(running: Cluster, chance: random.Random) -> None:
    victims = running.stack.replica_processes()
    if victims:
        with contextlib.suppress(psutil.Error):
            chance.choice(victims).kill()


async def freeze_replica(running: Cluster, chance: random.Random) -> None:
    victims = running.stack.replica_processes()
    if victims:
        victim = chance.choice(victims)
        with contextlib.suppress(psutil.Error):
            victim.suspend()
        await asyncio.sleep(chance.uniform(0.5, 4.0))
        with contextlib.suppress(psutil.Error):
            victim.resume()


async def bear(folder: Path, seed: str, blows: list[Blow], note: Note) -> None:
    chance = random.Random(seed)
    site = site_yaml(f"faults-many-{chance.randrange(10**6)}", free_port(), extra=PATIENT)
    dealt = [chance.choice(blows) for _ in range(BLOWS)]
    note(f"seed {seed}: {', '.join(blow.__name__ for blow in dealt)}")
    async with cluster(folder, site=site) as running, load(running) as streams:
        await running.scale(2)
        for blow in dealt:
            await blow(running, chance)
            await asyncio.sleep(chance.uniform(0.0, 2.0))
        await running.scale(2)
        await running.settled(2, timeout_s=60.0)
        await running.no_orphan_no_double()
        assert not [r for r in await running.replicas() if r["in_flight_at_stop"]]
        streams.stop()
    outcomes = streams.outcomes()
    note(f"requests: {dict(outcomes)}")
    if kill_replica not in blows:
        streams.all_finished()
    assert outcomes[Outcome.FINISHED] + outcomes[Outcome.CUT] == streams.player.sent, streams.player.problems
    running.no_traceback()
    await running.the_log_tells_one_story()


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.parametrize("round_number", [1, 2, 3])
async def test_brokers_and_replicas_die_and_freeze_while_targets_change(
    round_number: int, tmp_path: Path, note: Note
) -> None:
    await bear(tmp_path, f"{SEED}/{round_number}", [scale, restart_broker, kill_replica, freeze_replica], note)


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.parametrize("round_number", [1, 2])
async def test_brokers_die_while_targets_change_and_no_stream_is_cut(
    round_number: int, tmp_path: Path, note: Note
) -> None:
    await bear(tmp_path, f"{SEED}/{round_number}", [scale, scale, restart_broker], note)
