"""Reports and sweeps side by side, from the command line; the commands of docs/sweep.md."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, run, tidegate
from tests.support.sweeps import small_sweep

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep's folder; its file lies beside it."""
    folder = tmp_path_factory.mktemp("swept")
    status, _, errors = run("sweep", small_sweep(folder), "--out", folder / "out", "--jobs", "2", folder=folder)
    assert status == 0, errors
    return folder / "out"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reports: two policies, two seeds each, and one of another window."""
    folder = tmp_path_factory.mktemp("reports")
    small_sweep(folder)
    (folder / "eager.yaml").write_text(
        (folder / "policies.yaml").read_text().replace("above: 2s, for: 5s", "above: 1s, for: 1s")
    )
    rows = [f"{second * 0.3:.1f},model,{50 + second % 40},{20 + second % 15},90,log" for second in range(100)]
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    (folder / "trace.csv").write_text("\n".join([header, *rows]) + "\n")
    for name, policies, seed, window in (
        ("quiet-seed1", "policies", 1, "0s..30s"), ("quiet-seed2", "policies", 2, "0s..30s"),
        ("eager-seed1", "eager", 1, "0s..30s"), ("eager-seed2", "eager", 2, "0s..30s"),
        ("half", "policies", 1, "0s..15s"),
    ):  # fmt: skip
        status, _, errors = run(
            "simulate", "--trace", "trace.csv", "--policies", f"{policies}.yaml", "--window", window, "--seed",
            str(seed), "--tail", "0", "--rate-scale", "2", "--oracle", "never", "--out", name, folder=folder,
        )  # fmt: skip
        assert status == 0, errors
    return folder


def test_reports_of_several_seeds_are_one_side_each(reports: Path) -> None:
    names = ("quiet-seed1", "quiet-seed2", "eager-seed1", "eager-seed2")
    result = tidegate("compare", *(reports / name for name in names))
    assert result.exit_code == 0, result.output
    assert "A  quiet-seed1 + quiet-seed2" in result.output
    assert "B  eager-seed1 + eager-seed2" in result.output
    assert (
        "n = 2 seeds (1, 2), 2 blocks (whole seeds), paired; 95% intervals of 4,000 resamples, seed 1" in result.output
    )
    assert "gpu hours a day" in result.output


def test_seeds_of_a_replay_in_which_nothing_is_drawn_are_one(reports: Path) -> None:
    """Two copies of a run were told to differ from two of another at p = 1e-16."""
    names = []
    for policies, seed in (("policies", 1), ("policies", 2), ("eager", 1), ("eager", 2)):
        names.append(f"plain-{policies}-seed{seed}")
        status, _, errors = run(
            "simulate", "--trace", "trace.csv", "--policies", f"{policies}.yaml", "--seed", str(seed), "--tail", "0",
            "--oracle", "never", "--out", names[-1], folder=reports,
        )  # fmt: skip
        assert status == 0, errors
    result = tidegate("compare", *(reports / name for name in names))
    assert result.exit_code == 0, result.output
    assert "n = 1 seed (1), 1 block (days over all seeds), paired; 95% intervals" in result.output
    assert "The seeds gave the same run: nothing in it is drawn" in result.output
    found = json.loads(tidegate("compare", *(reports / name for name in names), "--json").stdout)
    assert (found["seeds"], found["same_run"]) == ([1], [2])
    assert {change["p"] for row in found["figures"] for change in row["changes"] if change} == {1.0}


def test_as_json_each_difference_comes_with_its_interval(reports: Path) -> None:
    result = tidegate("compare", reports / "quiet-seed1", reports / "eager-seed1", "--json")
    found = json.loads(result.stdout)
    figures = {row["figure"]: row for row in found["figures"]}
    cost = figures["gpu_hours_a_day"]
    [change] = cost["changes"]
    assert change["value"] == pytest.approx(cost["values"][1]["value"] - cost["values"][0]["value"])
    assert (change["interval"]["low"], change["p"]) == (None, 1.0), "one seed of one day says nothing of the spread"
    latencies = json.loads((reports / "eager-seed1" / "report.json").read_text())["data"]["latencies"]
    p95_s = next(row["latency"]["p95_s"] for row in latencies if row["what"] == "ttft")
    assert figures["ttft_p95"]["values"][1]["value"] == pytest.approx(p95_s)


def test_runs_under_other_conditions_are_no_further_seeds_of_one_side(reports: Path, tmp_path: Path) -> None:
    """A run of another routing rule was taken for the second seed of the first."""
    other = tmp_path / "other"
    shutil.copytree(reports / "quiet-seed2", other)
    text = (other / "report.json").read_text()
    (other / "report.json").write_text(text.replace('"least-loaded"', '"round-robin"'))
    result = tidegate("compare", reports / "quiet-seed1", other, reports / "quiet-seed2")
    assert "A  quiet-seed1 + quiet-seed2" in result.output
    assert "B  other" in result.output


def test_reports_of_other_windows_are_not_compared(reports: Path) -> None:
    result = tidegate("compare", reports / "quiet-seed1", reports / "half")
    assert result.exit_code == 1
    assert "these runs cannot be compared" in result.stderr
    assert "the window differs: ..30s in quiet-seed1, ..15s in half" in result.stderr


def test_a_sweep_is_compared_with_another_at_equal_attainment(swept: Path) -> None:
    result = tidegate("compare", swept, swept)
    assert result.exit_code == 0, result.output
    assert "GPU-hours a day at equal attainment" in result.output


def test_cells_of_a_sweep_are_compared(swept: Path) -> None:
    found = json.loads((swept / "sweep.json").read_text())["data"]["cells"]
    keys = [cell["cell"]["key"] for cell in found if (cell["cell"]["demand"], cell["cell"]["seed"]) == ("calm", 1)]
    result = tidegate("compare", *(swept / "cells" / f"{key}.json" for key in keys))
    assert result.exit_code == 0, result.output
    assert "Side by side" in result.output


def test_cells_that_differ_in_their_seed_only_are_one_side(swept: Path) -> None:
    """Two settings of one policy, each with two seeds; as sides of one seed each none could be paired."""
    found = json.loads((swept / "sweep.json").read_text())["data"]["cells"]
    keys = [cell["cell"]["key"] for cell in found if cell["cell"]["demand"] == "calm"]
    assert len(keys) == 4
    result = tidegate("compare", *(swept / "cells" / f"{key}.json" for key in keys), "--json")
    assert result.exit_code == 0, result.output
    compared = json.loads(result.stdout)
    assert compared["seeds"] == [1, 2]
    assert len(compared["subjects"]) == 2


@pytest.mark.parametrize(
    ("inputs", "status", "words"),
    [
        (("nowhere",), 2, "nowhere: there is no such file or folder"),
        (("empty",), 2, "holds neither report.json (of `simulate --out`) nor sweep.json"),
        (("quiet-seed1",), 2, "quiet-seed1 is alone; name another folder"),
        (("quiet-seed1", "broken"), 2, "is not what this version of Tidegate writes"),
        (("quiet-seed1", "empty"), 2, "empty: holds neither report.json (of `simulate --out`) nor sweep.json"),
        (("quiet-seed1", "/dev/null"), 2, "/dev/null: holds neither report.json (of `simulate --out`) nor sweep.json"),
        (("quiet-seed1", "SWEEP"), 2, "is a report, and others are sweeps; compare like with like"),
    ],
    ids=[
        "nothing there",
        "an empty folder",
        "one alone",
        "a damaged report",
        "a report and an empty folder",
        "a report and no folder",
        "a report and a sweep",
    ],
)
def test_what_cannot_be_compared_is_told(
    inputs: tuple[str, ...], status: int, words: str, reports: Path, swept: Path
) -> None:
    (reports / "empty").mkdir(exist_ok=True)
    (reports / "broken").mkdir(exist_ok=True)
    (reports / "broken" / "report.json").write_text("{}")
    result = tidegate("compare", *(swept if name == "SWEEP" else reports / name for name in inputs))
    assert result.exit_code == status
    assert words in result.stderr


def test_the_commands_of_the_documentation_work_on_the_example(tmp_path: Path) -> None:
    """With seconds in place of its minutes, and one seed."""
    shutil.copytree(ROOT / "deploy" / "examples", tmp_path / "deploy" / "examples")
    example = tmp_path / "deploy" / "examples" / "sweep.yaml"
    text = example.read_text()
    example.write_text(text.replace("duration: 10m", "duration: 20s").replace("seeds: [1, 2, 3]", "seeds: [1]"))
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / "sweep.md").read_text(), re.DOTALL)
    commands = [line.removeprefix("$ tidegate ").split() for line in blocks[0].splitlines()]
    assert [command[0] for command in commands] == ["sweep", "compare"]
    for command in commands:
        status, told, errors = run(*command, folder=tmp_path)
        assert status == 0, errors
        assert "n = 1 seed (1)" in told


def test_a_policies_file_that_promises_something_else_must_be_settled(tmp_path: Path) -> None:
    file = small_sweep(tmp_path)
    (tmp_path / "other.yaml").write_text(
        (tmp_path / "policies.yaml").read_text().replace("max: 3", "max: 3\n    slo: {first_token: 9s}")
    )
    file.write_text(file.read_text().replace("policies:\n", "policies:\n  other: {file: other.yaml}\n", 1))
    status, _, errors = run("sweep", file, "--out", tmp_path / "out", folder=tmp_path)
    assert status == 2
    assert "promise different service of the model that the traces ask; say here what all are judged by" in errors
