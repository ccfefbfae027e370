"""The accuracy report's frame: parts are named, skipped without data, written behind the mark, drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from accuracy.__main__ import MARK, markdown, names, write
from accuracy.base import REPOSITORY, Report, Table, skill
from accuracy.plot import Line, Panel, svg


def accuracy(*arguments: str, shared: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIDEGATE_SHARED": str(shared), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "accuracy", *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.integration
def test_without_the_measurements_a_part_says_so_and_the_command_fails(tmp_path: Path) -> None:
    result = accuracy("recording", "h100", "--json", shared=tmp_path)
    assert result.returncode == 1
    assert "h100: skipped, needs the shared data set calibration/" in result.stderr
    assert [report["tables"] for report in json.loads(result.stdout)] == [[], []]


@pytest.mark.integration
def test_parts_are_listed_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    assert "RAMSES" in accuracy("--list", shared=tmp_path).stdout
    refused = accuracy("moon", shared=tmp_path)
    assert refused.returncode == 2
    assert f"no part moon; there are {', '.join(names())}" in refused.stderr


def test_tables_carry_n_free_parameters_and_remarks() -> None:
    table = Table("t", "Errors", ("what", "error"), (("TTFT", "3 %"), ("TPOT", None)), n=7, free=2, remarks=("Few.",))
    text = markdown([Report("ramses", (table,))])
    assert "n = 7, free parameters = 2." in text
    assert "| what | error |\n| --- | --- |\n| TTFT | 3 % |\n| TPOT |  |" in text
    assert "- Few." in text


def test_writing_keeps_what_stands_before_the_mark(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Words\n{MARK}\nold\n")
    write(page, "new")
    assert page.read_text() == f"# Words\n{MARK}\n\nnew\n"


def test_skill_is_one_without_error_and_zero_at_the_null() -> None:
    assert (skill(0.0, 0.5), skill(0.5, 0.5), skill(1.0, 0.5)) == (1.0, 0.0, -1.0)


def test_a_plot_is_well_formed_and_shows_every_line_and_band() -> None:
    x = np.arange(4.0)
    line = Line("simulated", x, x * 2, (x, x * 3))
    drawing = svg("Waiting < 5", [Panel("requests", (line, Line("measured", x, x)))], [(1.0, "2/s")])
    root = ElementTree.fromstring(drawing)
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert (tags.count("polyline"), tags.count("polygon")) == (2, 1)
