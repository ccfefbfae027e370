"""``python -m accuracy [--list] [--json] [--write FILE] [NAME ...]``: how well the simulator agrees with measurements.

Tables go to standard output as Markdown, or with --json as one document; progress to standard error. Exit status 1 if
nothing could be judged because the measurements are not there.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import accuracy
from accuracy.base import Cell, Report, Table

MARK = "<!-- From here on: python -m accuracy --write docs/accuracy.md -->"


def names() -> list[str]:
    return sorted(
        module.name.removeprefix("acc_")
        for module in pkgutil.iter_modules(accuracy.__path__)
        if module.name.startswith("acc_")
    )


def markdown(reports: Sequence[Report]) -> str:
    """All tables, each with its n, its free parameters and its remarks."""
    return "\n".join(part for report in reports for part in _chapter(report))


def _chapter(report: Report) -> list[str]:
    module = importlib.import_module(f"accuracy.acc_{report.name}")
    parts = [f"## {report.name}", "", " ".join((module.__doc__ or "").split()), ""]
    if report.skipped is not None:
        return [*parts, f"Skipped: {report.skipped}.", ""]
    for table in report.tables:
        parts += _table(table)
    if report.files:
        parts += [f"Plot: `{', '.join(report.files)}` (written by the command).", ""]
    return parts


def _table(table: Table) -> list[str]:
    parts = [f"### {table.title}", "", f"n = {table.n}, free parameters = {table.free}.", ""]
    parts += [_row(table.columns), _row(["---"] * len(table.columns)), *(_row(row) for row in table.rows), ""]
    if table.remarks:
        parts += [*(f"- {remark}" for remark in table.remarks), ""]
    return parts


def _row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |"


def write(path: Path, text: str) -> None:
    """Replace what stands behind the mark."""
    kept = path.read_text(encoding="utf-8").partition(MARK)[0]
    path.write_text(f"{kept}{MARK}\n\n{text.rstrip()}\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which parts (default: all)")
    parser.add_argument("--list", action="store_true", help="name all parts, run none")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this page, behind its mark")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(names())):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(names())}")
    reports = []
    for name in arguments.names or names():
        module = importlib.import_module(f"accuracy.acc_{name}")
        if arguments.list:
            print(f"{name:12} {(module.__doc__ or '').strip().splitlines()[0]}")
            continue
        reports.append(module.run(lambda words: print(words, file=sys.stderr, flush=True)))
    if arguments.list:
        return 0
    text = markdown(reports)
    print(json.dumps([dataclasses.asdict(report) for report in reports], indent=2) if arguments.json else text)
    if arguments.write is not None:
        write(arguments.write, text)
    for report in reports:
        if report.skipped is not None:
            print(f"{report.name}: skipped, {report.skipped}", file=sys.stderr)
    return int(all(report.skipped is not None for report in reports))


if __name__ == "__main__":
    sys.exit(main())
