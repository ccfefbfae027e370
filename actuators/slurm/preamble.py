"""Lines put before a script's first command, for what a transport cannot say otherwise. Pure.

Commands take a job's environment from their own process or from arguments that everybody on the machine can read, and
parser v0.0.38 refuses a warning signal for the batch script. Both fit into the script, which only its owner reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from actuators.slurm.job import JobSpec, WarningSignal
from actuators.slurm.texts import minutes_up
from broker.model.errors import ActionRejected, shown

_SHELL = re.compile(r"#!\s*(/\S*/)?(env\s+)?(\S*/)?(ba|da|k|z)?sh(\s|$)")
TIMER_LOOKS_EVERY_S = 5

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def with_lines(job: JobSpec, lines: Sequence[str]) -> str:
    """``job.script`` with ``lines`` before its first command: after its ``#!`` line and the comments that follow it,
    since sbatch reads ``#SBATCH`` lines only up to the first command. Raises ``ActionRejected``."""
    given = job.script.split("\n")
    if not _SHELL.match(given[0]):
        raise ActionRejected(
            f"the script of {job.name} begins with {shown(given[0])}, and its environment needs a "
            "shell to be set in: let it begin with #!/bin/sh or #!/bin/bash"
        )
    first = next((at for at, line in enumerate(given) if line.strip() and not line.startswith("#")), len(given))
    return "\n".join([*given[:first], *lines, *given[first:]])


def exports(environment: Mapping[str, str]) -> list[str]:
    """Raises ``ActionRejected`` for a name that no shell takes."""
    for name in environment:
        if not _NAME.fullmatch(name):
            raise ActionRejected(f"a job's environment has a variable named {shown(name)}, which no shell takes")
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def warning_timer(warning: WarningSignal, time_limit_s: float) -> list[str]:
    """Sends the signal to the shell, or to what it becomes by ``exec``, as long before the limit as Slurm would. Unlike
    Slurm's it does not know of a limit that was changed later, and not of preemption. Twice in the background, so that
    a script's ``wait`` does not wait for it. It ends soon after the script: where Slurm does not end what a job leaves
    behind (``proctrack/pgid``), it slept on for hours, and would have signalled whoever has the number by then."""
    after_s = max(1, minutes_up(time_limit_s) * 60 - warning.before_s)
    waits = f"left={after_s}; while [ $left -gt {TIMER_LOOKS_EVERY_S} ]; do sleep {TIMER_LOOKS_EVERY_S}; "
    waits += f"kill -0 $$ || exit; left=$((left - {TIMER_LOOKS_EVERY_S})); done; sleep $left"
    return [f"( ( {waits}; kill -s {warning.name} $$ ) </dev/null >/dev/null 2>&1 & )"]
