"""Jobs as Slurm's accounting tells of them: the output of one ``sacct`` command (``COMMAND``), read as a stream.

Columns may come in any order and others are ignored; the last may have ``|`` in it, as names of jobs do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from broker.model.errors import TraceError, shown
from broker.model.identity import names_launch
from traces.batch.swf import BatchJob
from traces.formats import BadRow, epoch_seconds, seconds
from traces.lines import numbered_chunks
from traces.schema import ReadStatistics

COLUMNS = ("Submit", "ElapsedRaw", "TimelimitRaw", "State", "AllocTRES", "Partition", "JobName")
COMMAND = (
    "SLURM_TIME_FORMAT=%s sacct --allusers --allocations --starttime=now-90days --parsable2 "
    f"--format={','.join(COLUMNS)}"
)

_ENDED = re.compile(
    r"COMPLETED|FAILED|TIMEOUT|CANCELLED( by [0-9]+)?|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|DEADLINE|BOOT_FAIL"
)
_NO_LIMIT = frozenset(("", "UNLIMITED", "Partition_Limit"))


class Counted(StrEnum):
    """What a job's size is counted in, as ``AllocTRES`` calls it."""

    GPUS = "gres/gpu"
    CPUS = "cpu"


@dataclass(frozen=True, slots=True)
class SacctOptions:
    """``partition``: jobs of others are left out. ``skip_bad``: malformed rows are counted instead of raised."""

    counted: Counted = Counted.GPUS
    partition: str | None = None
    skip_bad: bool = False


def lines_of(path: Path) -> Iterator[bytes]:
    """Of a file, plain or gzip. Raises ``TraceError``."""
    for _, chunk in numbered_chunks(path):
        yield from chunk.splitlines(keepends=True)


def sacct_jobs(
    lines: Iterable[bytes], where: Path, options: SacctOptions, statistics: ReadStatistics
) -> Iterator[BatchJob]:
    """The jobs that ran and have ended, but for replicas of ours and those that held nothing of what is counted;
    ``submitted_s`` is in epoch seconds. ``statistics`` counts all rows, and what was left out as ``failed``.

    Raises ``TraceError`` with the line: for a bad row, and for columns that are missing.
    """
    numbered = enumerate(lines, 1)
    places = _places(next(numbered, (1, b""))[1], where)
    for number, line in numbered:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            continue
        try:
            job = _job(number, text.split("|", places["|"]), places, options)
        except BadRow as error:
            if not options.skip_bad:
                raise error.at(where, number) from None
            error.skip(number, statistics)
            continue
        statistics.rows += 1
        if job is None:
            statistics.failed += 1
        else:
            yield job


def _places(header: bytes, where: Path) -> dict[str, int]:
    """The place of each column, and of ``|`` the number of bars in a row."""
    names = header.decode("utf-8", "replace").rstrip("\r\n").split("|")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise TraceError(f"no column {', '.join(missing)}; this is read: {COMMAND}", path=str(where), line=1)
    return {name: names.index(name) for name in COLUMNS} | {"|": len(names) - 1}


def _job(number: int, cells: list[str], places: dict[str, int], options: SacctOptions) -> BatchJob | None:
    """None for one that is left out. Raises ``BadRow``."""
    if len(cells) != places["|"] + 1:
        raise BadRow(f"{len(cells)} columns where the header has {places['|'] + 1}")

    def cell(name: str) -> str:
        return cells[places[name]]

    if options.partition not in (None, cell("Partition")) or names_launch(cell("JobName")):
        return None
    held = re.search(rf"(?:^|,){re.escape(options.counted)}=(\d+)(?:,|$)", cell("AllocTRES"))
    if held is None or not int(held[1]) or not _ENDED.fullmatch(cell("State")):
        return None
    return BatchJob(
        job_id=number,
        submitted_s=_value(cell("Submit"), "Submit"),
        wait_s=None,
        run_s=_value(cell("ElapsedRaw"), "ElapsedRaw"),
        processors=int(held[1]),
        requested_s=None if cell("TimelimitRaw") in _NO_LIMIT else 60.0 * _value(cell("TimelimitRaw"), "TimelimitRaw"),
        status=None,
        user=None,
        queue=None,
        partition=None,
    )


def _value(text: str, name: str) -> float:
    """Seconds, of a time since the epoch. Raises ``BadRow``."""
    try:
        value = epoch_seconds(text) if name == "Submit" and "-" in text else seconds(text)
    except ValueError as error:
        raise BadRow(f"{name}: {error}") from None
    if value < 0:
        raise BadRow(f"{name}: {shown(text)} is negative")
    return value
