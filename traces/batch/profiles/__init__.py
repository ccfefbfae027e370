"""Fitted profiles of batch logs: parameters with their provenance, never rows of the data they were fitted to."""

from __future__ import annotations

import json
from importlib.resources import files

from broker.model.errors import ConfigError
from broker.model.wire import decode
from traces.batch.generate import BatchProfile


def batch_profile_names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".json") for entry in files(__name__).iterdir() if entry.name.endswith(".json")
    )


def load_batch_profile(name: str) -> BatchProfile:
    """A profile that ships with Tidegate. Raises ``ConfigError`` that lists them."""
    if name not in batch_profile_names():
        raise ConfigError(f"no batch profile {name!r}; there are {', '.join(batch_profile_names())}")
    profile: BatchProfile = decode(BatchProfile, json.loads((files(__name__) / f"{name}.json").read_text("utf-8")))
    return profile
