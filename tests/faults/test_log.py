"""The broker's memory full, locked, damaged or taken: words, a status, and recovery where it is possible."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.output import Exit
from tests.faults.cluster import cluster, load, site_yaml
from tests.faults.conftest import Note
from tests.faults.log_refusals import serves_on_while_its_log_refuses
from tests.support.ports import free_port
from tests.support.small_disk import fill, small_disk_at


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk_at(folder, "2m"):
        yield folder


@pytest.mark.faults
@pytest.mark.timeout(180)
async def test_on_a_full_disk_what_serves_goes_on_and_the_broker_recovers_by_itself(
    small_disk: Path, tmp_path: Path
) -> None:
    site = site_yaml("faults-full-disk", free_port(), log="kind: sqlite, path: disk/tidegate.sqlite")
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
        with closing(sqlite3.connect(running.log_path, isolation_level=None, check_same_thread=False)) as other:
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
