"""The one way by which tests find data that is not part of the repository, and skip without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_path(relative: str) -> Path:
    """``relative`` below ``$TIDEGATE_SHARED`` (default ``../shared`` of the checkout); skips the test if absent."""
    root = Path(os.environ.get("TIDEGATE_SHARED", REPOSITORY.parent / "shared"))
    path = root / relative
    if not path.exists():
        pytest.skip(f"needs the shared data set {relative}, which is not beside this checkout")
    return path
