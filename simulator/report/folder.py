"""A report's folder: the page, the document, the tables."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from broker.model.errors import ConfigError
from simulator.report.document import RunReport, dumps
from simulator.report.facts import Facts
from simulator.report.page import page_of
from simulator.report.tables import has_writer, write_tables

PAGE, DOCUMENT = "index.html", "report.json"
_TABLES = tuple(f"{table}.parquet" for table in ("requests", "decisions", "replicas", "series"))

UNFINISHED = ".tidegate-report"
"""The folder in a report's folder in which all is written first; what a killed process left there is written over."""

_OURS = re.compile(rb'\s*\{\s*"schema"\s*:\s*"tidegate\.run_report/')


def require_folder(folder: Path) -> None:
    """Before the run, not after it: make ``folder`` if need be. Raises ``ConfigError`` for one that holds what is not
    ours, so that a report is never written over somebody's pages, and ``OSError``."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is no folder; --out names the folder of the report", path=str(folder))
    if folder.is_dir() and not _is_ours(folder):
        raise ConfigError("holds something that is no report; give an empty or a new folder", path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)


def write_folder(folder: Path, report: RunReport, facts: Facts) -> bool:
    """Make ``folder`` if need be and replace what an earlier report left there; whether tables were written, too, for
    which pyarrow must be there. An earlier report stays until all of this one is on the disk; its page and document go
    first then, and the new ones come last: who finds one, even after a kill, finds tables of the same run. Raises
    ``OSError`` that names the folder."""
    unfinished = folder / UNFINISHED
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with_tables = _write(unfinished, report, facts)
        for name in (PAGE, DOCUMENT):
            (folder / name).unlink(missing_ok=True)
        for name in (*_TABLES, DOCUMENT, PAGE):
            if (unfinished / name).exists():
                os.replace(unfinished / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        _sync(folder)
    except OSError as error:
        # What a write or pyarrow raises has neither a path nor, some of it, words of the system's.
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(folder)) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return with_tables


def _write(folder: Path, report: RunReport, facts: Facts) -> bool:
    with_tables = has_writer()
    if with_tables:
        write_tables(folder, facts, report.series, report.grid.bin_s)
    (folder / DOCUMENT).write_text(dumps(report), encoding="utf-8")
    (folder / PAGE).write_text(page_of(report), encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    return with_tables


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_ours(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    if any((folder / name).is_dir() for name in (*_TABLES, DOCUMENT, PAGE)):
        return False
    if DOCUMENT in names:
        with (folder / DOCUMENT).open("rb") as stream:
            return _OURS.match(stream.read(200)) is not None
    return not names or UNFINISHED in names
