"""Which Tidegate this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version, ``0`` from a bare source tree."""
    try:
        return version("tidegate")
    except PackageNotFoundError:
        return "0"
