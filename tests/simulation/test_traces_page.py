"""docs/traces.md: its scenario and the command below it run in a checkout that has nothing else."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from cli.output import Exit
from tests.support.command_line import ROOT, tidegate

PAGE = (ROOT / "docs" / "traces.md").read_text(encoding="utf-8")
(SCENARIO,) = re.findall(r"```yaml\n(duration:.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^    tidegate (simulate --scenario .+)$", PAGE, flags=re.MULTILINE)


def test_the_scenario_runs_with_the_example_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    monkeypatch.chdir(tmp_path)
    result = tidegate(*shlex.split(COMMANDS[0]), "--json")
    assert result.exit_code == Exit.OK, result.output
    models = json.loads(result.stdout)["models"]
    assert models.keys() == {"chat", "embed"}
    assert all(figures["requests"]["finished"] > 100 for figures in models.values())
