"""docs/simulate.md: its commands and its program run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from broker.model import wire
from cli.output import Exit
from simulator.checks.checks import STEPS_KEPT
from simulator.checks.saved import SavedObservations
from simulator.report.summary import Partial, RunSummary
from tests.support.command_line import ROOT, tidegate
from tests.support.simulated import SmallRun, small_request

PAGE = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ tidegate (.+)$", PAGE, flags=re.MULTILINE)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(SAVED_NAME,) = set(re.findall(r"tidegate-violation-invariant\S+?\.json", PAGE))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page speaks of."""
    shutil.copy(ROOT / "deploy" / "examples" / "policies.yaml", tmp_path)
    rows = "".join(f"{n},ChatGPT,50,10,60,Conversation log\n" for n in range(90))
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    (tmp_path / "trace.csv").write_text(header + rows)
    run = SmallRun(tail_s=5.0)
    run.run([small_request(0.1 * n) for n in range(20)])
    (tmp_path / SAVED_NAME).write_text(wire.dumps(run.simulation.saved(ValueError("to look at"))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_one_after_the_other(folder: Path) -> None:
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        words, _, target = command.partition(" > ")
        result = tidegate(*shlex.split(words))
        assert result.exit_code == Exit.OK, result.output
        if target:
            (folder / target).write_text(result.stdout)
    assert "what was saved is gone" in result.stdout


def test_the_program_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PROGRAM, "docs/simulate.md", "exec"), {})
    assert "gone" in capsys.readouterr().out


def test_the_page_names_every_field_of_the_file_and_of_a_partial_report() -> None:
    for kind in (SavedObservations, Partial):
        for name in kind.__slots__:
            assert f"`{name}`" in PAGE, name


def test_the_page_says_how_many_steps_are_kept() -> None:
    assert f"the last {STEPS_KEPT} to {2 * STEPS_KEPT} steps" in PAGE


def test_a_partial_summary_is_read_as_it_was_written() -> None:
    run = SmallRun()
    summary = replace(run.run([small_request(0.0)]), decisions=(), partial=Partial("simulating", 2.5, 10.0))
    assert wire.decode(RunSummary, wire.encode(summary)) == summary
