"""What determines a cell of a sweep, as the JSON data that its key is made of."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

import broker.control
import policies
import signals
import simulator
import traces
from simulator.sweep.inputs import InputFile, read_input


class Inputs:
    """The files that a sweep names, each digested once however many cells read it."""

    def __init__(self) -> None:
        self._read: dict[Path, InputFile] = {}

    def file(self, path: Path) -> InputFile:
        """Raises ``ConfigError`` for a file that cannot be read."""
        if path not in self._read:
            self._read[path] = read_input(path)
        return self._read[path]

    def plain(self, value: Any) -> Any:
        """``value`` as JSON data; a path stands as the digest of what the file holds."""
        match value:
            case Path():
                return self.file(value).digest
            case Enum():
                return value.value
            case np.ndarray():
                return value.tolist()
            case Mapping():
                return {str(key): self.plain(inner) for key, inner in value.items()}
            case list() | tuple():
                return [self.plain(inner) for inner in value]
            case _ if dataclasses.is_dataclass(value):
                inside = {field.name: self.plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
                return {"class": type(value).__name__, **inside}
        return value

    def files_of(self, value: Any) -> tuple[InputFile, ...]:
        """Those whose paths stand anywhere in ``value``."""
        match value:
            case Path():
                return (self.file(value),)
            case Mapping():
                return self.files_of(tuple(value.values()))
            case list() | tuple():
                return tuple(file for inner in value for file in self.files_of(inner))
            case _ if dataclasses.is_dataclass(value):
                return self.files_of(tuple(getattr(value, field.name) for field in dataclasses.fields(value)))
        return ()


def code_digest() -> str:
    """Of all that computes: whoever works on Tidegate must not be shown the results of yesterday's code."""
    digest = hashlib.sha256()
    for package in (broker.control, policies, signals, simulator, traces):
        folder = Path(str(package.__file__)).parent
        for path in sorted(one for kind in ("py", "yaml", "json") for one in folder.rglob(f"*.{kind}")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
