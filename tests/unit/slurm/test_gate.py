"""The forced command for a locked-down account, as sshd runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actuators.slurm import sacct, sbatch, scontrol, squeue
from actuators.slurm.ssh import command_line
from tests.support.shared_data import REPOSITORY
from tests.unit.slurm.test_commands import FULL

GATE = REPOSITORY / "deploy" / "slurm" / "tidegate-slurm-gate"

pytestmark = pytest.mark.integration


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Commands of Slurm's names that print their arguments and their environment's time format."""
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "id", "rm"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" "$SLURM_TIME_FORMAT"\n', encoding="ascii")
        program.chmod(0o755)
    return tmp_path


def through_gate(asked: str, programs: Path) -> tuple[int, str, str]:
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SSH_ORIGINAL_COMMAND": asked, "LD_PRELOAD": ""}
    done = subprocess.run([sys.executable, str(GATE)], env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(sbatch.arguments(FULL), id="submit"),
        pytest.param(squeue.ARGUMENTS, id="list"),
        pytest.param(("scancel", "17"), id="end"),
        pytest.param(("scancel", "--batch", "--signal=USR1", "17"), id="signal"),
        pytest.param(scontrol.CONFIGURATION, id="configuration"),
        pytest.param(scontrol.PARTITIONS, id="partitions"),
        pytest.param(scontrol.RESERVATIONS, id="reservations"),
        pytest.param(sacct.arguments(3600.0), id="accounting"),
        pytest.param(("id", "-un"), id="user"),
    ],
)
def test_all_that_the_transport_sends_passes_word_for_word(arguments: tuple[str, ...], programs: Path) -> None:
    status, output, errors = through_gate(command_line(arguments, 30.0), programs)
    assert (status, errors) == (0, "")
    assert output == "\n".join([*arguments, "%s", ""])


PREFIX = "env LC_ALL=C SLURM_TIME_FORMAT=%s timeout --kill-after=2 30 "


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "bash",
        "squeue --me",
        PREFIX + "rm -rf /",
        PREFIX + "sbatch --parsable --wrap=id --comment=tidegate:x",
        PREFIX + "sbatch --parsable --comment=mine",
        PREFIX + "sbatch --comment=tidegate:x --uid=0",
        PREFIX + "sbatch --comment=tidegate:x /home/me/job.sh",
        PREFIX + "squeue --states=all",
        PREFIX + "squeue --me --clusters=other",
        PREFIX + "scancel --user=me",
        PREFIX + "scancel 17 --state=RUNNING",
        PREFIX + "scontrol update nodename=n1 state=drain",
        PREFIX + "scontrol token",
        PREFIX + "sacct --allusers",
        PREFIX + "id -un; id",
        PREFIX + "id -un && id",
        PREFIX + "scancel '17\n18'",
        "env LC_ALL=C LD_PRELOAD=/tmp/x timeout --kill-after=2 30 id -un",
        PREFIX + "'",
    ],
)
def test_anything_else_is_refused_and_not_run(asked: str, programs: Path) -> None:
    status, output, errors = through_gate(asked, programs)
    assert (status, output) == (126, "")
    assert errors.startswith("tidegate-slurm-gate: ")
    assert "Traceback" not in errors
