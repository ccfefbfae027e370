"""The log's file: made whole, upgraded in one piece, refused with words when it is not ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.log.schema import (
    SCHEMA_VERSION,
    create,
    discard,
    open_to_read,
    open_to_write,
    require_ours,
    translate,
    upgrade,
    version_of,
)
from broker.model.errors import LogBusy, LogDamaged, LogError, LogFull, LogUnreachable, SchemaTooNew


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    create(path)
    return path


def test_a_new_file_is_in_wal_mode_shrinks_by_steps_and_is_ours(path: Path) -> None:
    with closing(open_to_write(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert require_ours(connection, path) == SCHEMA_VERSION
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["log.db"]


def test_a_file_that_fails_to_be_made_is_not_there(tmp_path: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(LogError, match="no such table"):
        create(tmp_path / "log.db", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_does_not_take_up_the_wal_of_one_that_was_removed_by_hand(path: Path) -> None:
    connection = open_to_write(path)
    connection.execute("UPDATE meta SET value = 99 WHERE key = 'epoch'")
    wal = path.with_name("log.db-wal").read_bytes()
    connection.close()
    discard(path)
    path.with_name("log.db-wal").write_bytes(wal)
    create(path)
    with closing(open_to_read(path)) as reader:
        assert reader.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone() == (0,)


def test_an_older_file_is_upgraded_version_by_version(path: Path) -> None:
    def to_second(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE steps ADD COLUMN site TEXT NOT NULL DEFAULT 'here'")

    def to_third(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")

    with closing(open_to_write(path)) as connection:
        upgrade(connection, path, to_version=3, migrations={1: to_second, 2: to_third})
        assert version_of(connection) == 3
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == (3,)
        assert connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone() == (1,)
        assert connection.execute("SELECT site FROM steps").fetchall() == []


def test_an_upgrade_that_fails_leaves_the_older_file_as_it_was(path: Path) -> None:
    def to_second(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE records")

    def to_third(connection: sqlite3.Connection) -> None:
        raise LogDamaged("half-way")

    with closing(open_to_write(path)) as connection:
        with pytest.raises(LogDamaged, match="half-way"):
            upgrade(connection, path, to_version=3, migrations={1: to_second, 2: to_third})
        assert version_of(connection) == 1
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)


def test_a_version_without_an_upgrade_is_refused(path: Path) -> None:
    set_version(path, 0)
    with pytest.raises(LogError, match="schema version 0, from which this Tidegate has no upgrade"):
        open_to_write(path)


def test_reading_an_older_file_says_what_upgrades_it(path: Path) -> None:
    set_version(path, 0)
    with pytest.raises(LogError, match="start the broker on it once"):
        open_to_read(path)


def test_a_newer_file_is_refused_for_reading_and_writing(path: Path) -> None:
    set_version(path, SCHEMA_VERSION + 1)
    for opening in (open_to_read, open_to_write):
        with pytest.raises(SchemaTooNew, match=f"version 2, this Tidegate knows up to {SCHEMA_VERSION}: upgrade"):
            opening(path)


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cats (name)")
    with pytest.raises(LogDamaged, match="not a Tidegate log"):
        open_to_write(path)


def test_a_folder_is_called_so_and_no_failing_disk(tmp_path: Path) -> None:
    for opening in (open_to_read, open_to_write):
        with pytest.raises(LogUnreachable, match="is a folder: name the log's file in it"):
            opening(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind", "mend"),
    [
        pytest.param(sqlite3.SQLITE_FULL, LogFull, "make room", id="disk full"),
        pytest.param(sqlite3.SQLITE_BUSY, LogBusy, "another program holds", id="locked"),
        pytest.param(sqlite3.SQLITE_CORRUPT, LogDamaged, "put back a backup", id="corrupt"),
        pytest.param(sqlite3.SQLITE_READONLY, LogUnreachable, "read and write the file and its folder", id="read-only"),
        pytest.param(sqlite3.SQLITE_IOERR_FSYNC, LogUnreachable, "kernel's messages", id="disk failing"),
        pytest.param(sqlite3.SQLITE_MISUSE, LogError, "what SQLite said", id="anything else"),
    ],
)
def test_each_failure_of_sqlite_says_how_to_mend_it(code: int, kind: type[LogError], mend: str) -> None:
    error = sqlite3.OperationalError("what SQLite said")
    error.sqlite_errorcode = code
    translated = translate(Path("/var/lib/tidegate/log.db"), error)
    assert type(translated) is kind
    assert "/var/lib/tidegate/log.db" in str(translated)
    assert mend in str(translated)


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
