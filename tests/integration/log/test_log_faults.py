"""The embedded log under kill -9, a full disk, a folder without rights: real processes, real files."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.log.sqlite import SqliteLog
from broker.model.errors import LeadershipRefused, LogFull
from tests.integration.log.worker import REPLICAS, marked_step
from tests.support.shared_data import REPOSITORY
from tests.support.small_disk import small_disk_at

pytestmark = pytest.mark.integration

KILLS = 20


@contextmanager
def worker(role: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.log.worker", role, str(path)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout)


async def require_whole(path: Path, acknowledged: int) -> int:
    """Everything acknowledged is there, the last step is there wholly, and the steps have no gap."""
    log = SqliteLog(path)
    last = await log.load()
    assert last.number >= acknowledged
    if last.number:
        assert last.now == marked_step(last.number, 1).now
        assert [r.phase_since for r in last.state.replicas_of("chat").values()] == [float(last.number)] * REPLICAS
        numbers = [step.number async for step in log.steps()]
        assert numbers == list(range(numbers[0], last.number + 1))
        assert (await log.decisions(limit=1))[0].target == last.number
        assert [e.revision for e in await log.endpoints()] == [last.number]
        assert [r async for r in log.records("requests")][-1] in (last.number, last.number - 1)
    return last.number


def run_and_kill(path: Path, *, after_lines: int, and_s: float) -> int:
    """Kill a writer -9 some time after it said so many steps; returns the last step that it said was committed."""
    said = [0]
    with worker("write", path) as process:
        said += [int(next(lines(process))) for _ in range(after_lines)]
        time.sleep(and_s)
        process.kill()
        said += [int(line) for line in lines(process) if line.endswith("\n")]
    return said[-1]


def run_and_kill_at_birth(path: Path, *, and_s: float) -> None:
    """Kill a writer -9 some time after it has begun to make its file."""
    lock = path.with_name(f"{path.name}.lock")
    with worker("write", path) as process:
        while not lock.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(and_s)
        process.kill()


async def test_killed_at_any_moment_the_last_acknowledged_step_is_whole(tmp_path: Path) -> None:
    path, randomness, reached = tmp_path / "log.db", random.Random(20260101), 0
    for _ in range(KILLS):
        said = run_and_kill(path, after_lines=randomness.randint(1, 60), and_s=randomness.uniform(0, 0.004))
        reached = await require_whole(path, max(said, reached))
    log = SqliteLog(path)
    assert (await log.acquire_leadership("after")).number == KILLS + 1
    await log.commit(marked_step(reached + 1, KILLS + 1))
    await log.close()


async def test_killed_while_the_file_is_made_the_next_start_makes_it(tmp_path: Path) -> None:
    randomness = random.Random(7)
    for attempt in range(8):
        path = tmp_path / f"log-{attempt}.db"
        run_and_kill_at_birth(path, and_s=randomness.uniform(0, 0.01))
        log = SqliteLog(path)
        await log.acquire_leadership("after")
        await require_whole(path, 0)
        await log.close()


async def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    with worker("write", path) as process:
        next(lines(process))
        with pytest.raises(LeadershipRefused, match=rf"led by worker \(host .*, process {process.pid}, since"):
            await log.acquire_leadership("second")
        assert (await log.load()).number >= 1
    assert (await log.acquire_leadership("second")).number == 2
    await log.close()


async def test_a_log_that_met_a_size_limit_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with worker("fill", path) as process:
        failed, went_on = (line.split() for line in lines(process))
        assert process.wait(60) == 0
    assert failed[0] == "LogUnreachable"
    assert {"size", "limits;"} <= set(failed)
    assert int(failed[1]) > 5
    assert await require_whole_steps(path) == int(went_on[-1]) == int(failed[1]) + 49


async def require_whole_steps(path: Path) -> int:
    log = SqliteLog(path)
    last = (await log.load()).number
    assert [step async for step in log.steps()] == [marked_step(number, 1) for number in range(1, last + 1)]
    return last


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB. Where tests may not mount one, the size limit above stands for it."""
    with small_disk_at(tmp_path, "1m"):
        yield tmp_path


async def commit_until_it_fails(log: SqliteLog) -> None:
    number = (await log.load()).number
    while True:
        number += 1
        await log.commit(marked_step(number, 1))


async def test_a_log_on_a_full_disk_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    log = SqliteLog(small_disk / "log.db")
    await log.acquire_leadership("broker-a")
    with pytest.raises(LogFull, match=r"no room left to write .*log\.db .* the log goes on by itself"):
        await commit_until_it_fails(log)
    with pytest.raises(LogFull):
        await log.append("requests", ["x" * 200_000])
    reached = await require_whole_steps(log.path)
    assert reached > 5
    ballast.unlink()
    await log.commit(marked_step(reached + 1, 1))
    await log.close()
    assert await require_whole_steps(log.path) == reached + 1


@pytest.mark.parametrize("there", [False, True], ids=["new log", "log that is there"])
async def test_a_folder_without_rights_is_refused_with_words(there: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        if there:
            log = SqliteLog(path)
            await log.acquire_leadership("broker-a")
            await log.close()
        os.chmod(folder, 0o555)
        with worker("intrude", path) as process:
            (said,) = lines(process)
        os.chmod(folder, 0o755)
    assert said.startswith("LogUnreachable ")
    assert "its user needs to read and write the file and its folder" in said
