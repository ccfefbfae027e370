"""Which replicas are looked at, how often, and which verdicts are worth a step."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from broker.app.probing import ProbeLoop
from broker.app.runtime import cancel
from broker.model.observation import Probe, ProbeVerdict
from broker.model.replica import Replica, ReplicaPhase
from signals.ingest.probe import ProbeTarget
from tests.support.api_world import ApiWorld, api_world
from tests.support.builders import replica

pytestmark = pytest.mark.looptime


class FakeProber:
    """Every look takes ``delay_s`` and finds what ``verdicts`` says, else a ready replica."""

    def __init__(self, delay_s: float = 0.05) -> None:
        self.delay_s = delay_s
        self.verdicts: dict[str, ProbeVerdict] = {}
        self.looks: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0

    async def look(self, target: ProbeTarget) -> Probe:
        self.looks[target.replica_id] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay_s)
        self.at_once -= 1
        verdict = self.verdicts.get(target.replica_id, ProbeVerdict.READY)
        return Probe(target.replica_id, target.model_id, verdict, 0.0, 0.0)


def put(world: ApiWorld, *records: Replica) -> None:
    """Records as an earlier broker left them."""
    loop = world.runtime.core.loop
    loop.state = loop.state.with_changes({("replica", record.replica_id): record for record in records})


def served(ordinal: int, phase: ReplicaPhase = ReplicaPhase.READY) -> Replica:
    name = f"other-{ordinal}-g1"
    return replace(replica(name, "other"), phase=phase, url=f"http://{name}.invalid", pool_id="elsewhere")


async def offered(world: ApiWorld, prober: FakeProber, seconds: float) -> list[Probe]:
    taken: list[Probe] = []

    class Recording:
        clock = world.runtime.clock
        core = world.runtime.core

        def offer(self, probe: Probe) -> None:
            taken.append(probe)

    probing = asyncio.create_task(ProbeLoop(Recording(), prober, b"secret").run())  # type: ignore[arg-type]
    await asyncio.sleep(seconds)
    await cancel([probing])
    return taken


async def test_every_replica_of_a_large_site_has_its_turn() -> None:
    """In the order of the records the first few hundred were due again before the last were ever looked at."""
    prober = FakeProber(delay_s=0.3)
    async with api_world(first=()) as world:
        await asyncio.sleep(0.5)
        put(world, *(served(ordinal) for ordinal in range(600)))
        await offered(world, prober, 6.0)
    assert len(prober.looks) == 600
    assert max(prober.looks.values()) - min(prober.looks.values()) <= 1
    assert prober.most_at_once == 64


SAID = [
    (ReplicaPhase.READY, ProbeVerdict.READY, 0),
    (ReplicaPhase.READY, ProbeVerdict.UNREACHABLE, 1),
    (ReplicaPhase.READY, ProbeVerdict.LOADING, 1),
    (ReplicaPhase.READY, ProbeVerdict.WRONG, 1),
    (ReplicaPhase.STARTING, ProbeVerdict.UNREACHABLE, 0),
    (ReplicaPhase.STARTING, ProbeVerdict.LOADING, 1),
    (ReplicaPhase.STARTING, ProbeVerdict.READY, 1),
    (ReplicaPhase.LOADING, ProbeVerdict.LOADING, 0),
    (ReplicaPhase.LOADING, ProbeVerdict.UNREACHABLE, 0),
    (ReplicaPhase.LOADING, ProbeVerdict.READY, 1),
    (ReplicaPhase.LOADING, ProbeVerdict.WRONG, 1),
]


@pytest.mark.parametrize(("phase", "verdict", "told"), SAID, ids=[f"{p.value}, {v.value}" for p, v, _ in SAID])
async def test_only_what_is_new_is_told(phase: ReplicaPhase, verdict: ProbeVerdict, told: int) -> None:
    prober = FakeProber()
    prober.verdicts["other-0-g1"] = verdict
    async with api_world(first=()) as world:
        await asyncio.sleep(0.5)
        put(world, served(0, phase))
        assert len(await offered(world, prober, 0.3)) == told


async def test_what_loads_is_looked_at_twice_as_often_as_what_serves_and_the_rest_never() -> None:
    prober = FakeProber()
    async with api_world(first=()) as world:
        await asyncio.sleep(0.5)
        phases = [ReplicaPhase.READY, ReplicaPhase.LOADING, ReplicaPhase.STOPPING, ReplicaPhase.GONE]
        put(world, *(served(index, phase) for index, phase in enumerate(phases)))
        prober.verdicts["other-1-g1"] = ProbeVerdict.LOADING
        await offered(world, prober, 9.95)
    assert set(prober.looks) == {"other-0-g1", "other-1-g1"}
    assert prober.looks["other-0-g1"] == pytest.approx(10, abs=1)
    assert prober.looks["other-1-g1"] == pytest.approx(20, abs=3)


async def test_a_replica_in_doubt_is_told_once() -> None:
    prober = FakeProber()
    prober.verdicts["other-0-g1"] = ProbeVerdict.UNREACHABLE
    async with api_world(first=()) as world:
        await asyncio.sleep(0.5)
        put(world, replace(served(0), unhealthy_since=1.0))
        assert await offered(world, prober, 3.0) == []


async def test_a_replica_that_is_forgotten_while_it_is_looked_at_is_not_told_of() -> None:
    prober = FakeProber(delay_s=0.2)
    async with api_world(first=()) as world:
        await asyncio.sleep(0.5)
        put(world, served(0, ReplicaPhase.STARTING))
        looking = asyncio.create_task(offered(world, prober, 0.5))
        await asyncio.sleep(0.1)
        loop = world.runtime.core.loop
        loop.state = loop.state.with_changes({("replica", "other-0-g1"): None})
        assert await looking == []
    assert prober.looks == {"other-0-g1": 1}
