"""The folder of a sweep: each cell's result as a file of its own, whole or not there. A kill loses only what ran.

DIR/sweep.lock        held while a sweep runs; says by whom
DIR/cells/KEY.json    one result, named by the digest of all that determines it
DIR/sweep.json        all of it at the end
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker.model import wire
from broker.model.errors import ConfigError, WireError
from simulator.sweep.cells import Cell, CellResult

LOCK, CELLS, SUMMARY = "sweep.lock", "cells", "sweep.json"


class SweepFolder:
    """Use it within ``opened``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def result(self, cell: Cell) -> CellResult | None:
        """What an earlier sweep left of this cell. A file that was damaged counts as none: the cell runs again."""
        try:
            result: CellResult = wire.decode(CellResult, json.loads(self._file(cell).read_text(encoding="utf-8")))
        except (OSError, ValueError, WireError):
            return None
        return result if result.cell == cell else None

    def keep(self, result: CellResult) -> None:
        """Write a result; once this returns it outlives a kill and a power failure."""
        replace_file(self._file(result.cell), json_text(wire.encode(result)).encode())

    def strangers(self, cells: list[Cell]) -> int:
        """How many results are of no cell of these: of other settings, other files or another version."""
        known = {self._file(cell).name for cell in cells}
        return sum(path.name not in known for path in (self.path / CELLS).glob("*.json"))

    def _file(self, cell: Cell) -> Path:
        return self.path / CELLS / f"{cell.key}.json"


@contextmanager
def opened(path: Path) -> Iterator[SweepFolder]:
    """The folder, made if it is missing, for one sweep at a time. Raises ``ConfigError`` for one that is in use, cannot
    be used, or holds other things."""
    try:
        if path.is_dir() and not (path / LOCK).exists() and any(path.iterdir()):
            raise ConfigError(
                "holds other things than a sweep; name an empty or a new folder with --out", path=str(path)
            )
        (path / CELLS).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot be used: {error.strerror or error}", path=str(path)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
            raise ConfigError(
                f"a sweep is at work here: {who}. Wait for it, stop it, or name another folder with --out",
                path=str(path),
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds, and whose it is goes untold
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield SweepFolder(path)
    finally:
        os.close(descriptor)


def json_text(data: Any) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def replace_file(path: Path, content: bytes) -> None:
    """The whole new content or the old one, whatever happens meanwhile. Only one process writes in the folder, so one
    name for the unfinished file is enough."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None  # of a full disk the system names no file
