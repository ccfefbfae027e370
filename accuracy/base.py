"""What every part of the report returns, and where measurements lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Figures with what they are worth: ``n`` measured numbers, ``free`` parameters fitted to them (of a prediction:
    to others). ``remarks`` say what the figures cannot."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    n: int
    free: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One part: its tables, or why there are none; ``files`` were written beside them (plots). ``headline`` holds the
    figures that are held against a target."""

    name: str
    tables: tuple[Table, ...] = ()
    skipped: str | None = None
    files: tuple[str, ...] = ()
    headline: dict[str, float] = field(default_factory=dict)


Tell = Callable[[str], None]
"""Where progress goes, a line at a time."""


def shared_path(relative: str) -> Path | None:
    """``relative`` below ``$TIDEGATE_SHARED`` (default ``../shared`` of the checkout); None if it is not there."""
    path = Path(os.environ.get("TIDEGATE_SHARED", REPOSITORY.parent / "shared")) / relative
    return path if path.exists() else None


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def known(relative_error: float) -> str:
    """A standard error, unless it is too large to speak of a value at all."""
    return percent(relative_error) if relative_error < 1 else "not known"


def skill(error: float, null: float) -> float:
    """1: perfect, 0: no better than the null, negative: worse."""
    return 1 - error / null if null else float("nan")


def median_of(errors: Sequence[float]) -> float:
    return float(np.median(np.abs(np.asarray(errors))))
