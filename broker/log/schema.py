"""The embedded log's file: its tables, how it is made, opened, upgraded, and what its errors mean to an operator.

A new file is built aside and renamed into place, so a file that is there was once whole: an empty one has been
truncated, and must not pass for a new log, since a broker without memory would forget its running replicas.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from broker.model.errors import LogBusy, LogDamaged, LogError, LogFull, LogUnreachable, SchemaTooNew

SCHEMA_VERSION = 1
APPLICATION_ID = 0x54494447
"""``TIDG``: tells our files from any other SQLite database."""

TABLES: Mapping[str, str] = {
    "meta": "key TEXT PRIMARY KEY, value NOT NULL",
    "entities": "sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,"
    " checksum INTEGER NOT NULL, UNIQUE (kind, id)",
    "steps": "number INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, now REAL NOT NULL, body TEXT NOT NULL,"
    " checksum INTEGER NOT NULL",
    "decisions": "sequence INTEGER PRIMARY KEY, step INTEGER NOT NULL, model_id TEXT NOT NULL, at REAL NOT NULL,"
    " body TEXT NOT NULL, checksum INTEGER NOT NULL",
    "endpoints": "endpoint_id TEXT PRIMARY KEY, body TEXT NOT NULL, checksum INTEGER NOT NULL",
    "checkpoints": "number INTEGER PRIMARY KEY, now REAL NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL",
    "records": "sequence INTEGER PRIMARY KEY, topic TEXT NOT NULL, after_step INTEGER NOT NULL, body TEXT NOT NULL,"
    " checksum INTEGER NOT NULL",
}
_INDEXES = """
CREATE INDEX steps_by_time ON steps (now);
CREATE INDEX decisions_by_step ON decisions (step);
CREATE INDEX decisions_by_time ON decisions (at);
CREATE INDEX decisions_by_model ON decisions (model_id, at);
CREATE INDEX records_by_topic ON records (topic);
"""
_NEW_META: Mapping[str, object] = {
    "schema_version": SCHEMA_VERSION,
    "epoch": 0,
    "holder": "",
    "step": 0,
    "now": 0.0,
    "trimmed": 0,
}

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: Mapping[int, Migration] = {}
"""How a file of each older version becomes one of the next; version 1 is the first."""


def create(path: Path, fill: Callable[[sqlite3.Connection], None] | None = None) -> None:
    """Make a new log at ``path``, whole or not at all; ``fill`` may put rows into it first.

    The caller holds the leader's lock. Left-overs of a file that was removed by hand go too: SQLite would take a
    foreign ``-wal`` for the new file's own.
    """
    aside = beside(path, ".new")
    discard(aside)
    with translated(path):
        connection = sqlite3.connect(aside, isolation_level=None)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            for name, columns in TABLES.items():
                connection.execute(f"CREATE TABLE {name} ({columns})")
            for statement in filter(str.strip, _INDEXES.split(";")):
                connection.execute(statement)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", _NEW_META.items())
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            if fill is not None:
                fill(connection)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            discard(aside)
            raise
        connection.close()
        discard(path)
        os.replace(aside, path)
        sync_folder(path)


def open_to_read(path: Path, *, busy_timeout_s: float = 5.0) -> sqlite3.Connection:
    """A read-only connection to a log of this version, led by anybody or nobody."""
    with translated(path):
        require_file(path)
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=busy_timeout_s
        )
        with closed_on_error(connection):
            if require_ours(connection, path) < SCHEMA_VERSION:
                raise LogError(
                    f"{path} was written by an older Tidegate, and upgrading it means writing: "
                    "start the broker on it once, then read it"
                )
        return connection


def open_to_write(path: Path, *, busy_timeout_s: float = 5.0) -> sqlite3.Connection:
    """The leader's connection, its file upgraded to this version. It may be used in one other thread."""
    with translated(path):
        require_file(path)
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=busy_timeout_s,
            check_same_thread=False,
        )
        with closed_on_error(connection):
            require_ours(connection, path)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {16 * 2**20}")
            upgrade(connection, path)
        return connection


def upgrade(
    connection: sqlite3.Connection,
    path: Path,
    *,
    to_version: int = SCHEMA_VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> None:
    """Bring an older file to ``to_version`` in one transaction: on any failure it stays what it was."""
    version = version_of(connection)
    if version == to_version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for older in range(version, to_version):
            if older not in migrations:
                raise LogError(f"{path} has schema version {older}, from which this Tidegate has no upgrade")
            migrations[older](connection)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (to_version,))
        connection.execute(f"PRAGMA user_version = {to_version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def require_ours(connection: sqlite3.Connection, path: Path) -> int:
    """The file's version. Raises for a foreign database and for one that a newer Tidegate wrote."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LogDamaged(
            f"{path} is an SQLite database, but not a Tidegate log: give the broker another path for its log"
        )
    version = version_of(connection)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {version}, this Tidegate knows up to {SCHEMA_VERSION}: upgrade Tidegate, "
            "or import a backup that this version made"
        )
    return version


def require_file(path: Path) -> None:
    """Raises for a missing file, a folder, and an empty file, which SQLite would take for a new database."""
    require_no_folder(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreachable(path, error) from None
    if size == 0:
        raise damaged(path, "it is empty, and no log ever is")


def require_no_folder(path: Path) -> None:
    """SQLite says of a folder that the disk fails."""
    if path.is_dir():
        raise LogUnreachable(f"{path} is a folder: name the log's file in it")


@contextlib.contextmanager
def closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the system become ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(path, error) from None
    except OSError as error:
        raise unreachable(path, error) from None


def translate(path: Path, error: sqlite3.Error) -> LogError:
    """``error`` as what, where and how to mend it. Result codes: https://sqlite.org/rescode.html."""
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return LogFull(
                f"no room left to write {path} ({error}): make room on its file system; nothing written so far is "
                "lost, and the log goes on by itself"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LogBusy(
                f"another program holds {path} locked ({error}): close it, for example an open sqlite3 shell or a "
                f"copying tool; fuser {path} names it"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, str(error))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return LogUnreachable(
                f"{path} cannot be opened or written ({error}): its user needs to read and write the file and its "
                "folder, where SQLite keeps two more files beside it"
            )
        case sqlite3.SQLITE_IOERR:
            return LogUnreachable(
                f"the disk below {path} failed ({error}): look at the kernel's messages, quotas and file size "
                "limits; what was committed before is kept"
            )
        case _:
            return LogError(f"{path}: {error}")


def damaged(path: Path, problem: str) -> LogDamaged:
    return LogDamaged(
        f"{path} is damaged: {problem}. Keep a copy, then put back a backup with "
        "`tidegate state import --force`, or move the file away to begin anew"
    )


def unreachable(path: Path, error: OSError) -> LogUnreachable:
    match error:
        case FileNotFoundError():
            mend = "no broker has run with it yet, or the path is wrong"
        case PermissionError():
            mend = "its user needs to read and write the file and its folder"
        case _:
            mend = "look at the file system it is on"
    return LogUnreachable(f"{path} cannot be reached ({error.strerror or error}): {mend}")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def discard(path: Path) -> None:
    """Remove a database and what SQLite keeps beside it."""
    path.unlink(missing_ok=True)
    discard_companions(path)


def discard_companions(path: Path) -> None:
    """Remove what SQLite keeps beside a database: a read-only connection leaves it there. The caller knows that all
    of it stands in the database itself."""
    for suffix in ("-wal", "-shm", "-journal"):
        beside(path, suffix).unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make a rename in ``path``'s folder survive a power cut."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
