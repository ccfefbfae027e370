"""The files that a sweep's runs read: known by the digests of their content, and noticed when they change meanwhile."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from broker.model.errors import ConfigError

Stamp: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class InputFile:
    """``stamp``: device, inode, size and time of change (ns) when ``digest`` (SHA-256) was taken."""

    path: Path
    digest: str
    stamp: Stamp

    def require_unchanged(self) -> None:
        """Raises ``ConfigError`` for a file that is no longer the one whose digest was taken. Content is not read
        again: a trace has gigabytes, and there is a cell every second."""
        try:
            now = _stamp(self.path.stat())
        except OSError:
            now = None
        if now != self.stamp:
            raise ConfigError("the file changed while the sweep ran; run the sweep again", path=str(self.path))


def read_input(path: Path) -> InputFile:
    """Raises ``ConfigError`` for a file that cannot be read, or changes while it is."""
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from None
    found = InputFile(path, digest, _stamp(before))
    found.require_unchanged()
    return found


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
