"""What only the embedded log does: group commit, its file's faults, who leads it, its size."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.log.sqlite import SqliteLog
from broker.log.tables import TRIM_ROWS
from broker.model.errors import LeadershipRefused, LogBusy, LogDamaged, LogUnreachable, WireError
from broker.model.ports import Log
from tests.support.builders import START, replica, step_record


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.acquire_leadership("broker-a")
    yield log
    await log.close()


async def commit_steps(log: Log, first: int, last: int) -> None:
    await asyncio.gather(*(log.commit(step_record(number)) for number in range(first, last + 1)))


def rows(log: SqliteLog, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(log.path)) as connection:
        return connection.execute(query).fetchall()


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


async def test_appends_that_wait_at_once_share_one_row(log: SqliteLog) -> None:
    await asyncio.gather(*(log.append("requests", [number, -number]) for number in range(50)))
    assert rows(log, "SELECT count(*) FROM records") == [(1,)]
    assert [r async for r in log.records("requests")] == [n for number in range(50) for n in (number, -number)]


async def test_the_state_is_kept_once_for_each_entity(log: SqliteLog) -> None:
    await commit_steps(log, 1, 20)
    assert rows(log, "SELECT kind, id FROM entities ORDER BY kind") == [("control", ""), ("model", "chat")]


async def test_a_record_that_is_not_json_fails_alone(log: SqliteLog) -> None:
    outcomes = await asyncio.gather(
        log.append("requests", [1]), log.append("requests", [math.nan]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), WireError]
    assert [r async for r in log.records("requests")] == [1]


async def test_a_name_that_is_not_text_fails_alone(log: SqliteLog) -> None:
    strange = step_record(1, changes={("replica", "\ud800"): replica("\ud800")})
    with pytest.raises(WireError, match="cannot be stored"):
        await log.commit(strange)
    assert rows(log, "SELECT count(*) FROM steps") == [(0,)]
    await log.commit(step_record(1))


async def test_a_cancelled_commit_does_not_hold_up_the_next(log: SqliteLog) -> None:
    task = asyncio.ensure_future(log.commit(step_record(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await log.commit(step_record(2))
    assert (await log.load()).number == 2


async def test_a_log_that_is_reached_by_two_names_has_one_leader(log: SqliteLog, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(log.path)
    with pytest.raises(LeadershipRefused):
        await SqliteLog(link).acquire_leadership("broker-b")


async def test_the_refusal_names_holder_host_process_and_time(log: SqliteLog) -> None:
    with pytest.raises(LeadershipRefused) as refused:
        await SqliteLog(log.path).acquire_leadership("broker-b")
    words = str(refused.value)
    assert "led by broker-a (host " in words
    assert f"process {os.getpid()}, since 2" in words
    assert "stop that one first" in words


async def test_a_lock_whose_holder_has_not_told_its_name_still_refuses(log: SqliteLog) -> None:
    os.truncate(f"{log.path}.lock", 0)
    with pytest.raises(LeadershipRefused, match="another process that has not told its name"):
        await SqliteLog(log.path).acquire_leadership("broker-b")


async def test_a_leader_whose_lock_was_removed_by_hand_is_deposed_by_the_next(log: SqliteLog) -> None:
    await log.commit(step_record(1))
    os.unlink(f"{log.path}.lock")
    successor = SqliteLog(log.path)
    epoch = await successor.acquire_leadership("broker-b")
    for write in (log.commit(step_record(2)), log.append("requests", [1]), log.trim(START)):
        with pytest.raises(LeadershipRefused, match=r"taken over by broker-b \(epoch 2, this broker has 1\)"):
            await write
    await successor.commit(step_record(2, epoch=epoch.number))
    await successor.close()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_a_leader_whose_file_is_not_at_its_path_any_more_is_over(log: SqliteLog, replaced: bool) -> None:
    await log.commit(step_record(1))
    os.unlink(log.path)
    if replaced:
        log.path.write_bytes(b"")
    with pytest.raises(LeadershipRefused, match="was removed or replaced while this broker led it"):
        await log.commit(step_record(2))


async def test_a_failed_start_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all" * 300)
    with pytest.raises(LogDamaged):
        await SqliteLog(path).acquire_leadership("broker-a")
    path.unlink()
    log = SqliteLog(path)
    assert (await log.acquire_leadership("broker-a")).number == 1
    await log.close()


@pytest.mark.parametrize(
    "content", [pytest.param(b"", id="empty"), pytest.param(b"no database at all" * 300, id="garbage")]
)
async def test_a_file_that_is_no_log_is_damage_and_never_a_new_log(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(content)
    for opening in (SqliteLog(path).load(), SqliteLog(path).acquire_leadership("broker-a")):
        with pytest.raises(LogDamaged, match=r"log\.db is damaged: .* put back a backup"):
            await opening
    assert path.read_bytes() == content


async def test_a_log_cut_off_in_the_middle_is_damaged(log: SqliteLog) -> None:
    await commit_steps(log, 1, 50)
    await log.close()
    os.truncate(log.path, log.path.stat().st_size // 2)
    with pytest.raises(LogDamaged, match="is damaged"):
        await SqliteLog(log.path).load()


async def test_zeros_in_the_middle_are_found_wherever_they_lie(log: SqliteLog) -> None:
    """Every page but the first, one at a time: what is read is either what was written or named as damage."""
    await commit_steps(log, 1, 30)
    await log.append("requests", ["r" * 300] * 30)
    await log.checkpoint(await log.load())
    written = [await everything(log)]
    await log.close()
    whole = log.path.read_bytes()
    found = 0
    for page in range(1, len(whole) // 4096):
        log.path.write_bytes(whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :])
        try:
            assert await everything(SqliteLog(log.path)) in written
        except LogDamaged:
            found += 1
    assert found > 30


async def everything(log: SqliteLog) -> tuple[object, ...]:
    return (
        await log.load(),
        [step async for step in log.steps()],
        [checkpoint async for checkpoint in log.checkpoints()],
        [record async for record in log.records("requests")],
        await log.endpoints(),
    )


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        pytest.param("UPDATE steps SET body = replace(body, '1', '2') WHERE number = 2", "step 2 ", id="step's text"),
        pytest.param("UPDATE steps SET now = now + 1 WHERE number = 3", "step 3 ", id="step's time"),
        pytest.param("DELETE FROM steps WHERE number = 2", "step 2 is missing", id="step gone"),
        pytest.param("DELETE FROM steps WHERE number = 4", "step 4 is missing", id="last step gone"),
        pytest.param("DELETE FROM decisions WHERE step = 3", "step 3 cannot be read", id="decision gone"),
        pytest.param("UPDATE decisions SET body = '{}' WHERE step = 1", "decision of step 1", id="decision's text"),
        pytest.param("UPDATE entities SET body = '{}' WHERE kind = 'model'", "state of model 'chat'", id="entity"),
        pytest.param("UPDATE entities SET id = 'x' WHERE kind = 'model'", "state of model 'x'", id="entity's key"),
        pytest.param("UPDATE endpoints SET body = '{}'", "endpoint 'chat-0-g1'", id="endpoint"),
        pytest.param("UPDATE checkpoints SET body = '[]'", "checkpoint of step 4", id="checkpoint"),
        pytest.param("UPDATE records SET topic = 'requests', body = '[]'", "records of topic requests", id="records"),
        pytest.param("DELETE FROM meta WHERE key = 'step'", "table meta is not whole", id="meta"),
    ],
)
async def test_a_row_that_is_not_what_was_written_is_named(log: SqliteLog, statement: str, named: str) -> None:
    await commit_steps(log, 1, 4)
    await log.checkpoint(await log.load())
    await log.append("requests", [1])
    await log.close()
    change(log.path, statement)
    with pytest.raises(LogDamaged, match=r"log\.db is damaged") as damage:
        await everything(SqliteLog(log.path))
    assert named in str(damage.value)


async def test_reading_a_log_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(LogUnreachable, match="no broker has run with it yet, or the path is wrong"):
        await SqliteLog(tmp_path / "log.db").load()


async def test_leading_in_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(LogUnreachable, match="does not exist: make it"):
        await SqliteLog(tmp_path / "nowhere" / "log.db").acquire_leadership("broker-a")


async def test_a_locked_file_fails_the_write_keeps_the_loop_free_and_goes_on_after(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", busy_timeout_s=0.2)
    await log.acquire_leadership("broker-a")
    await log.commit(step_record(1))
    turns = 0
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(log.commit(step_record(2)))
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(LogBusy, match="another program holds"):
            await waiting
        other.execute("ROLLBACK")
    assert turns > 1
    await log.commit(step_record(2))
    assert (await log.load()).number == 2
    await log.close()


async def test_all_that_waits_behind_a_locked_file_is_told(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", busy_timeout_s=0.05)
    await log.acquire_leadership("broker-a")
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        outcomes = await asyncio.gather(
            log.commit(step_record(1)), log.append("requests", [1]), log.commit(step_record(2)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [LogBusy] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    await commit_steps(log, 1, 2)
    await log.close()


async def test_a_forgotten_reader_does_not_hold_up_the_writer(log: SqliteLog) -> None:
    await commit_steps(log, 1, 60)
    reader = SqliteLog(log.path).steps()
    assert (await anext(reader)).number == 1
    await commit_steps(log, 61, 120)
    rest = [step.number async for step in reader]
    assert rest == list(range(2, 121))


async def test_trimming_goes_by_pieces_and_gives_the_room_back(log: SqliteLog) -> None:
    steps_a_round = TRIM_ROWS + 100
    for last in range(steps_a_round, 5 * steps_a_round, steps_a_round):
        await log.append("requests", ["old" * 100_000])
        await commit_steps(log, last - steps_a_round + 1, last)
        newest = await log.load()
        await log.checkpoint(newest)
        await log.trim(before=newest.now + 0.5)
        assert [step async for step in log.steps()] == []
        assert rows(log, "PRAGMA freelist_count") == [(0,)]
        assert rows(log, "SELECT count(*) FROM records") == [(0,)]
        assert rows(log, "PRAGMA page_count") < [(60,)]
    assert (await log.load()).number == last
