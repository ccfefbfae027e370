"""Help, completion and the generated page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.app import app
from cli.output import MEANINGS, Exit
from cli.reference import main, reference
from tests.support.command_line import ROOT, tidegate

COMMANDS = [
    "demo", "init", "run", "adopt", "gateway", "worker", "scraper", "simulate", "sweep", "compare", "calibrate",
    "explain", "decisions", "replay-log", "models", "endpoints", "replicas", "replicas logs", "replicas render",
    "scale", "hold", "pause", "resume", "policy", "policy lint", "policy schema", "doctor", "doctor slurm",
    "doctor kafka", "topics", "topics init", "topics check", "dead-letters", "dead-letters list", "dead-letters retry",
    "state", "state export", "state import", "state waits", "trace", "trace fit", "trace fit-slurm", "trace info",
]  # fmt: skip


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_tells_what_it_does(command: str) -> None:
    result = tidegate(*command.split(), "-h")
    assert result.exit_code == 0
    assert f"tidegate {command}".strip() in result.output


def test_help_flows_with_the_terminal() -> None:
    told = tidegate("replicas", "render", "--help", environment={"COLUMNS": "100"}).output
    assert "\n `sbatch` would read of it is in its `#SBATCH` lines." in told


def test_help_can_be_written_out() -> None:
    assert tidegate("scale", "--help").output == tidegate("scale", "-h").output


def test_no_command_is_missing_here() -> None:
    found = {str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback}
    found |= {str(group.name) for group in app.registered_groups}
    assert found == {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", ["", "doctor", "policy", "state", "topics", "trace"])
def test_a_bare_group_shows_its_help(command: str) -> None:
    assert "Usage" in tidegate(*command.split()).output


def test_the_committed_page_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run: python -m cli.reference docs/cli.md"


def test_the_page_tells_every_command_every_option_and_every_status() -> None:
    page = reference()
    for command in COMMANDS:
        if command not in ("dead-letters", "doctor", "policy", "state", "topics", "trace"):
            assert f"## `tidegate {command}`" in page
    for option in ("--site", "--json", "--for", "--address-file", "--skip-bad", "--release"):
        assert option in page
    assert set(MEANINGS) == set(Exit)


def test_the_page_is_written_to_where_it_is_told(tmp_path: Path) -> None:
    assert main([str(tmp_path / "cli.md")]) == 0
    assert (tmp_path / "cli.md").read_text() == reference()
    assert main([]) == 2


def test_declaring_the_commands_imports_nothing_that_carries_them_out() -> None:
    """All of it once did: `--version` and every completion took 1.5 s of processor time."""
    heavy = ["aiohttp", "asyncio", "fastapi", "httpx", "numpy", "pydantic", "sqlite3", "structlog", "yaml"]
    code = f"import cli.app, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_version_is_one_line() -> None:
    assert tidegate("--version").output.startswith("tidegate ")


def test_the_shell_completes_commands_and_options() -> None:
    for typed, expected in (("tidegate sc", "scale"), ("tidegate scale --be", "--because")):
        words = typed.split()
        environment = {
            "_TIDEGATE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1),
        }  # fmt: skip
        assert expected in tidegate(environment=environment).output


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    for words in (["scal"], ["scale", "--nope"], ["scale", "chat"], ["scale", "chat", "-1"]):
        result = tidegate(*words)
        assert result.exit_code == Exit.USAGE
        assert "Traceback" not in result.output
