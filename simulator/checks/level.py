"""How much is asked after each step of a simulated run."""

from __future__ import annotations

from enum import StrEnum


class CheckLevel(StrEnum):
    """CHEAP: what costs nothing at a step that plans nothing. FULL: everything, at every step."""

    CHEAP = "cheap"
    FULL = "full"
