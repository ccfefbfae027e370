"""One log per replica, kept to a size.

The replica appends to ``REPLICA.log`` itself, with no pipe to anyone, so nobody's death can block or break it. When
the file is over its limit the broker keeps the newer half as ``REPLICA.log.1`` and empties it in place. The price:
lines written between the copy and the emptying are lost, and nothing trims while no broker runs.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path
from urllib.parse import quote


def log_path(log_dir: Path, replica_id: str) -> Path:
    return log_dir / f"{quote(replica_id, safe='')}.log"


def trim(path: Path, limit_bytes: int) -> bool:
    """Bring an overlong log under its limit; True if it was. A full disk costs the old half, never the limit."""
    try:
        if path.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    older = _older(path)
    with contextlib.suppress(OSError):
        older.unlink()
    try:
        with open(path, "rb") as file:
            file.seek(-(limit_bytes // 2), os.SEEK_END)
            file.readline()
            older.write_bytes(file.read(limit_bytes // 2))
    except OSError:
        older.unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def read_log(log_dir: Path, replica_id: str, tail_lines: int) -> list[str]:
    """The last lines that a replica wrote, oldest first; none if there is no log."""
    path = log_path(log_dir, replica_id)
    tail: deque[str] = deque(maxlen=tail_lines)
    for part in (_older(path), path):
        with contextlib.suppress(FileNotFoundError), open(part, errors="replace") as file:
            tail.extend(line.rstrip("\n") for line in file)
    return list(tail)


def delete(log_dir: Path, replica_id: str) -> None:
    path = log_path(log_dir, replica_id)
    path.unlink(missing_ok=True)
    _older(path).unlink(missing_ok=True)


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")
