"""Fitted load profiles: parameters with their provenance, never rows of the data they were fitted to."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from broker.model.errors import ConfigError, WireError
from broker.model.wire import decode
from traces.generate import LoadProfile


def profile_names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


def load_profile(name: str) -> LoadProfile:
    """A profile that ships with Tidegate. Raises ``ConfigError`` that lists them."""
    if name not in profile_names():
        raise ConfigError(f"no load profile {name!r}; there are {', '.join(profile_names())}")
    profile: LoadProfile = decode(LoadProfile, json.loads((files(__name__) / f"{name}.json").read_text("utf-8")))
    return profile


def read_profile(path: Path) -> LoadProfile:
    """A profile of one's own, as ``tidegate trace fit`` writes it. Raises ``ConfigError``."""
    try:
        profile: LoadProfile = decode(LoadProfile, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, WireError) as error:
        raise ConfigError(f"is not what `tidegate trace fit` writes: {error}", path=str(path)) from None
    return profile
