"""The known trace formats: how each is recognised by its columns, and how one row of it is read.

Pure. A parser turns one line into a ``Row`` or raises ``BadRow``, which says which column, where, and why.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

from traces.schema import RequestKind

T = TypeVar("T")

Row = tuple[float, int, int, str | None, RequestKind | None]
"""(timestamp in seconds, prompt tokens, output tokens, session, kind)"""

RowParser = Callable[[str], Row]

MOST_TOKENS = 100_000_000
"""Above this a number is not a token count: contexts end at a few million, sums of a whole trace begin here."""


class BadRow(Exception):
    """One row that does not fit its format. ``position`` is the character in the line, from 1, if known."""

    def __init__(self, problem: str, *, position: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position


@dataclass(frozen=True, slots=True)
class Format:
    """A known format: ``columns`` must all be there, others are optional or ignored."""

    name: str
    columns: tuple[str, ...]
    parser: Callable[[Sequence[str]], RowParser]


# -- values -----------------------------------------------------------------------------------------------------------


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def seconds(text: str) -> float:
    """A number of seconds. Raises ``ValueError`` with words."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a number of seconds") from None
    if not math.isfinite(value):
        raise ValueError(f"{_shown(text)} is not a point in time")
    return value


def token_count(text: str) -> int:
    """A whole number of tokens, also as ``472.0``. Raises ``ValueError`` with words."""
    try:
        count = int(text)
    except ValueError:
        try:
            count = int(number) if (number := float(text)).is_integer() else -1
        except (ValueError, OverflowError):
            count = -1
        if count < 0:
            raise ValueError(f"{_shown(text)} is not a whole number of tokens of 0 or more") from None
    if count < 0:
        raise ValueError(f"{_shown(text)} is negative; token counts are 0 or more")
    if count > MOST_TOKENS:
        raise ValueError(f"{_shown(text)} is more tokens than one request can have")
    return count


_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d(?:\.\d+)?)(Z|[+-]\d\d:\d\d)?")
_EPOCH_DAY = date(1970, 1, 1).toordinal()


@functools.lru_cache(maxsize=64)
def _day_s(iso_date: str) -> float:
    return (date.fromisoformat(iso_date).toordinal() - _EPOCH_DAY) * 86400.0


def epoch_seconds(text: str) -> float:
    """Seconds since the Unix epoch of ``2023-11-16 18:15:46.6805900``, taken as UTC unless a zone follows.

    Not ``datetime``'s parser, which drops the seventh digit and costs more. Raises ``ValueError`` with words.
    """
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is not a time such as 2023-11-16 18:15:46.6805900")
    day, hour, minute, second, zone = match.groups()
    if int(hour) > 23 or int(minute) > 59 or float(second) >= 61:
        raise ValueError(f"{_shown(text)} is not a time of the day")
    try:
        start_s = _day_s(day)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a day of the calendar") from None
    east_s = 0.0
    if zone and zone != "Z":
        east_s = (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60) * (-1 if zone[0] == "-" else 1)
    return start_s + int(hour) * 3600 + int(minute) * 60 + float(second) - east_s


# -- comma-separated formats ------------------------------------------------------------------------------------------


def split(line: str) -> list[str]:
    """The fields of one line. No known format has line breaks inside quotes."""
    return line.split(",") if '"' not in line else next(csv.reader([line]))


def _csv_parser(header: Sequence[str], read: Callable[[Callable[..., Any]], Row]) -> RowParser:
    """A parser that hands ``read`` a function (column, convert) -> value, which knows where a bad value stands."""
    width = len(header)
    index_of = {name: index for index, name in enumerate(header)}

    def parse(line: str) -> Row:
        fields = split(line)
        if len(fields) != width:
            raise BadRow(f"{len(fields)} columns where the header has {width}")

        def cell(name: str, convert: Callable[[str], T]) -> T:
            index = index_of[name]
            try:
                return convert(fields[index])
            except ValueError as error:
                position = sum(len(field) + 1 for field in fields[:index]) + 1
                raise BadRow(f"{name}: {error}", position=position) from None

        return read(cell)

    return parse


_KINDS = {"conversation log": RequestKind.CONVERSATION, "api log": RequestKind.API}


def _burstgpt(header: Sequence[str]) -> RowParser:
    has_session, has_kind = "Session ID" in header, "Log Type" in header

    def read(cell: Callable[..., Any]) -> Row:
        return (
            cell("Timestamp", seconds),
            cell("Request tokens", token_count),
            cell("Response tokens", token_count),
            cell("Session ID", str.strip) or None if has_session else None,
            _KINDS.get(cell("Log Type", str.strip).lower()) if has_kind else None,
        )

    return _csv_parser(header, read)


def _azure(header: Sequence[str]) -> RowParser:
    def read(cell: Callable[..., Any]) -> Row:
        return (
            cell("TIMESTAMP", epoch_seconds),
            cell("ContextTokens", token_count),
            cell("GeneratedTokens", token_count),
            None,
            None,
        )

    return _csv_parser(header, read)


# -- JSON lines -------------------------------------------------------------------------------------------------------


def json_object(line: str) -> dict[str, Any]:
    """The object on this line. Raises ``BadRow``."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg}", position=error.colno) from None
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRow("not a JSON object")
    return value


def _mooncake(_: Sequence[str]) -> RowParser:
    def parse(line: str) -> Row:
        data = json_object(line)

        def cell(name: str, convert: Callable[[str], T]) -> T:
            try:
                if name not in data:
                    raise ValueError("missing")
                return convert(json.dumps(data[name]))
            except ValueError as error:
                raise BadRow(f"{name}: {error}", position=line.find(f'"{name}"') + 1 or None) from None

        timestamp_ms = cell("timestamp", seconds)
        return timestamp_ms / 1000, cell("input_length", token_count), cell("output_length", token_count), None, None

    return parse


FORMATS = (
    Format("BurstGPT", ("Timestamp", "Request tokens", "Response tokens"), _burstgpt),
    Format("Azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure),
)
MOONCAKE = Format("Mooncake", ("timestamp", "input_length", "output_length"), _mooncake)

KNOWN_FORMATS = "\n".join(
    [f"  {known.name}: CSV with the columns {', '.join(known.columns)}" for known in FORMATS]
    + [f"  {MOONCAKE.name}: one JSON object a line with {', '.join(MOONCAKE.columns)}"]
)


def recognise(first_line: str) -> tuple[Format, RowParser, bool]:
    """The format of a file that begins with this line, its parser, and whether the line is a header.

    Raises ``BadRow`` that lists the known formats.
    """
    if first_line.lstrip().startswith("{"):
        data = json_object(first_line)
        if set(MOONCAKE.columns) <= data.keys():
            return MOONCAKE, MOONCAKE.parser(()), False
        found = list(data)
    else:
        found = [name.strip() for name in split(first_line)]
        for known in FORMATS:
            if set(known.columns) <= set(found):
                return known, known.parser(found), True
    raise BadRow(f"no known format has the columns {_shown(', '.join(found))}. Known formats:\n{KNOWN_FORMATS}")
