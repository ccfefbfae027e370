"""Backup of the embedded log as lines of JSON, and back.

A header (schema version, cluster, step), one line for each row of each table, a footer with the number of lines and
a CRC-32 over their text. Rows travel as they are stored, with their own checksums: what comes back is the same.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from broker.log import tables
from broker.log.codec import from_text, to_text
from broker.log.leadership import LeaderLock
from broker.log.schema import (
    SCHEMA_VERSION,
    TABLES,
    beside,
    create,
    discard,
    discard_companions,
    require_no_folder,
    translated,
)
from broker.log.sqlite import reading
from broker.model.errors import LogDamaged, LogError, SchemaTooNew, WireError

FORMAT = "tidegate-log"
_MISFIT = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)


def export_state(path: str | PathLike[str], stream: TextIO) -> int:
    """Write the log ``path`` to ``stream`` as of one moment, also while a broker leads it; returns its last step.

    Raises ``LogError`` for a log that cannot be read.
    """
    with reading(Path(path).resolve()) as connection:
        state = tables.read_state(connection)
        site = state.state.control.site
        header = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "cluster": None if site is None else site.cluster,
            "step": state.number,
            "now": state.now,
        }
        try:
            _write_sealed(_lines(header, connection), stream)
        except BrokenPipeError:  # its reader has what it wanted: the caller knows what that means
            raise
        except OSError as error:
            raise LogError(f"the backup cannot be written ({error}): write it to a place with room") from None
    return state.number


def import_state(path: str | PathLike[str], stream: Iterable[str], *, force: bool = False) -> int:
    """Make the log ``path`` from what ``export_state`` wrote; returns its last step. All of it or nothing.

    With ``force`` a log that is there is set aside as ``PATH.replaced``. Raises ``LogError`` for a target that is
    there without ``force``, ``LeadershipRefused`` if a broker leads it, ``SchemaTooNew`` for a newer backup and
    ``LogDamaged`` for one that is cut off or changed, naming the line.
    """
    target = Path(path).resolve()
    lock = LeaderLock(target, "tidegate state import")
    try:
        with translated(target):
            require_no_folder(target)
            if target.exists() and not force:
                raise LogError(f"{target} is there already: import to another path, or replace it with --force")
            aside = beside(target, ".importing")
            create(aside, lambda connection: _fill(connection, stream))
            step = _last_step(aside)
            discard_companions(aside)
            _set_aside(target)
            os.replace(aside, target)
    finally:
        lock.remove()
    return step


def _lines(header: dict[str, Any], connection: sqlite3.Connection) -> Iterator[str]:
    yield to_text(header) + "\n"
    for table in TABLES:
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):
            yield to_text([table, *row]) + "\n"


def _last_step(aside: Path) -> int:
    """Reads the whole state, so that a backup which was made of a damaged log never replaces one."""
    try:
        with reading(aside) as connection:
            return tables.read_state(connection).number
    except LogError:
        discard(aside)
        raise


def _write_sealed(lines: Iterable[str], stream: TextIO) -> None:
    count, seal = 0, 0
    for line in lines:
        stream.write(line)
        count, seal = count + 1, zlib.crc32(line.encode(), seal)
    stream.write(to_text({"lines": count, "checksum": seal}) + "\n")
    stream.flush()


def _fill(connection: sqlite3.Connection, stream: Iterable[str]) -> None:
    connection.execute("DELETE FROM meta")
    for number, table, row in _rows(stream):
        try:
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        except (sqlite3.Error, OverflowError) as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _MISFIT:
                raise
            raise _bad(number, f"the row does not fit table {table} ({error})") from None


def _rows(stream: Iterable[str]) -> Iterator[tuple[int, str, list[Any]]]:
    """The rows between header and footer: line, table, values. The footer is checked last."""
    seal, number, footer = 0, 0, None
    for number, line in enumerate(_text_lines(stream), start=1):
        if footer is not None:
            raise _bad(number, "something follows the footer")
        try:
            data = from_text(line)
        except WireError as error:
            raise _bad(number, str(error)) from None
        if number == 1:
            _require_header(data)
        elif isinstance(data, dict):
            footer = data
            if footer != {"lines": number - 1, "checksum": seal}:
                raise _bad(number, "the footer does not fit the lines before it, some are missing or changed")
        elif isinstance(data, list) and data and data[0] in TABLES:
            yield number, data[0], data[1:]
        else:
            raise _bad(number, "neither a row of a known table nor the footer")
        seal = zlib.crc32(line.encode(), seal)
    if footer is None:
        raise _bad(number + 1, "the backup ends here without its footer, it is cut off")


def _text_lines(stream: Iterable[str]) -> Iterator[str]:
    try:
        yield from stream
    except UnicodeDecodeError as error:
        raise LogDamaged(f"the backup is not text: {error}; use another copy") from None
    except OSError as error:
        raise LogError(f"the backup cannot be read ({error}): use another copy") from None


def _require_header(data: Any) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("schema_version"), int):
        raise _bad(1, "this is not a backup of a Tidegate log")
    if data["schema_version"] > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the backup has schema version {data['schema_version']}, this Tidegate knows up to {SCHEMA_VERSION}: "
            "upgrade Tidegate, then import it"
        )
    if data["schema_version"] < SCHEMA_VERSION:
        raise LogError(
            f"the backup has schema version {data['schema_version']}, this Tidegate writes {SCHEMA_VERSION}: import "
            "it with the version that made it and let this one upgrade the file"
        )


def _bad(line: int, problem: str) -> LogDamaged:
    return LogDamaged(f"line {line} of the backup: {problem}; use another copy")


def _set_aside(target: Path) -> None:
    """Move a replaced log away as one file. Of a damaged one whatever there is goes, the file itself first: a file
    without its ``-wal`` would pass for an older state."""
    discard(beside(target, ".replaced"))
    if target.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(target)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # closing the last connection then removes the rest
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(beside(target, suffix), beside(beside(target, ".replaced"), suffix))
