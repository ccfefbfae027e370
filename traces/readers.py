"""``open_trace``: any known trace file as requests in order of arrival, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

from broker.model.errors import TraceError
from traces.formats import KNOWN_FORMATS, BadRow, Format, Row, RowParser, recognise
from traces.lines import numbered_lines
from traces.schema import ReadStatistics, Requests, TraceRequest

REORDER_ROWS = 4096
"""A row may stand this many rows after its place: loggers write when a request ends, which is minutes at most."""


def open_trace(path: str | Path, *, skip_bad: bool = False) -> TraceReader:
    """The requests of ``path``, plain or gzip: BurstGPT, Azure or Mooncake, recognised by their columns.

    With ``skip_bad`` malformed rows are counted instead of raised. Raises ``TraceError`` with file, line and column:
    here if the file is not a trace at all, while iterating for a bad row or damaged data.
    """
    return TraceReader(Path(path), skip_bad)


class TraceReader(Requests):
    """One trace file. Each iteration reads it anew and begins new ``statistics``.

    Failed requests are yielded too, flagged, so that they keep their place in the counts: see ``replayable``.
    """

    def __init__(self, path: Path, skip_bad: bool) -> None:
        super().__init__(self._requests)
        self.path = path
        self.skip_bad = skip_bad
        self.statistics = ReadStatistics()
        self.format, self._parse, self._has_header = self._recognise()

    def _recognise(self) -> tuple[Format, RowParser, bool]:
        for number, line in numbered_lines(self.path):
            try:
                return recognise(_text(line))
            except BadRow as error:
                self._fail(number, error)
        raise TraceError(f"the file is empty. Known formats:\n{KNOWN_FORMATS}", path=str(self.path))

    def _requests(self) -> Iterator[TraceRequest]:
        statistics = self.statistics = ReadStatistics()
        for timestamp, prompt, output, session, kind in self._in_order(self._rows(statistics), statistics):
            if statistics.began_at is None:
                statistics.began_at = timestamp
            statistics.rows += 1
            statistics.failed += output == 0
            yield TraceRequest(timestamp - statistics.began_at, prompt, output, output == 0, session, kind)
        if statistics.rows == 0:
            problem = f"none of {statistics.bad} rows is readable; the first: {statistics.first_bad}"
            raise TraceError(problem if statistics.bad else "holds no rows after its header", path=str(self.path))

    def _rows(self, statistics: ReadStatistics) -> Iterator[tuple[int, Row]]:
        parse = self._parse
        for number, line in numbered_lines(self.path):
            if not line or (number == 1 and self._has_header):
                continue
            try:
                yield number, parse(_text(line))
            except BadRow as error:
                self._skip(number, error, statistics)

    def _in_order(self, rows: Iterable[tuple[int, Row]], statistics: ReadStatistics) -> Iterator[Row]:
        """Sorts within ``REORDER_ROWS``; in two half buffers, since sorting what is nearly sorted costs little."""
        pending: list[Row] = []
        released_s = float("-inf")
        for number, row in rows:
            if row[0] < released_s:
                back_s = released_s - row[0]
                problem = f"{back_s:.6g} s before a row more than {REORDER_ROWS} rows above; sort the file by time"
                self._skip(number, BadRow(problem), statistics)
                continue
            pending.append(row)
            if len(pending) == 2 * REORDER_ROWS:
                pending.sort(key=_timestamp)
                released_s = pending[REORDER_ROWS - 1][0]
                yield from pending[:REORDER_ROWS]
                del pending[:REORDER_ROWS]
        yield from sorted(pending, key=_timestamp)

    def _skip(self, number: int, error: BadRow, statistics: ReadStatistics) -> None:
        if not self.skip_bad:
            self._fail(number, error)
        statistics.bad += 1
        if not statistics.first_bad:
            where = f"{number}:{error.position}" if error.position else f"{number}"
            statistics.first_bad = f"line {where}: {error.problem}"

    def _fail(self, number: int, error: BadRow) -> NoReturn:
        raise TraceError(error.problem, path=str(self.path), line=number, column=error.position) from None


_timestamp = itemgetter(0)


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8 text, so this is no trace row", position=error.start + 1) from None
