"""Profiles that ship with Tidegate as JSON files of a package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TypeVar

from broker.model.errors import ConfigError
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
