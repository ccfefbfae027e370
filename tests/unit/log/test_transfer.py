"""Backup and restore: the same log comes back, or nothing does and the words say why."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import io
import json
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.log.schema import SCHEMA_VERSION, TABLES
from broker.log.sqlite import SqliteLog
from broker.log.transfer import export_state, import_state
from broker.model.errors import LeadershipRefused, LogDamaged, LogError, LogUnreachable, SchemaTooNew
from broker.model.ports import StepRecord
from broker.model.spec import JsonValue
from broker.model.state import BrokerState, Changes, ModelState
from tests.support.builders import START, model_spec, step_record


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.acquire_leadership("broker-a")
    for number in (1, 2, 3):
        await log.commit(step_record(number))
    await log.checkpoint(await log.load())
    await log.append("requests", [{"n": 1}, {"n": 2}])
    yield log
    await log.close()


def backup_of(path: Path) -> str:
    stream = io.StringIO()
    export_state(path, stream)
    return stream.getvalue()


def restore(path: Path, backup: str, *, force: bool = False) -> int:
    return import_state(path, io.StringIO(backup), force=force)


def all_rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES}


async def test_a_backup_made_while_a_broker_leads_comes_back_exactly(log: SqliteLog, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert restore(copy, backup_of(log.path)) == 3
    assert all_rows(copy) == all_rows(log.path)
    restored = SqliteLog(copy)
    assert (await restored.acquire_leadership("broker-b")).number == 2
    assert await restored.load() == await log.load()
    await restored.commit(step_record(4, epoch=2))
    await restored.close()


async def test_the_header_says_what_the_backup_is(log: SqliteLog) -> None:
    header = json.loads(backup_of(log.path).splitlines()[0])
    assert header == {
        "format": "tidegate-log",
        "schema_version": SCHEMA_VERSION,
        "cluster": "demo",
        "step": 3,
        "now": START + 3,
    }


async def test_a_backup_is_of_one_moment_while_steps_go_on(log: SqliteLog, tmp_path: Path) -> None:
    async def keep_on_committing() -> None:
        for number in range(4, 200):
            await log.commit(step_record(number))

    committing = asyncio.ensure_future(keep_on_committing())
    for attempt in range(5):
        backup = await asyncio.to_thread(backup_of, log.path)
        copy = tmp_path / f"copy-{attempt}.db"
        number = restore(copy, backup)
        steps = [step.number async for step in SqliteLog(copy).steps()]
        assert steps == list(range(1, number + 1))
        models = (await SqliteLog(copy).load()).state.models
        assert models["chat"].target == number
    await committing


async def test_a_target_that_is_there_is_left_alone_unless_forced(log: SqliteLog, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    other = SqliteLog(target)
    await other.acquire_leadership("broker-b")
    await other.commit(step_record(1, model_id="other"))
    await other.close()
    with pytest.raises(LogError, match=r"target\.db is there already: .* --force"):
        restore(target, backup_of(log.path))
    assert (await other.load()).number == 1
    assert restore(target, backup_of(log.path), force=True) == 3
    assert await other.load() == await log.load()
    assert (await SqliteLog(tmp_path / "target.db.replaced").load()).number == 1


async def test_an_import_leaves_the_log_and_a_replaced_one_as_one_file_with_all_its_steps(tmp_path: Path) -> None:
    source, target = tmp_path / "log.db", tmp_path / "target" / "copy.db"
    target.parent.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        for path in (source, target):
            made = SqliteLog(path)
            await made.acquire_leadership("broker")
            stack.push_async_callback(made.close)
            await made.commit(step_record(1))
        kept = {path.name: path.read_bytes() for path in target.parent.iterdir() if path.suffix != ".lock"}
    for name, content in kept.items():  # as a broker leaves it that was killed
        (target.parent / name).write_bytes(content)
    assert "copy.db-wal" in kept
    restore(target, backup_of(source), force=True)
    assert sorted(path.name for path in target.parent.iterdir()) == ["copy.db", "copy.db.replaced"]
    with pytest.raises(LogError, match="is there already"):
        restore(target, backup_of(source))
    assert sorted(path.name for path in target.parent.iterdir()) == ["copy.db", "copy.db.replaced"]
    assert (await SqliteLog(tmp_path / "target" / "copy.db.replaced").load()).number == 1


async def test_a_damaged_log_can_be_replaced_by_its_backup(log: SqliteLog) -> None:
    backup, before = backup_of(log.path), await log.load()
    await log.close()
    os.truncate(log.path, 5000)
    assert restore(log.path, backup, force=True) == 3
    assert await log.load() == before


async def test_a_log_that_a_broker_leads_is_not_replaced(log: SqliteLog) -> None:
    with pytest.raises(LeadershipRefused, match="led by broker-a"):
        restore(log.path, backup_of(log.path), force=True)


async def test_wherever_a_backup_is_cut_off_it_is_refused_and_nothing_is_left(log: SqliteLog, tmp_path: Path) -> None:
    backup = backup_of(log.path)
    target = tmp_path / "copy.db"
    ends = [0, *(index + 1 for index, letter in enumerate(backup) if letter == "\n")][:-1]
    for end in [*ends, len(backup) - 5, len(backup) // 2]:
        with pytest.raises(LogDamaged, match=r"line [0-9]+ of the backup: .*use another copy"):
            restore(target, backup[:end])
    assert [name for name in os.listdir(tmp_path) if name.startswith("copy")] == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param('"target\\":3', '"target\\":4', "the footer does not fit", id="a value changed"),
        pytest.param('["steps",2', '["steps",9', "the footer does not fit", id="a key changed"),
        pytest.param('["steps",2', '["steps",1', "does not fit table steps", id="a key twice"),
        pytest.param('["steps",2', '["steps",2,2', "does not fit table steps", id="a value too many"),
        pytest.param('["steps",2', '["steps",[2]', "does not fit table steps", id="a list for a number"),
        pytest.param('["steps",2', f'["steps",{10**30}', "does not fit table steps", id="a number too large"),
        pytest.param('["steps",2', '["cats",2', "neither a row of a known table", id="an unknown table"),
        pytest.param('["steps",2', '["steps', "not JSON", id="not JSON"),
        pytest.param("tidegate-log", "cat-log", "line 1 of the backup: this is not a backup", id="foreign"),
    ],
)
async def test_a_changed_backup_is_refused(log: SqliteLog, tmp_path: Path, old: str, new: str, words: str) -> None:
    backup = backup_of(log.path)
    assert old in backup
    with pytest.raises(LogDamaged, match=words):
        restore(tmp_path / "copy.db", backup.replace(old, new, 1))
    assert not (tmp_path / "copy.db").exists()


async def test_something_after_the_footer_is_refused(log: SqliteLog, tmp_path: Path) -> None:
    with pytest.raises(LogDamaged, match="something follows the footer"):
        restore(tmp_path / "copy.db", backup_of(log.path) * 2)


def test_a_stream_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogDamaged, match="not text"):
        import_state(tmp_path / "copy.db", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00" * 100), encoding="utf-8"))


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        pytest.param(SCHEMA_VERSION + 1, SchemaTooNew, "upgrade Tidegate, then import", id="newer"),
        pytest.param(0, LogError, "import it with the version that made it", id="older"),
    ],
)
async def test_a_backup_of_another_version_says_what_to_do(
    log: SqliteLog, tmp_path: Path, version: int, kind: type[LogError], words: str
) -> None:
    backup = backup_of(log.path).replace(f'"schema_version":{SCHEMA_VERSION}', f'"schema_version":{version}', 1)
    with pytest.raises(kind, match=words):
        restore(tmp_path / "copy.db", backup)


async def test_a_backup_of_a_damaged_state_is_refused(log: SqliteLog) -> None:
    await log.close()
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute("UPDATE entities SET body = '{}'")
    with pytest.raises(LogDamaged, match="is not what was written"):
        backup_of(log.path)


class FakeFullDevice(io.StringIO):
    """Takes one line, then has no room."""

    def write(self, text: str, /) -> int:
        if self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def failing_tape() -> Iterator[str]:
    yield '{"format":"tidegate-log","schema_version":1}'
    raise OSError(errno.EIO, "Input/output error")


async def test_a_backup_without_room_and_one_that_cannot_be_read_blame_the_backup(
    log: SqliteLog, tmp_path: Path
) -> None:
    with pytest.raises(LogError, match=r"the backup cannot be written \(.*No space left"):
        export_state(log.path, FakeFullDevice())
    with pytest.raises(LogError, match=r"the backup cannot be read \(.*Input/output error"):
        import_state(tmp_path / "copy.db", failing_tape())


def test_a_log_that_is_not_there_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(LogUnreachable):
        backup_of(tmp_path / "log.db")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=25)
@given(
    memories=st.dictionaries(names, st.dictionaries(st.text(), json_values, max_size=3), min_size=1, max_size=4),
    words=st.text(),
    records=st.lists(json_values, max_size=3),
)
def test_whatever_was_stored_survives_storing_backup_and_restore(
    memories: dict[str, dict[str, JsonValue]], words: str, records: list[JsonValue]
) -> None:
    changes: Changes = {
        ("model", name): ModelState(name, model_spec(name), target=1, memory=memory)
        for name, memory in memories.items()
    }
    record = step_record(1, changes=changes)
    record = dataclasses.replace(record, decisions=(dataclasses.replace(record.decisions[0], words=words),))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(store_and_restore(Path(folder), record, records))


async def store_and_restore(folder: Path, record: StepRecord, records: list[JsonValue]) -> None:
    log = SqliteLog(folder / "log.db")
    await log.acquire_leadership("broker-a")
    await log.commit(record)
    await log.append("requests", records)
    await log.close()
    restore(folder / "copy.db", backup_of(log.path))
    copy = SqliteLog(folder / "copy.db")
    assert [step async for step in copy.steps()] == [record]
    assert (await copy.load()).state == BrokerState().with_changes(record.changes)
    assert [r async for r in copy.records("requests")] == records
