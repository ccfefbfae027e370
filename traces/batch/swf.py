"""The Standard Workload Format of the Parallel Workloads Archive: one job a line, 18 numbers, -1 for unknown
(https://www.cs.huji.ac.il/labs/parallel/workload/swf.html). A stream: memory does not grow with the file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.model.errors import TraceError
from traces.formats import FARTHEST_S, BadRow
from traces.lines import numbered_chunks
from traces.schema import ReadStatistics

FIELDS = (
    "job number", "submit time", "wait time", "run time", "allocated processors", "average CPU time", "used memory",
    "requested processors", "requested time", "requested memory", "status", "user", "group", "executable", "queue",
    "partition", "preceding job", "think time",
)  # fmt: skip
_WHOLE = frozenset((0, 4, 7, 10, 11, 12, 14, 15))
_MOST = float(2**53)

_LOOK_AHEAD_ROWS = 1024
"""So many rows are read before one is given out: who stops at a row far ahead must be told of a clock that jumped."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One job of a log; None where the log does not say.

    ``submitted_s`` counts from the log's start, ``status`` is 1 for completed, 0 for failed, 5 for cancelled.
    ``processors`` are those allocated, else those requested; None for a job that never ran.
    """

    job_id: int
    submitted_s: float
    wait_s: float | None
    run_s: float | None
    processors: int | None
    requested_s: float | None
    status: int | None
    user: int | None
    queue: int | None
    partition: int | None


def open_batch_log(path: str | Path, *, skip_bad: bool = False) -> BatchLog:
    """The jobs of ``path``, plain or gzip. With ``skip_bad`` malformed rows are counted instead of raised, and so
    are those out of order: of a clock that jumps there and back only the rows that jumped.

    Raises ``TraceError`` with file, line and column: here if the file cannot be read or is no such log, while
    iterating for a bad row or damaged data.
    """
    return BatchLog(Path(path), skip_bad)


class BatchLog:
    """One log. Each iteration reads it anew and begins new ``statistics``. ``header`` has the comments of the form
    ``; Name: value`` before the first job; the statistics' ``failed`` counts jobs that never ran."""

    def __init__(self, path: Path, skip_bad: bool) -> None:
        self.path = path
        self.skip_bad = skip_bad
        self.statistics = ReadStatistics()
        self.header: Mapping[str, str] = self._read_header()

    @property
    def began_at(self) -> float | None:
        """The log's second 0 in epoch seconds, None if its header does not say. Raises ``TraceError``."""
        return self._header_number("UnixStartTime")

    @property
    def processors(self) -> int:
        """The machine's size. Raises ``TraceError`` if the header does not say."""
        size = self._header_number("MaxProcs") or self._header_number("MaxNodes")
        if not size:
            raise TraceError("the header has neither MaxProcs nor MaxNodes, the machine's size", path=str(self.path))
        return int(size)

    def __iter__(self) -> Iterator[BatchJob]:
        statistics = self.statistics = ReadStatistics(began_at=self.began_at)
        for job in self._in_order(statistics):
            statistics.rows += 1
            statistics.failed += job.run_s is None or job.processors is None
            yield job
        if statistics.rows == 0:
            problem = f"none of {statistics.bad} rows is readable; the first: {statistics.first_bad}"
            raise TraceError(problem if statistics.bad else "holds no jobs", path=str(self.path))

    def _in_order(self, statistics: ReadStatistics) -> Iterator[BatchJob]:
        ahead = _Ahead()
        latest_s = -math.inf
        for number, job in self._jobs(statistics):
            back_s = ahead.add(number, job)
            if back_s > 0 and not self.skip_bad:
                problem = f"submitted {back_s:g} s before the row above; sort the file by its second column"
                raise BadRow(problem).at(self.path, number)
            if len(ahead) > _LOOK_AHEAD_ROWS:
                latest_s = yield from ahead.first(latest_s, statistics)
        while len(ahead):
            latest_s = yield from ahead.first(latest_s, statistics)

    def _jobs(self, statistics: ReadStatistics) -> Iterator[tuple[int, BatchJob]]:
        for number, text in self._lines():
            if text.startswith(";"):
                continue
            try:
                job = _job(text)
            except BadRow as error:
                self._skip(number, error, statistics)
                continue
            yield number, job

    def _header_number(self, name: str) -> float | None:
        text = self.header.get(name)
        if text is None:
            return None
        try:
            return _number(text, whole=False)
        except ValueError as error:
            raise TraceError(f"header {name}: {error}", path=str(self.path)) from None

    def _read_header(self) -> dict[str, str]:
        header: dict[str, str] = {}
        for number, text in self._lines():
            if not text.startswith(";"):
                if not self.skip_bad:
                    self._check_first(number, text)
                break
            name, colon, value = text.strip("; ").partition(":")
            if colon:
                header.setdefault(name.strip(), value.strip())
        return header

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Lines that are not empty, with their numbers."""
        for first, chunk in numbered_chunks(self.path):
            for number, line in enumerate(chunk.split(b"\n"), first):
                if text := line.decode("utf-8", "replace").strip():
                    yield number, text

    def _check_first(self, number: int, text: str) -> None:
        try:
            _job(text)
        except BadRow as error:
            raise error.at(self.path, number) from None

    def _skip(self, number: int, error: BadRow, statistics: ReadStatistics) -> None:
        if not self.skip_bad:
            raise error.at(self.path, number) from None
        error.skip(number, statistics)


class _Ahead:
    """The rows that come next. ``_steps_back``: how many of them are earlier than the one above."""

    def __init__(self) -> None:
        self._rows: deque[tuple[int, BatchJob]] = deque()
        self._steps_back = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, number: int, job: BatchJob) -> float:
        """By how much the job is earlier than the row above."""
        back_s = self._rows[-1][1].submitted_s - job.submitted_s if self._rows else 0.0
        self._steps_back += back_s > 0
        self._rows.append((number, job))
        return back_s

    def first(self, latest_s: float, statistics: ReadStatistics) -> Generator[BatchJob, None, float]:
        """Give out the first row, or count it as bad where it is out of order; returns the latest time given out."""
        number, job = self._rows.popleft()
        at = job.submitted_s
        self._steps_back -= bool(self._rows) and self._rows[0][1].submitted_s < at
        if at < latest_s:
            BadRow(f"submitted {latest_s - at:g} s before a row above").skip(number, statistics)
        elif self._mostly_before(at):
            BadRow("submitted after most of the rows below it: the clock jumped there and back").skip(
                number, statistics
            )
        else:
            yield job
            return at
        return latest_s

    def _mostly_before(self, at: float) -> bool:
        """Whether most of the rows are earlier. Without a step among them none is, but the whole may be."""
        if not self._rows or (not self._steps_back and self._rows[0][1].submitted_s >= at):
            return False
        return 2 * sum(job.submitted_s < at for _, job in self._rows) > len(self._rows)


def _job(text: str) -> BatchJob:
    """Raises ``BadRow``."""
    fields = text.split()
    if len(fields) != len(FIELDS):
        raise BadRow(f"{len(fields)} columns where the Standard Workload Format has {len(FIELDS)}")
    values: list[float] = []
    for index, field in enumerate(fields):
        try:
            values.append(_number(field, whole=index in _WHOLE))
        except ValueError as error:
            raise BadRow(f"{FIELDS[index]}: {error}", position=_position(text, index)) from None
    if values[1] < 0:
        raise BadRow("submit time: a job needs one, in seconds from the log's start", position=_position(text, 1))
    allocated, requested = values[4], values[7]
    never_ran = allocated <= 0 and values[3] <= 0
    processors = -1 if never_ran else allocated if allocated > 0 else requested
    return BatchJob(
        job_id=int(values[0]),
        submitted_s=values[1],
        wait_s=_known(values[2]),
        run_s=_known(values[3]),
        processors=int(processors) if processors > 0 else None,
        requested_s=values[8] if values[8] > 0 else None,
        status=_whole(values[10]),
        user=_whole(values[11]),
        queue=_whole(values[14]),
        partition=_whole(values[15]),
    )


def _number(text: str, *, whole: bool) -> float:
    """Raises ``ValueError`` with words."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not abs(value) <= (_MOST if whole else FARTHEST_S):
        raise ValueError(f"{text[:40]!r} is out of range")
    if whole and not value.is_integer():
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return value


def _known(value: float) -> float | None:
    return value if value >= 0 else None


def _whole(value: float) -> int | None:
    return int(value) if value >= 0 else None


def _position(text: str, index: int) -> int:
    """Where column ``index`` begins in the line, from 1."""
    at = 0
    for field in text.split()[: index + 1]:
        at = text.index(field, at) + len(field)
    return at - len(text.split()[index]) + 1
