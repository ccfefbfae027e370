"""However narrow a terminal is, every figure of a table is printed whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from simulator.report.fitting import fitted

COLUMNS = ("GPUs", "jobs", "delay, mean", "P95", "P99", "slowdown without", "null: mean", "states")
ROWS = [
    ("1", "12,345", "1,350.2 s", "13,502 s", "135,021 s", "10.25", "-1,350 s", "3 COMPLETED, 4 CANCELLED"),
    ("2 to 4", "345", "0 ms", "135.5 s", "1,351 s", "1.02", "99 ms", "1 TIMEOUT"),
    ("[all]", "12,690", "1,349.9 s", "13,501 s", "135,020 s", "10.00", "-1,349 s", "8 COMPLETED"),
]


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        for table in fitted(console, "Batch jobs", COLUMNS, ROWS, caption="null: chance", words=("states",)):
            console.print(table)
    return capture.get()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_figure_is_cut_at_any_width(width: int) -> None:
    """At 80 columns 1,350.2 s stood as 1350 and three dots."""
    text = printed(width)
    for row in ROWS:
        for cell in row[:-1]:
            assert cell in text, cell
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("Batch jobs") == text.count("null: chance") == 1


def test_a_wide_terminal_has_a_row_for_each_and_a_narrow_one_a_column() -> None:
    assert any("1 " in line and "12,345" in line and "135,021 s" in line for line in printed(200).splitlines())
    assert any("12,345" in line and "345" in line and "12,690" in line for line in printed(80).splitlines())
