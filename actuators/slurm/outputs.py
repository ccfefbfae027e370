"""Where jobs write, and what they wrote, for who reads it on a machine that sees the folder."""

from __future__ import annotations

import errno
import io
import os
import re
from collections import deque
from pathlib import Path

LAST_BYTES = 16 * 2**20


def output_pattern(directory: str, replica_id: str) -> str:
    """As Slurm takes it: ``%j`` is the job's id."""
    return f"{directory}/{replica_id}-%j.out"


def written_output(directory: Path, replica_id: str) -> Path | None:
    """The output of the replica's job, ended or not; of several, which only a state that was lost could be the cause
    of, the newest job's. Raises ``OSError`` for a folder that cannot be read."""
    named = re.compile(re.escape(replica_id) + r"-([0-9]+)\.out")
    found = {int(match[1]): path for path in directory.iterdir() if (match := named.fullmatch(path.name))}
    return found[max(found)] if found else None


def last_lines(path: Path, count: int) -> list[str]:
    """Of the last ``LAST_BYTES``: an engine writes for days, and some of it without the end of a line. Raises
    ``OSError``, also for what is no regular file."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
        written = io.TextIOWrapper(io.BytesIO(file.read(LAST_BYTES)), encoding="utf-8", errors="replace")
    return [line.rstrip("\n") for line in deque(written, maxlen=count)]
