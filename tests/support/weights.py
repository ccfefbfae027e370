"""Files that stand for a model's weights, in a node's memory or not."""

from __future__ import annotations

import os
from pathlib import Path


def write_weights(path: Path, mebibytes: int = 1) -> Path:
    """They lie in memory then, as all that was just written."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(mebibytes * 2**20))
    return path


def evict(path: Path) -> bool:
    """Out of memory with it; False where its file system keeps it there (a tmpfs)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError:  # it has no other place to read from, so that there is no waiting
            return False
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True
