"""A sweep's runs as Parquet: the rows of the CSV, with kinds."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from cli.sweep_files import cell_rows, write_tables
from simulator.statistics import Days, Resampling
from simulator.sweep.cells import Candidate
from simulator.sweep.design import Setting
from simulator.sweep.document import DemandUsed, Resampled, SweepDocument
from simulator.sweep.ranking import Goal
from tests.unit.sweep.runs import result

MIXED = [
    Candidate("rules", (Setting("models.chat.max", 2), Setting("run.routing", "round-robin"))),
    Candidate("rules", (Setting("models.chat.max", 4.5), Setting("above", "2s"))),
    Candidate("plain", (Setting("above", 3),)),
]
FOUND = SweepDocument(
    (1,), (DemandUsed("calm", "all", "generated", "digest", False),), {}, 0.0, Goal(0.9, 0.9),
    Resampled.of(Resampling(Days.OWN)), tuple(map(result, MIXED)), (), (), (),
)  # fmt: skip


def test_runs_are_the_same_rows_in_both(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet files need pyarrow")
    write_tables(tmp_path, FOUND)
    header, rows = cell_rows(FOUND)
    table = parquet.read_table(tmp_path / "cells.parquet")
    assert table.column_names == header
    assert table["models.chat.max"].to_pylist() == [2.0, 4.5, None]
    assert table["above"].to_pylist() == [None, "2s", "3"], "a column of several kinds is text"
    assert table["gpu_hours"].to_pylist() == [row[header.index("gpu_hours")] for row in rows]
    told = list(csv.reader(io.StringIO((tmp_path / "cells.csv").read_text())))
    assert told[0] == header
    assert [row[header.index("key")] for row in told[1:]] == table["key"].to_pylist()


def test_a_sweep_without_a_run_has_its_files_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    write_tables(tmp_path, replace(FOUND, cells=()))
    assert {path.name for path in tmp_path.iterdir()} == {"ranking.csv", "cells.csv", "cells.parquet"}
