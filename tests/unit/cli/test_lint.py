"""``tidegate policy lint`` on files of every kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker.app.settings import Lint
from cli.lint import lint
from cli.output import Exit
from tests.support.command_line import tidegate
from tests.support.shared_data import REPOSITORY
from tests.support.sweeps import ONE_CELL, POLICIES, SWEEP, small_sweep, with_profile

EXAMPLES = REPOSITORY / "deploy" / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_each_example_is_without_blame(name: str) -> None:
    assert lint(EXAMPLES / name) == Lint()


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        pytest.param("sweep.yaml", "seeds:", "seed:", "seed: unknown field; did you mean seeds?", id="sweep"),
        pytest.param("scenario.yaml", "duration:", "length:", "duration: this field is missing", id="scenario"),
        pytest.param("cluster.yaml", "partitions:", "partition:", "partitions: this field is missing", id="cluster"),
    ],
)
def test_a_file_of_a_simulation_is_read_as_what_it_is(
    tmp_path: Path, name: str, old: str, new: str, problem: str
) -> None:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    path = tmp_path / name
    path.write_text(path.read_text().replace(old, new))
    assert any(f": {problem}" in str(found) for found in lint(path).problems)


def test_a_sweep_whose_path_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    path = small_sweep(tmp_path, SWEEP.replace("rules[queue]", "rules[queues]"))
    [problem] = lint(path).problems
    assert (problem.path, problem.line) == (str(path), 4)


@pytest.mark.parametrize(
    ("text", "policies", "warning"),
    [
        pytest.param(
            ONE_CELL, with_profile("h200"), "1 of 1 cells cannot be run: no engine profile 'h200'", id="engine"
        ),
        pytest.param(
            ONE_CELL.replace("20s}", "20s}\n      other: {source: {kind: trace, path: nope.csv}}"),
            POLICIES,
            "1 of 2 cells cannot be run",
            id="a trace that is not there",
        ),
        pytest.param(
            ONE_CELL + "    site: site.yaml\n",
            POLICIES.replace("max: 3", "gpus: 8"),
            "1 of 1 cells cannot be run: models.chat.gpus: a replica of chat takes 8 GPUs, and its largest pool has 4",
            id="a model that fits no pool",
        ),
    ],
)
def test_cells_that_a_sweep_leaves_out_are_a_warning(tmp_path: Path, text: str, policies: str, warning: str) -> None:
    (tmp_path / "site.yaml").write_text("cluster: demo\npools: {local: {kind: local, gpus: 4}}\n")
    found = lint(small_sweep(tmp_path, text, policies))
    assert found.problems == ()
    [told] = found.warnings
    assert told.problem.startswith(warning)


def test_an_unknown_engine_profile_is_a_problem_whatever_else_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text("models:\n  chat:\n    engine: {command: [serve], profile: h200}\n    max: -1\n")
    result = tidegate("policy", "lint", path)
    assert result.exit_code == int(Exit.FAILED)
    told = result.stdout.replace("\n", "")
    assert f"{path}:3: models.chat.engine.profile: no engine profile 'h200'; there are demo" in told
    assert f"{path}:4: models.chat.max: -1 is too little" in told


def test_a_profile_s_own_problems_are_told_where_they_are(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\n")
    path = tmp_path / "policies.yaml"
    path.write_text(f"models:\n  chat: {{engine: {{command: ['{{port}}'], profile: {profile}}}}}\n")
    assert {problem.path for problem in lint(path).problems} == {str(profile)}
