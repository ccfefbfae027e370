"""Fitted profiles of batch logs: parameters with their provenance, never rows of the data they were fitted to."""

from __future__ import annotations

from pathlib import Path

from traces.batch.generate import BatchProfile
from traces.shipped import load_shipped, read_written, shipped_names


def batch_profile_names() -> list[str]:
    return shipped_names(__name__)


def load_batch_profile(name: str) -> BatchProfile:
    """A profile that ships with Tidegate. Raises ``ConfigError`` that lists them."""
    return load_shipped(BatchProfile, __name__, name, "batch profile")


def read_batch_profile(path: Path) -> BatchProfile:
    """A profile of one's own, as ``tidegate trace fit-slurm`` writes it. Raises ``ConfigError``."""
    return read_written(BatchProfile, path, "tidegate trace fit-slurm")
