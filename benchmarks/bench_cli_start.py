"""Processor time of what a shell asks `tidegate` for at every key: the version, the help, completions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.base import Measurement

ROOT = Path(__file__).parents[1]
REPETITIONS = 5
TARGET_S = 0.3


def run() -> list[Measurement]:
    """The least of a few repetitions: a busy machine only adds."""
    completing = {"_TIDEGATE_COMPLETE": "complete_bash", "COMP_WORDS": "tidegate scale --be", "COMP_CWORD": "2"}
    return [
        _measured("cli_start_version", ["--version"], {}),
        _measured("cli_start_help", ["--help"], {}),
        _measured("cli_start_completion", [], completing),
    ]


def _measured(name: str, words: list[str], environment: dict[str, str]) -> Measurement:
    spent = [_processor_s([sys.executable, "-m", "cli", *words], environment) for _ in range(REPETITIONS)]
    bare = min(_processor_s([sys.executable, "-c", "pass"], {}) for _ in range(REPETITIONS))
    return Measurement(name, round(min(spent), 3), "s", TARGET_S, details={"interpreter_s": round(bare, 3)})


def _processor_s(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of one process."""
    given = os.environ | environment | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return used.ru_utime + used.ru_stime
