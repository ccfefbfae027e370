"""Small comma-separated tables of numbers, whole in memory; a bad value is named by file, line and column."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from broker.model.errors import TraceError
from traces.formats import BadRow, split, text_of
from traces.lines import numbered_chunks

_LARGEST_ROWS = 10_000_000

Cell = Callable[[str], float]
"""Reads one field. Raises ``ValueError`` with words."""


def read_table(path: Path, columns: Sequence[str], cells: Sequence[Cell]) -> list[tuple[float, ...]]:
    """These columns of every row, whatever else the file has. Raises ``TraceError``."""
    rows: list[tuple[float, ...]] = []
    places: list[int] | None = None
    for first, chunk in numbered_chunks(path):
        for number, line in enumerate(chunk.split(b"\n"), first):
            if not line.strip():
                continue
            try:
                fields = [field.strip() for field in split(text_of(line))]
                if places is None:
                    places = _places(fields, columns)
                    continue
                rows.append(tuple(_value(fields, *cell) for cell in zip(columns, places, cells, strict=True)))
            except BadRow as error:
                raise TraceError(error.problem, path=str(path), line=number, column=error.position) from None
            if len(rows) > _LARGEST_ROWS:
                raise TraceError("has more rows than such a table can have", path=str(path), line=number)
    if not rows:
        raise TraceError("holds no rows", path=str(path))
    return rows


def _places(header: Sequence[str], columns: Sequence[str]) -> list[int]:
    missing = [name for name in columns if name not in header]
    if missing:
        raise BadRow(f"no column {', '.join(missing)}; there must be {', '.join(columns)}")
    return [header.index(name) for name in columns]


def _value(fields: Sequence[str], column: str, place: int, cell: Cell) -> float:
    if place >= len(fields):
        raise BadRow(f"{column}: missing")
    try:
        return cell(fields[place])
    except ValueError as error:
        position = sum(len(field) + 1 for field in fields[:place]) + 1
        raise BadRow(f"{column}: {error}", position=position) from None


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is not a number of 0 or more")
    return value


def between(least: float, most: float, what: str) -> Cell:
    def cell(text: str) -> float:
        value = number(text)
        if not least <= value <= most:
            raise ValueError(f"{text!r} is not {what} between {least:g} and {most:g}")
        return value

    return cell


def whole(text: str) -> float:
    value = number(text)
    if not value.is_integer() or value > 1e6:
        raise ValueError(f"{text!r} is not a number that tells apart")
    return value


def one_of(words: Sequence[str]) -> Cell:
    """The place of the word among ``words``."""

    def cell(text: str) -> float:
        if text not in words:
            raise ValueError(f"{text!r} is not known; there are {' and '.join(words)}")
        return float(words.index(text))

    return cell
