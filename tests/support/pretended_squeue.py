"""A ``squeue`` that shows what a test says, for commands that find Slurm on their ``PATH``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from actuators.slurm.job import JobRecord
from actuators.slurm.squeue import FIELD_END, RECORD_END, WIDTHS


def pretended_squeue(folder: Path, jobs: Sequence[JobRecord], *, once: bool = False) -> Mapping[str, str]:
    """The environment in which it is found. ``once``: it fails when it is asked again."""
    (folder / "squeue.answer").write_text("".join(_row(job) for job in jobs))
    program = folder / "squeue"
    then = f"rm '{folder}/squeue.answer'" if once else ""
    program.write_text(f"#!/bin/sh\ncat '{folder}/squeue.answer' || exit\n{then}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def _row(job: JobRecord) -> str:
    told = {
        "JobID": job.job_id,
        "Name": job.name,
        "UserName": job.user,
        "Comment": job.comment,
        "Partition": job.partition,
        "State": job.state.value,
        "Reason": job.reason or "None",
        "NodeList": ",".join(job.nodes),
        "RestartCnt": job.restarts,
        "SubmitTime": "Unknown",
        "StartTime": "Unknown",
        "EndTime": "Unknown" if job.end_at is None else int(job.end_at),
        "TimeLimit": "1:00:00",
        "exit_code": 0,
        "STDOUT": job.output,
    }
    return "".join(f"{told[field]:<{width - 1}} {FIELD_END}" for field, width in WIDTHS.items()) + RECORD_END + "\n"
