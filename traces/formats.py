"""The known trace formats: how each is recognised by its columns, and how its rows are read.

Pure. A chunk of lines becomes a block of columns; a row that cannot be read becomes a ``BadRow``, which says which
column, where, and why.
"""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from broker.model.errors import TraceError, shown
from traces.blocks import NONE, Bools, Ints, Names, RequestBlock, request_block
from traces.columns import (
    FARTHEST_ZONE_H,
    Cells,
    Lines,
    cells_of,
    coded,
    dates,
    decimals,
    lines_of,
    text_number,
    text_numbers,
    whole_numbers,
)
from traces.options import RequestKind
from traces.prefixes import PrefixGroups
from traces.schema import KINDS, ReadStatistics

T = TypeVar("T")


class Row(NamedTuple):
    """One row; ``timestamp`` in seconds, codes as in a ``RequestBlock``."""

    timestamp: float
    prompt_tokens: int
    output_tokens: int
    session: int = NONE
    kind: int = NONE
    model: int = NONE
    tenant: int = NONE
    prefix_group: int = NONE
    prefix_tokens: int = 0


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

    def at(self, path: Path, line: int) -> TraceError:
        return TraceError(self.problem, path=str(path), line=line, column=self.position)

    def skip(self, line: int, statistics: ReadStatistics) -> None:
        """Count the row instead of refusing the file."""
        statistics.bad += 1
        if not statistics.first_bad:
            where = f"{line}:{self.position}" if self.position else f"{line}"
            statistics.first_bad = f"line {where}: {self.problem}"


Refuse = Callable[[int, BadRow], None]
"""Told the line number of a row that cannot be read."""


class ChunkReader(Protocol):
    """Reads one pass of a file, chunk by chunk."""

    def __call__(self, number: int, chunk: bytes, refuse: Refuse) -> tuple[RequestBlock, Ints]:
        """The rows of a chunk whose first line has this ``number``, ``arrival_s`` being their timestamps, in the order
        of the file; and their line numbers."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the streams of one file share: the names behind its codes."""

    models: Names
    tenants: Names


@dataclass(frozen=True, slots=True)
class Format:
    """A known format. ``columns`` are those of time, prompt and output; all must be there, others are optional or
    ignored. ``reader`` makes the reader of one pass over a file with this header."""

    name: str
    columns: tuple[str, str, str]
    reader: Callable[[Sequence[str], Columns], ChunkReader]


# -- values -----------------------------------------------------------------------------------------------------------


def seconds(text: str) -> float:
    """A number of seconds. Raises ``ValueError`` with words."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number of seconds") from None
    if not abs(value) <= FARTHEST_S:
        raise ValueError(f"{shown(text)} is not a point in time in seconds")
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
            raise ValueError(f"{shown(text)} is not a whole number of tokens of 0 or more") from None
    if count < 0:
        raise ValueError(f"{shown(text)} is negative; token counts are 0 or more")
    if count > MOST_TOKENS:
        raise ValueError(f"{shown(text)} is more tokens than one request can have")
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
        raise ValueError(f"{shown(text)} is not a time such as 2023-11-16 18:15:46.6805900")
    minute, second, zone = match.groups()
    try:
        at = _minute_s(minute) + float(second)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a time of the calendar") from None
    if zone is None or zone == "Z":
        return at
    if int(zone[1:3]) > FARTHEST_ZONE_H or int(zone[4:6]) > 59:
        raise ValueError(f"{shown(text)} has a time zone that is nowhere")
    east_s = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return at - (east_s if zone[0] == "+" else -east_s)


def text_of(line: bytes) -> str:
    """Raises ``BadRow`` for what is not UTF-8."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8 text, so this is no trace row", position=error.start + 1) from None


# -- comma-separated formats ------------------------------------------------------------------------------------------


def split(line: str) -> list[str]:
    """The fields of one line. No known format has line breaks inside quotes. Raises ``BadRow``."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise BadRow(f"not comma-separated: {error}") from None


_KINDS = {
    "conversation log": KINDS.index(RequestKind.CONVERSATION),
    "api log": KINDS.index(RequestKind.API),
}


class CsvReader:
    """One pass over a file of comma-separated rows: by column where they are plainly written, by row where not."""

    def __init__(self, header: Sequence[str], columns: tuple[str, str, str], shared: Columns, dated: bool) -> None:
        self._header = header
        self._time, self._prompt, self._output = (header.index(column) for column in columns)
        self._optional = {
            name: header.index(column)
            for name, column in (("session", "Session ID"), ("kind", "Log Type"), ("model", "Model"))
            if column in header
        }
        self._dated = dated
        self._known: dict[str, dict[int, int]] = {"kind": {}, "model": {}}
        self._models = shared.models

    def __call__(self, number: int, chunk: bytes, refuse: Refuse) -> tuple[RequestBlock, Ints]:
        lines = lines_of(chunk)
        block, read = self._plain(lines)
        for row in np.flatnonzero(~read).tolist():
            try:
                values = self._row(text_of(lines.line(row).rstrip(b"\r")))
            except BadRow as error:
                refuse(number + int(lines.index[row]), error)
                continue
            _put(block, row, values)
            read[row] = True
        numbers = number + lines.index
        return (block, numbers) if read.all() else (block.take(read), numbers[read])

    def _plain(self, lines: Lines) -> tuple[RequestBlock, Bools]:
        """A block with a row for each line, and which of them have been read."""
        cells = cells_of(lines, len(self._header))
        at, valid = (dates if self._dated else decimals)(lines.bytes_, *cells.slices(self._time))
        valid &= at <= FARTHEST_S
        prompt, written = whole_numbers(cells, self._prompt, MOST_TOKENS)
        valid &= written
        output, written = whole_numbers(cells, self._output, MOST_TOKENS)
        valid &= written
        columns: dict[str, Any] = {}
        for name, column in self._optional.items():
            columns[name], written = text_numbers(cells, column)
            valid &= written
            if name != "session":
                learn = functools.partial(self._learn, cells, name, column)
                columns[name] = coded(columns[name], self._known[name], learn)
        columns |= {"arrival_s": at, "prompt_tokens": prompt, "output_tokens": output}
        read = np.zeros(len(lines), dtype=np.bool_)
        read[cells.rows] = valid
        if len(cells.rows) < len(lines):
            columns = {name: _spread(column, cells.rows, len(lines)) for name, column in columns.items()}
        return request_block(**columns), read

    def _learn(self, cells: Cells, name: str, column: int, row: int) -> int:
        return self._code(name, cells.text(column, row))

    def _code(self, name: str, text: str) -> int:
        return _KINDS.get(text.lower(), NONE) if name == "kind" else self._models.code(text)

    def _row(self, line: str) -> Row:
        fields = split(line)
        if len(fields) != len(self._header):
            raise BadRow(f"{len(fields)} columns where the header has {len(self._header)}")
        column = self._time
        try:
            timestamp = (epoch_seconds if self._dated else seconds)(fields[column])
            column = self._prompt
            prompt_tokens = token_count(fields[column])
            column = self._output
            output_tokens = token_count(fields[column])
        except ValueError as error:
            position = sum(len(field) + 1 for field in fields[:column]) + 1
            raise BadRow(f"{self._header[column]}: {error}", position=position) from None
        text = {name: fields[column].strip() for name, column in self._optional.items()}
        return Row(
            timestamp,
            prompt_tokens,
            output_tokens,
            session=text_number(text.get("session", "")),
            kind=self._code("kind", text.get("kind", "")),
            model=self._code("model", text.get("model", "")),
        )


def _spread(column: Any, rows: Ints, length: int) -> Any:
    spread = np.zeros(length, dtype=column.dtype)
    spread[rows] = column
    return spread


_COLUMNS = ("arrival_s", *Row._fields[1:])


def _put(block: RequestBlock, row: int, values: Row) -> None:
    for name, value in zip(_COLUMNS, values, strict=True):
        getattr(block, name)[row] = value


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


def cell(data: dict[str, Any], line: str, name: str, convert: Callable[[str], T]) -> T:
    """One value of a JSON row. Raises ``BadRow``."""
    try:
        if name not in data:
            raise ValueError("missing")
        return convert(repr(data[name]))
    except ValueError as error:
        raise BadRow(f"{name}: {error}", position=line.find(f'"{name}"') + 1 or None) from None


class JsonReader:
    """One pass over a file of JSON lines."""

    def __init__(self, row: Callable[[str], Row]) -> None:
        self._row = row

    def __call__(self, number: int, chunk: bytes, refuse: Refuse) -> tuple[RequestBlock, Ints]:
        rows, numbers = [], []
        for offset, line in enumerate(chunk.split(b"\n")):
            if not (stripped := line.rstrip(b"\r")):
                continue
            try:
                rows.append(self._row(text_of(stripped)))
                numbers.append(number + offset)
            except BadRow as error:
                refuse(number + offset, error)
        columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
        return request_block(**dict(zip(_COLUMNS, columns, strict=True))), np.array(numbers, dtype=np.int64)


_MOONCAKE_COLUMNS = ("timestamp", "input_length", "output_length")


def _mooncake(_: Sequence[str], __: Columns) -> ChunkReader:
    groups = PrefixGroups()

    def row(line: str) -> Row:
        data = json_object(line)
        time, prompt, output = _MOONCAKE_COLUMNS
        at = cell(data, line, time, seconds) / 1000
        prompt_tokens = cell(data, line, prompt, token_count)
        output_tokens = cell(data, line, output, token_count)
        blocks = data.get("hash_ids")
        if blocks is None:
            return Row(at, prompt_tokens, output_tokens)
        if not isinstance(blocks, list) or not set(map(type, blocks)) <= {int}:
            position = line.find('"hash_ids"') + 1
            raise BadRow(f"hash_ids: {shown(blocks)} is not a list of whole numbers", position=position)
        group, shared = groups.place(blocks, prompt_tokens)
        return Row(at, prompt_tokens, output_tokens, prefix_group=group, prefix_tokens=shared)

    return JsonReader(row)


REQUEST_LOG_COLUMNS = ("at", "prompt_tokens", "output_tokens")


def _request_log(_: Sequence[str], shared: Columns) -> ChunkReader:
    def name(data: dict[str, Any], line: str, field: str) -> str:
        value = data.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise BadRow(f"{field}: {shown(value)} is not text", position=line.find(f'"{field}"') + 1)
        return value

    def row(line: str) -> Row:
        data = json_object(line)
        at, prompt, output = REQUEST_LOG_COLUMNS
        return Row(
            cell(data, line, at, seconds),
            cell(data, line, prompt, token_count),
            cell(data, line, output, token_count),
            session=text_number(name(data, line, "session")),
            model=shared.models.code(name(data, line, "model")),
            tenant=shared.tenants.code(name(data, line, "tenant")),
        )

    return JsonReader(row)


def _csv_format(name: str, columns: tuple[str, str, str], *, dated: bool) -> Format:
    """A format of comma-separated rows; ``Session ID``, ``Log Type`` and ``Model`` are read where a header has them."""
    return Format(name, columns, lambda header, shared: CsvReader(header, columns, shared, dated))


FORMATS = (
    _csv_format("BurstGPT", ("Timestamp", "Request tokens", "Response tokens"), dated=False),
    _csv_format("Azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), dated=True),
)
JSON_FORMATS = (
    Format("Mooncake", _MOONCAKE_COLUMNS, _mooncake),
    Format("request log", REQUEST_LOG_COLUMNS, _request_log),
)

KNOWN_FORMATS = "\n".join(
    [f"  {known.name}: CSV with the columns {', '.join(known.columns)}" for known in FORMATS]
    + [f"  {known.name}: one JSON object a line with {', '.join(known.columns)}" for known in JSON_FORMATS]
)


def recognise(first_line: str) -> tuple[Format, Sequence[str] | None]:
    """The format of a file that begins with this line; its header, None if the line is a row already.

    Raises ``BadRow`` that lists the known formats.
    """
    if first_line.lstrip().startswith("{"):
        found = list(json_object(first_line))
        for known in JSON_FORMATS:
            if set(known.columns) <= set(found):
                return known, None
    else:
        found = [name.strip() for name in split(first_line)]
        if twice := sorted({name for name in found if name and found.count(name) > 1}):
            raise BadRow(f"more than one column is called {shown(', '.join(twice))}: which of them counts?")
        for known in FORMATS:
            if set(known.columns) <= set(found):
                return known, found
    if {"rate_rps", "prob"} & set(found):
        raise BadRow("a ServeGen shape holds rates and histograms, no requests; name it in a scenario (docs/traces.md)")
    raise BadRow(f"no known format has the columns {shown(', '.join(found))}. Known formats:\n{KNOWN_FORMATS}")
