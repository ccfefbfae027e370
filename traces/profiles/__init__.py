"""Fitted load profiles: parameters with their provenance, never rows of the data they were fitted to."""

from __future__ import annotations

import json
from pathlib import Path

from broker.model.errors import ConfigError, WireError
from broker.model.wire import decode
from traces.generate import LoadProfile
from traces.shipped import load_shipped, shipped_names


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
    try:
        profile: LoadProfile = decode(LoadProfile, json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, WireError) as error:
        raise ConfigError(f"is not what `tidegate trace fit` writes: {error}", path=str(path)) from None
    return profile
