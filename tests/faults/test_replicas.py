"""Replicas that die, lie or never come: none of them is published for long, all of them are replaced."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.log.sqlite import SqliteLog
from broker.model.replica import ReplicaPhase
from simulator.report.summary import Outcome
from tests.faults.cluster import MODEL_ID, OUTPUT_TOKENS, Cluster, cluster, load, policies_yaml, site_yaml
from tests.faults.conftest import Note
from tests.support.ports import free_port
from tests.support.waiting import until_answered

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

WITHDRAWN_WITHIN_S = 3.0
QUICK_BREAKER = "limits: {breaker: {failures: 2, open: 5s}}"


async def withdrawn_after_s(running: Cluster, replica_id: str) -> float:
    """Seconds until the registry no longer has the replica as ready."""

    def withdrawn(registry: dict[str, Any]) -> bool:
        return not any(e["endpoint_id"] == replica_id and e["phase"] == "ready" for e in registry["endpoints"])

    began = time.monotonic()
    await until_answered(lambda: running.get("/v1/endpoints"), withdrawn, f"{replica_id} is withdrawn", 30.0)
    return time.monotonic() - began


def process_of(running: Cluster, replica_id: str) -> psutil.Process:
    found = [p for p in running.stack.replica_processes() if p.environ()["TIDEGATE_REPLICA_ID"] == replica_id]
    assert len(found) == 1
    return found[0]


async def test_a_killed_replica_is_withdrawn_within_three_seconds_and_replaced(tmp_path: Path, note: Note) -> None:
    async with cluster(tmp_path) as running, load(running) as streams:
        await running.scale(2)
        await running.settled(2)
        for _ in range(3):
            await asyncio.sleep(2.0)
            victim = (await running.get("/v1/endpoints"))["endpoints"][0]["endpoint_id"]
            process_of(running, victim).kill()
            withdrawn_s = await withdrawn_after_s(running, victim)
            note(f"withdrawn {withdrawn_s:.2f} s after kill -9")
            assert withdrawn_s <= WITHDRAWN_WITHIN_S
            await running.settled(2)
        await running.no_orphan_no_double()
        streams.stop()
    outcomes = streams.outcomes()
    note(f"requests: {dict(outcomes)}")
    assert outcomes[Outcome.CUT], "streams of a killed replica cannot all have been whole"
    assert outcomes[Outcome.FINISHED] + outcomes[Outcome.CUT] == streams.player.sent, streams.player.problems
    whole = {outcome.output_tokens for outcome in streams.player.outcomes if outcome.status is Outcome.FINISHED}
    assert whole == {OUTPUT_TOKENS}, "a cut stream looked like a finished one"
    running.no_traceback()


async def test_a_frozen_replica_that_still_answers_its_port_but_no_probe_is_withdrawn(
    tmp_path: Path, note: Note
) -> None:
    async with cluster(tmp_path, gateway=False) as running:
        await running.scale(2)
        await running.settled(2)
        victim = (await running.get("/v1/endpoints"))["endpoints"][0]["endpoint_id"]
        process_of(running, victim).suspend()
        withdrawn_s = await withdrawn_after_s(running, victim)
        note(f"withdrawn {withdrawn_s:.2f} s after SIGSTOP")
        process_of(running, victim).resume()
        await running.settled(2)
        await running.no_orphan_no_double()
        running.no_traceback()


LIARS = [
    pytest.param("wrong-model", "it serves not-chat, not chat", id="another_model"),
    pytest.param("wrong-key", "it refuses the key", id="another_key"),
    pytest.param("never-loads", "not ready 2 s after its start", id="never_loads"),
]


@pytest.mark.parametrize(("fault", "words"), LIARS)
async def test_a_replica_that_never_proves_itself_is_never_published_and_opens_the_breaker(
    fault: str, words: str, tmp_path: Path
) -> None:
    site = site_yaml(f"faults-liar-{fault}", free_port(), extra=QUICK_BREAKER)
    bad = policies_yaml(arguments=f', "--fault", "{fault}"', load_timeout="2s" if fault == "never-loads" else "20s")
    async with cluster(tmp_path, site=site, policies=bad, gateway=False, ready=0) as running:
        await running.until(lambda replicas: sum(r["phase"] == "failed" for r in replicas) >= 2)
        (breaker,) = (await running.model())["breakers"].values()
        assert breaker["opened"] == 1
        assert breaker["open_until"] is not None
        assert any(words in r["detail"] for r in await running.replicas())
        assert all(r["failure"] in ("wrong_answer", "load_timeout") for r in await running.replicas())
        (tmp_path / "policies.yaml").write_text(policies_yaml())
        await running.settled(1)
        assert (await running.model())["breakers"] == {}
        good = {r["replica_id"] for r in await running.replicas() if r["phase"] == "ready"}
        await running.no_orphan_no_double()
        await running.stop_broker()
        assert await ever_published(running.log_path) == good
        running.no_traceback()


async def ever_published(path: Path) -> set[str]:
    log = SqliteLog(path)
    steps = [step async for step in log.steps()]
    await log.close()
    return {e.endpoint_id for step in steps for e in step.registry if e.phase is ReplicaPhase.READY}


@pytest.mark.parametrize("fault", ["garbage-metrics", "giant-metrics"])
async def test_metrics_that_are_none_cost_a_log_line_and_nothing_else(fault: str, tmp_path: Path, note: Note) -> None:
    policies = policies_yaml(arguments=f', "--fault", "{fault}"')
    async with cluster(tmp_path, policies=policies) as running, load(running) as streams:
        assert running.stack.broker is not None
        broker = psutil.Process(running.stack.broker.pid)
        before = broker.memory_info().rss
        await asyncio.sleep(8.0)
        grown = (broker.memory_info().rss - before) / 2**20
        note(f"the broker grew by {grown:.0f} MiB in 8 s")
        assert grown < 64
        assert running.logged("scrape_failed")
        model = await running.model()
        assert (model["target"], model["phases"]) == (1, {"ready": 1})
        await running.scale(2)
        await running.settled(2)
        snapshot = (await running.get(f"/v1/signals/{MODEL_ID}"))["snapshot"]
        assert snapshot["readings"]["kv_cache_use"]["freshness"] in ("stale", "absent")
        streams.stop()
    streams.all_finished()
    running.no_traceback()
