"""The broker's memory full, locked, damaged or taken: words, a status, and recovery where it is possible."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.output import Exit
from tests.faults.cluster import Cluster, cluster, load, site_yaml
from tests.faults.conftest import Note
from tests.support.ports import free_port
from tests.support.small_disk import fill, small_disk_at
from tests.support.waiting import until_answered


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk_at(folder, "2m"):
        yield folder


async def health(running: Cluster) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=running.stack.broker_url, trust_env=False) as client:
        body: dict[str, Any] = (await client.get("/healthz")).json()
        return body


async def until_health(running: Cluster, holds: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
    return await until_answered(lambda: health(running), holds, "the broker's health is as expected", timeout_s)


async def serves_on_while_its_log_refuses(running: Cluster, words: str, recover: Callable[[], object]) -> None:
    """Degraded, in words; what serves serves; nothing is started; it goes on by itself after ``recover``."""
    found = await until_health(running, lambda body: body["status"] == "degraded", 40.0)
    assert words in found["problem"]
    before = running.processes()
    async with running.operator() as client:
        body = {"model_id": "chat", "target": 3, "for_s": 600, "because": "a test", "author": "tests"}
        answer = await client.post("/v1/overrides", json=body, timeout=20.0)
    assert answer.status_code == 503
    assert words in answer.json()["error"]["message"]
    await asyncio.sleep(2.0)
    assert running.processes() == before, "something was started that is not written down"
    assert (await running.get("/v1/endpoints"))["endpoints"]
    recover()
    await until_health(running, lambda body: body["status"] == "ok", 20.0)
    await running.scale(2)
    await running.settled(2)
    await running.no_orphan_no_double()


@pytest.mark.faults
@pytest.mark.timeout(180)
async def test_on_a_full_disk_what_serves_goes_on_and_the_broker_recovers_by_itself(
    small_disk: Path, tmp_path: Path
) -> None:
    site = site_yaml("faults-full-disk", free_port(), log="disk/tidegate.sqlite")
    async with cluster(tmp_path, site=site) as running:
        running.log_path = small_disk / "tidegate.sqlite"
        async with load(running) as streams:
            ballast = small_disk / "ballast"
            fill(ballast)
            await serves_on_while_its_log_refuses(running, "no room left", ballast.unlink)
            streams.stop()
        streams.all_finished()
        assert 1 <= len(running.logged("step_failed")) <= 3, "one outage, one line"
        assert await running.stop_broker() == Exit.OK
        running.no_traceback()
        await running.the_log_tells_one_story()
        await asyncio.to_thread(running.stack.stop)


@pytest.mark.faults
@pytest.mark.timeout(180)
async def test_a_log_that_another_program_locks_is_waited_for(tmp_path: Path) -> None:
    async with cluster(tmp_path) as running, load(running) as streams:
        with closing(sqlite3.connect(running.log_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await serves_on_while_its_log_refuses(running, "another program holds", lambda: other.execute("COMMIT"))
        streams.stop()
    streams.all_finished()
    running.no_traceback()
    await running.the_log_tells_one_story()


@pytest.mark.integration
async def test_a_second_broker_on_the_same_log_is_refused_and_the_first_goes_on(tmp_path: Path, note: Note) -> None:
    async with cluster(tmp_path, gateway=False) as running:
        assert running.stack.broker is not None
        second = await running.second_broker()
        assert second.returncode == Exit.REFUSED
        assert f"pid {running.stack.broker.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        note(second.stderr.strip().replace("\n", " "))
        await running.settled(1)
        await running.no_orphan_no_double()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database at all\n" * 1000)


def torn(path: Path) -> None:
    body = bytearray(path.read_bytes())
    for offset in range(4096, len(body), 4096):
        body[offset : offset + 64] = bytes(range(64))
    path.write_bytes(body)


@pytest.mark.integration
async def test_a_damaged_log_is_named_and_never_taken_for_a_new_one(tmp_path: Path, note: Note) -> None:
    async with cluster(tmp_path, gateway=False) as running:
        await running.stop_broker()
        whole = running.log_path.read_bytes()
        for damage in (empty, no_database, torn):
            running.log_path.write_bytes(whole)
            damage(running.log_path)
            found = await running.second_broker()
            assert found.returncode == Exit.FAILED, found.stderr
            assert "tidegate.sqlite is damaged" in found.stderr
            assert "tidegate state import --force" in found.stderr
            assert "Traceback" not in found.stderr
            note(found.stderr.strip().splitlines()[-1][:200])
        assert sum(running.processes().values()) == 1, "the replica must live on"
        running.log_path.write_bytes(whole)
        await running.start_broker()
        await running.settled(1)
        await running.no_orphan_no_double()
        running.no_traceback()
