"""The known trace formats: how each is recognised by its columns, and how one row of it is read.

Pure. A parser turns one line into a ``Row`` or raises ``BadRow``, which says which column, where, and why.
"""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from traces.schema import RequestKind

T = TypeVar("T")

Row = tuple[float, int, int, str | None, RequestKind | None]
"""(timestamp in seconds, prompt tokens, output tokens, session, kind)"""

RowParser = Callable[[str], Row]

MOST_TOKENS = 100_000_000
"""Above this a number is not a token count: contexts end at a few million, sums of a whole trace begin here."""

FARTHEST_S = 1e12
"""Times beyond this are in another unit (the epoch in microseconds is above 1e15) or damaged."""


class BadRow(Exception):
    """One row that does not fit its format. ``position`` is the character in the line, from 1, if known."""

    def __init__(self, problem: str, *, position: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position


@dataclass(frozen=True, slots=True)
class Format:
    """A known format. ``columns`` are those of time, prompt and output; all must be there, others are optional or
    ignored. ``parser`` makes a row parser for a file with this header."""

    name: str
    columns: tuple[str, str, str]
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
    if not abs(value) <= FARTHEST_S:
        raise ValueError(f"{_shown(text)} is not a point in time in seconds")
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


_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d):(\d\d(?:\.\d+)?)(Z|[+-]\d\d:\d\d)?")


@functools.lru_cache(maxsize=64)
def _minute_s(minute: str) -> float:
    return datetime.fromisoformat(minute).replace(tzinfo=UTC).timestamp()


def epoch_seconds(text: str) -> float:
    """Seconds since the Unix epoch of ``2023-11-16 18:15:46.6805900``, taken as UTC unless a zone follows.

    ``datetime`` reads the minute only: it would drop the seventh digit. Raises ``ValueError`` with words.
    """
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is not a time such as 2023-11-16 18:15:46.6805900")
    minute, second, zone = match.groups()
    try:
        at = _minute_s(minute) + float(second)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a time of the calendar") from None
    if zone is None or zone == "Z":
        return at
    east_s = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return at - (east_s if zone[0] == "+" else -east_s)


# -- comma-separated formats ------------------------------------------------------------------------------------------


def split(line: str) -> list[str]:
    """The fields of one line. No known format has line breaks inside quotes. Raises ``BadRow``."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise BadRow(f"not comma-separated: {error}") from None


_KINDS = {"conversation log": RequestKind.CONVERSATION, "api log": RequestKind.API}


def _csv_format(name: str, columns: tuple[str, str, str], to_seconds: Callable[[str], float]) -> Format:
    """A format of comma-separated rows; ``Session ID`` and ``Log Type`` are read where a header has them."""

    def parser(header: Sequence[str]) -> RowParser:
        width = len(header)
        time, prompt, output = (header.index(column) for column in columns)
        session = header.index("Session ID") if "Session ID" in header else None
        kind = header.index("Log Type") if "Log Type" in header else None

        def parse(line: str) -> Row:
            fields = split(line)
            if len(fields) != width:
                raise BadRow(f"{len(fields)} columns where the header has {width}")
            column = time
            try:
                timestamp = to_seconds(fields[column])
                column = prompt
                prompt_tokens = token_count(fields[column])
                column = output
                output_tokens = token_count(fields[column])
            except ValueError as error:
                position = sum(len(field) + 1 for field in fields[:column]) + 1
                raise BadRow(f"{header[column]}: {error}", position=position) from None
            return (
                timestamp,
                prompt_tokens,
                output_tokens,
                None if session is None else fields[session].strip() or None,
                None if kind is None else _KINDS.get(fields[kind].strip().lower()),
            )

        return parse

    return Format(name, columns, parser)


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


_MOONCAKE_COLUMNS = ("timestamp", "input_length", "output_length")


def _mooncake(_: Sequence[str]) -> RowParser:
    def parse(line: str) -> Row:
        data = json_object(line)

        def cell(name: str, convert: Callable[[str], T]) -> T:
            try:
                if name not in data:
                    raise ValueError("missing")
                return convert(repr(data[name]))
            except ValueError as error:
                raise BadRow(f"{name}: {error}", position=line.find(f'"{name}"') + 1 or None) from None

        time, prompt, output = _MOONCAKE_COLUMNS
        return cell(time, seconds) / 1000, cell(prompt, token_count), cell(output, token_count), None, None

    return parse


FORMATS = (
    _csv_format("BurstGPT", ("Timestamp", "Request tokens", "Response tokens"), seconds),
    _csv_format("Azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), epoch_seconds),
)
MOONCAKE = Format("Mooncake", _MOONCAKE_COLUMNS, _mooncake)

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
