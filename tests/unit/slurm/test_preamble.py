"""Lines put before a script, as a shell runs them."""

from __future__ import annotations

import subprocess

from actuators.slurm.agent import descendants
from actuators.slurm.job import WarningSignal
from actuators.slurm.preamble import warning_timer
from tests.support.waiting import until


def started(script: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["sh", "-c", "\n".join(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def test_the_timer_signals_the_script_as_long_before_its_limit_as_was_asked() -> None:
    timer = warning_timer(WarningSignal("USR1", 59), 60.0)
    with started(["trap 'echo warned; exit' USR1", *timer, "while :; do sleep 0.1; done"]) as process:
        told, _ = process.communicate(timeout=30)
    assert told == "warned\n"


def test_the_timer_ends_with_its_script() -> None:
    """Two slept on for an hour behind jobs that had ended, on a Slurm that ends no more than a job's own processes."""
    with started([*warning_timer(WarningSignal("USR1", 60), 3600.0), "exit 0"]) as process:
        process.communicate(timeout=30)
    until(lambda: not descendants(process.pid, session=process.pid), "the timer ends")
