"""Fitted load profiles: parameters with their provenance, never rows of the data they were fitted to."""

from __future__ import annotations

from pathlib import Path

from broker.model.errors import ConfigError
from traces.generate import LoadProfile
from traces.shipped import load_shipped, read_written, shipped_names


def profile_names() -> list[str]:
    return shipped_names(__name__)


def load_profile(name: str) -> LoadProfile:
    """A profile that ships with Tidegate. Raises ``ConfigError`` that lists them."""
    if "/" in name or name.endswith(".json"):
        raise ConfigError(
            f"{name!r} is a file, and this takes a shipped profile's name; a file goes into `profile_file`"
        )
    return load_shipped(LoadProfile, __name__, name, "load profile")


def read_profile(path: str | Path) -> LoadProfile:
    """A profile of one's own, as ``tidegate trace fit`` writes it. Raises ``ConfigError``."""
    return read_written(LoadProfile, Path(path), "tidegate trace fit")
