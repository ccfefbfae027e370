"""``open_trace``: any known trace file as requests in order of arrival, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from broker.model.errors import TraceError
from traces.blocks import Names, RequestBlock
from traces.formats import KNOWN_FORMATS, BadRow, Columns, Format, recognise, text_of
from traces.lines import first_line, numbered_chunks
from traces.ordering import NumberedBlock, in_order
from traces.schema import ReadStatistics, Requests


def open_trace(path: str | Path, *, skip_bad: bool = False) -> TraceReader:
    """The requests of ``path``, plain or gzip: BurstGPT, Azure, Mooncake or a request log, recognised by their columns.

    With ``skip_bad`` malformed rows are counted instead of raised. Raises ``TraceError`` with file, line and column:
    here if the file is not a trace at all, while iterating for a bad row or damaged data.
    """
    return TraceReader(Path(path), skip_bad)


class TraceReader(Requests):
    """One trace file. Each reading starts at its beginning and begins new ``statistics``.

    Failed requests are yielded too, flagged, so that they keep their place in the counts: see ``replayable``.
    """

    def __init__(self, path: Path, skip_bad: bool) -> None:
        super().__init__(self._read, Names("models"), Names("tenants"))
        self.path = path
        self.skip_bad = skip_bad
        self.statistics = ReadStatistics()
        self.format, self._header = self._recognise()

    def _recognise(self) -> tuple[Format, Sequence[str] | None]:
        line = first_line(self.path)
        if line is None:
            raise TraceError(f"the file is empty. Known formats:\n{KNOWN_FORMATS}", path=str(self.path))
        try:
            return recognise(text_of(line))
        except BadRow as error:
            raise error.at(self.path, 1) from None

    def _read(self) -> Iterator[RequestBlock]:
        statistics = self.statistics = ReadStatistics()

        def refuse(number: int, error: BadRow) -> None:
            self._skip(number, error, statistics)

        rows = self._numbered(statistics)
        for block in in_order(rows, lambda number, problem: refuse(number, BadRow(problem))):
            if statistics.began_at is None:
                statistics.began_at = float(block.arrival_s[0])
            statistics.rows += len(block)
            statistics.failed += int((block.output_tokens == 0).sum())
            yield block.at(block.arrival_s - statistics.began_at)
        if statistics.rows == 0:
            problem = f"none of {statistics.bad} rows is readable; the first: {statistics.first_bad}"
            raise TraceError(problem if statistics.bad else "holds no rows after its header", path=str(self.path))

    def _numbered(self, statistics: ReadStatistics) -> Iterator[NumberedBlock]:
        read = self.format.reader(self._header or (), Columns(self.models, self.tenants))
        for number, chunk in numbered_chunks(self.path):
            if number == 1 and self._header is not None:
                number, chunk = 2, chunk.partition(b"\n")[2]
            if chunk:
                yield read(number, chunk, lambda line, error: self._skip(line, error, statistics))

    def _skip(self, number: int, error: BadRow, statistics: ReadStatistics) -> None:
        if not self.skip_bad:
            raise error.at(self.path, number) from None
        error.skip(number, statistics)
