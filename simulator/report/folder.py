"""A report's folder: the page, the document, the tables."""

from __future__ import annotations

from pathlib import Path

from simulator.report.document import RunReport, dumps
from simulator.report.facts import Facts
from simulator.report.page import page_of
from simulator.report.tables import has_writer, write_tables

PAGE, DOCUMENT = "index.html", "report.json"


def write_folder(folder: Path, report: RunReport, facts: Facts) -> bool:
    """Make ``folder`` if need be and replace what an earlier report left there; whether tables were written, too, for
    which pyarrow must be there. The page comes last: who finds one finds all of it. Raises ``OSError``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PAGE, DOCUMENT, *(f"{table}.parquet" for table in ("requests", "decisions", "replicas", "series"))):
        (folder / name).unlink(missing_ok=True)
    with_tables = has_writer()
    if with_tables:
        write_tables(folder, facts, report.series, report.grid.bin_s)
    (folder / DOCUMENT).write_text(dumps(report), encoding="utf-8")
    (folder / PAGE).write_text(page_of(report), encoding="utf-8")
    return with_tables
