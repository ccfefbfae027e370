"""What a sweep plans before anything runs: keys of all that determines a run, and held-out traces nobody has seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker.model.errors import ConfigErrors
from cli.sweep_cells import run_cell
from cli.sweep_plan import Plan, plan_sweep
from simulator.engine.routing import Routing
from simulator.profiles.document import CATALOGUE
from simulator.sweep.cells import CellResult
from simulator.sweep.document import held_out_demands
from tests.support.sweeps import ONE_CELL, POLICIES, small_sweep, with_profile
from traces.conditions import MetricFaults

ENGINE = CATALOGUE / "demo.yaml"
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


def held_out(folder: Path, source: str) -> tuple[str, ...]:
    return held_out_demands(planned(folder, source).demands)


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
    assert held_out(tmp_path, "{kind: trace, path: b.csv, window: 1h..2h}") == ("second",)
    trace(tmp_path / "b.csv", tokens=51)
    assert held_out(tmp_path, "{kind: trace, path: b.csv}") == ("second",)


def test_a_cell_names_each_file_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    shutil.copy(ENGINE, tmp_path / "engine.yaml")
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
    shutil.copy(ENGINE, tmp_path / "engine.yaml")
    trace(tmp_path / "a.csv")
    trace(tmp_path / "b.csv", tokens=51)
    policies = POLICIES.replace("[serve]", f"[serve], profile: {tmp_path}/engine.yaml")
    file = small_sweep(tmp_path, TUNED % "{kind: scenario, path: scenario.yaml}", policies)
    before = {cell.key: cell.demand for cell in plan_sweep(file).cells}
    (tmp_path / name).write_text((tmp_path / name).read_text() + ("#" if name == "engine.yaml" else "9,m,5,5,10,log\n"))
    after = {cell.key for cell in plan_sweep(file).cells}
    changed = {demand for key, demand in before.items() if key not in after}
    assert changed == {"a.csv": {"first"}, "b.csv": {"second"}, "engine.yaml": {"first", "second"}}[name]


def varied(values: str) -> str:
    """Of one policy."""
    return ONE_CELL.replace("{file: policies.yaml}", f"{{file: policies.yaml, {values}}}")


def test_what_runs_find_and_how_they_route_is_varied_like_any_value(tmp_path: Path) -> None:
    text = varied("grid: {run.routing: [least-loaded, prefix-affine], run.metric_loss: [0, 0.5], models.chat.max: [2]}")
    plan = plan_sweep(small_sweep(tmp_path, text + "    run: {cached_share: 0.25, metric_delay: 3s}\n"))
    found = [(task.settings.routing, task.settings.metrics) for task in plan.tasks]
    assert found == [
        (routing, MetricFaults(loss=loss, report_loss=loss, delay_s=3.0))
        for routing in (Routing.LEAST_LOADED, Routing.PREFIX_AFFINE)
        for loss in (0.0, 0.5)
    ]
    assert {(task.settings.cached_share, task.models[0].maximum) for task in plan.tasks} == {(0.25, 2)}
    assert len({cell.key for cell in plan.cells}) == 4
    assert plan.cells[3].candidate.words == "rules run.routing=prefix-affine run.metric_loss=0.5 models.chat.max=2"


def test_what_runs_take_for_granted_is_in_their_keys(tmp_path: Path) -> None:
    texts = [ONE_CELL, *(f"{ONE_CELL}    run: {{{said}}}\n" for said in ("cached_share: 0.5", "metric_delay: 1s"))]
    keys = [plan_sweep(small_sweep(tmp_path, text)).cells[0].key for text in texts]
    assert len(set(keys)) == 3
    same = plan_sweep(small_sweep(tmp_path, f"{ONE_CELL}    run: {{cached_share: 0}}\n    cell_time_limit: 1m\n"))
    assert same.cells[0].key == keys[0], "how long a run may take does not change what comes of it"


SKIPPING = """
    policies: {rules: {file: policies.yaml}}
    traces:
      all: {source: %s}
    tail: 0s
"""
SKIPPED = (
    "b.csv: 2 bad rows skipped in the whole file; the first: line 5:5: Request tokens: 'x' is not a whole number of "
    "tokens of 0 or more"
)


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        ("{kind: trace, path: b.csv, skip_bad: true}", (SKIPPED,)),
        ("{kind: scenario, path: scenario.yaml}", (SKIPPED,)),
        ("{kind: trace, path: a.csv, skip_bad: true}", ()),
    ],
    ids=["a trace", "a scenario's trace", "none is bad"],
)
def test_rows_that_a_sweep_skips_are_told_with_its_cells(source: str, notes: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        trace(tmp_path / name)
    rows = (tmp_path / "b.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([*rows[:4], "4,m,x,9,59,log", "4,m,5,y,59,log", *rows[4:]]) + "\n")
    (tmp_path / "scenario.yaml").write_text(SCENARIO.replace("b.csv", "b.csv, skip_bad: true"))
    [task] = plan_sweep(small_sweep(tmp_path, SKIPPING % source)).tasks
    assert task.notes == notes
    cell = run_cell(task)
    assert isinstance(cell, CellResult)
    assert cell.figures.notes[: len(notes)] == notes


def test_all_cells_warm_up_as_long_as_the_slowest_start_of_all(tmp_path: Path) -> None:
    """Policies must meet the same cluster, which begins with the warm-up."""
    engines = "grid: {models.chat.engine.profile: [demo, h100-mistral-nemo-12b]}"
    plan = plan_sweep(small_sweep(tmp_path, varied(engines), with_profile("demo")))
    assert [task.settings.warm_up_s for task in plan.tasks] == [180.0, 180.0]
    said = plan_sweep(small_sweep(tmp_path, varied(engines) + "    warm_up: 15m\n", with_profile("demo")))
    assert [task.settings.warm_up_s for task in said.tasks] == [900.0, 900.0]
    assert not {cell.key for cell in plan.cells} & {cell.key for cell in said.cells}


@pytest.mark.parametrize(
    ("values", "at", "words"),
    [
        ("grid: {run.routing: [fastest]}", "policies.rules.grid.run.routing", "'fastest' is not known here"),
        ("grid: {run.cache: [0.1]}", "policies.rules.grid.run.cache", "unknown field; known: routing, cached_share,"),
        (
            "random: {run.cached_share: {kind: uniform, from: 2, to: 3}}, samples: 1",
            "policies.rules.random.run.cached_share", "is too much; the most is 1",
        ),
    ],
    ids=["a rule that is not there", "a field that is not there", "a draw beyond all shares"],
)  # fmt: skip
def test_a_wrong_value_of_the_runs_is_the_files_mistake(values: str, at: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        plan_sweep(small_sweep(tmp_path, varied(values)))
    assert f"sweep.yaml:1: {at}: " in str(caught.value)
    assert words in str(caught.value)
