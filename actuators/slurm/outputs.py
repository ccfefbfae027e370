"""Where jobs write, and what they wrote, for who reads it on a machine that sees the folder."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path


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
    """Raises ``OSError``."""
    with path.open(errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]
