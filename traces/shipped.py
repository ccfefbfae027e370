"""Profiles as JSON files: those of a package, which ship with Tidegate, and one's own."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from broker.model.errors import ConfigError, WireError
from broker.model.wire import decode

T = TypeVar("T")


def shipped_names(package: str) -> list[str]:
    return sorted(
        entry.name.removesuffix(".json") for entry in files(package).iterdir() if entry.name.endswith(".json")
    )


def load_shipped(kind: type[T], package: str, name: str, what: str) -> T:
    """Raises ``ConfigError`` that lists those there are; ``what`` names them."""
    names = shipped_names(package)
    if name not in names:
        raise ConfigError(f"no {what} {name!r}; there are {', '.join(names)}")
    profile: T = decode(kind, json.loads((files(package) / f"{name}.json").read_text("utf-8")))
    return profile


def read_written(kind: type[T], path: Path, command: str) -> T:
    """A profile of one's own, as ``command`` wrote it. Raises ``ConfigError``."""
    try:
        profile: T = decode(kind, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, WireError) as error:
        raise ConfigError(f"is not what `{command}` writes: {error}", path=str(path)) from None
    return profile
