"""What a sweep plans before anything runs: keys of all that determines a run, and held-out traces nobody has seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.model.errors import ConfigErrors
from cli.sweeping import Plan, plan_sweep
from tests.support.sweeps import POLICIES, small_sweep

HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"

TUNED = """
    policies: {rules: {file: policies.yaml}}
    tune:
      first: {source: {kind: trace, path: a.csv, window: 0s..1h}}
    report:
      second: {source: %s}
    tail: 0s
"""
SCENARIO = """duration: 20s
models:
  chat: {loads: {people: {source: {kind: trace, path: b.csv}}}}
"""


def trace(path: Path, tokens: int = 50) -> None:
    path.write_text(HEADER + "".join(f"{second},m,{tokens},9,59,log\n" for second in range(9)))


def planned(folder: Path, source: str) -> Plan:
    return plan_sweep(small_sweep(folder, TUNED % source))


@pytest.mark.parametrize(
    "source",
    [
        "{kind: trace, path: b.csv}", "{kind: trace, path: b.csv, window: 30m..2h}",
        "{kind: scenario, path: scenario.yaml}",
    ],
    ids=["a copy", "an overlapping window of a copy", "a scenario that replays a copy"],
)  # fmt: skip
def test_what_is_tuned_on_is_not_reported_on_under_another_name(source: str, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    for name in ("a.csv", "b.csv"):
        trace(tmp_path / name)
    with pytest.raises(ConfigErrors) as caught:
        planned(tmp_path, source)
    assert str(caught.value).startswith(
        f"{tmp_path / 'sweep.yaml'}:5: report.second: replays what is tuned on as tune."
    )


def test_another_window_of_a_copy_and_another_content_may_be_held_out(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        trace(tmp_path / name)
    assert planned(tmp_path, "{kind: trace, path: b.csv, window: 1h..2h}").held_out == ("second",)
    trace(tmp_path / "b.csv", tokens=51)
    assert planned(tmp_path, "{kind: trace, path: b.csv}").held_out == ("second",)


def test_a_cell_names_each_file_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    (tmp_path / "engine.yaml").write_text("name: mine")
    trace(tmp_path / "a.csv")
    trace(tmp_path / "b.csv", tokens=51)
    file = small_sweep(
        tmp_path,
        TUNED % "{kind: scenario, path: scenario.yaml}",
        POLICIES.replace("[serve]", f"[serve], profile: {tmp_path}/engine.yaml"),
    )
    read = {task.cell.demand: sorted(file.path.name for file in task.files) for task in plan_sweep(file).tasks}
    assert read == {"first": ["a.csv", "engine.yaml"], "second": ["b.csv", "engine.yaml"]}


@pytest.mark.parametrize("name", ["a.csv", "b.csv", "engine.yaml"])
def test_the_content_of_each_file_is_in_the_keys_of_the_cells_that_read_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    (tmp_path / "engine.yaml").write_text("name: mine")
    trace(tmp_path / "a.csv")
    trace(tmp_path / "b.csv", tokens=51)
    policies = POLICIES.replace("[serve]", f"[serve], profile: {tmp_path}/engine.yaml")
    file = small_sweep(tmp_path, TUNED % "{kind: scenario, path: scenario.yaml}", policies)
    before = {cell.key: cell.demand for cell in plan_sweep(file).cells}
    (tmp_path / name).write_text((tmp_path / name).read_text() + ("#" if name == "engine.yaml" else "9,m,5,5,10,log\n"))
    after = {cell.key for cell in plan_sweep(file).cells}
    changed = {demand for key, demand in before.items() if key not in after}
    assert changed == {"a.csv": {"first"}, "b.csv": {"second"}, "engine.yaml": {"first", "second"}}[name]
