"""What squeue is asked for, and its answer. Pure.

``squeue --json`` changes its shape with every release, takes no notice of state filters in some, and does not exist
in others; the default columns cut names. So the fields are named one by one (``-O``), with separators that cannot be
typed, and widths beyond what is real. squeue, and not ``scontrol show job``: it asks the controller for one user's
jobs only, which costs what that user has, not what the cluster has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actuators.slurm.exit_status import exit_of
from actuators.slurm.job import JobRecord
from actuators.slurm.states import state_of
from actuators.slurm.texts import hosts, moment, output_path, seconds
from broker.model.errors import TransientError

FIELD_END = "\x1f"
RECORD_END = "\x1e"

WIDTHS = {
    "JobID": 16,
    "Name": 256,
    "UserName": 64,
    "Comment": 1024,
    "Partition": 256,
    "State": 32,
    "Reason": 128,
    "NodeList": 2048,
    "RestartCnt": 12,
    "SubmitTime": 32,
    "StartTime": 32,
    "EndTime": 32,
    "TimeLimit": 24,
    "exit_code": 12,
    "STDOUT": 1024,
}

MAY_BE_CUT = "Reason"
"""Slurm adds to some reasons every node that is down (``ReqNodeNotAvail, UnavailableNodes:``): thousands of
characters, of which the first say all."""

FORMAT = ",".join(f"{field}:{width}{FIELD_END}" for field, width in WIDTHS.items()) + RECORD_END
ARGUMENTS = ("squeue", "--me", "--states=all", "--noheader", f"--Format={FORMAT}")

Fields = Mapping[str, str]


def fields(output: str, where: str) -> Iterator[Fields]:
    """One mapping for each job. Raises ``TransientError`` if the output does not end where a record ends."""
    *texts, rest = output.split(RECORD_END)
    if rest.strip():
        raise TransientError(f"{where} told only a part of the jobs: squeue's output ends in the middle of one")
    for text in texts:
        yield dict(zip(WIDTHS, text.lstrip("\n").split(FIELD_END), strict=False))


def comment_of(given: Fields) -> str | None:
    """None if the record is too short to have one."""
    return _text(given["Comment"]) if "Comment" in given else None


def record(given: Fields) -> JobRecord:
    """Raises ``ValueError`` and ``KeyError``."""
    for field, width in WIDTHS.items():
        if field != MAY_BE_CUT and (len(given[field].encode()) > width or len(given[field].rstrip()) >= width):
            raise ValueError(f"{field} was cut at {width} characters")
    job_id, name, user = int(given["JobID"]), _text(given["Name"]), _text(given["UserName"])
    state, flags = state_of(_text(given["State"]).split("+"))
    nodes = hosts(_text(given["NodeList"]))
    exit_code, exit_signal = exit_of(given["exit_code"], state)
    return JobRecord(
        job_id=job_id,
        name=name,
        user=user,
        comment=_text(given["Comment"]),
        partition=_text(given["Partition"]),
        state=state,
        flags=flags,
        reason=_text(given["Reason"]),
        nodes=nodes,
        restarts=int(given["RestartCnt"]),
        submitted_at=_moment(given["SubmitTime"]),
        started_at=_moment(given["StartTime"]),
        end_at=_moment(given["EndTime"]),
        time_limit_s=seconds(given["TimeLimit"]),
        exit_code=exit_code,
        exit_signal=exit_signal,
        output=output_path(_text(given["STDOUT"]), job_id, name, user, nodes[0] if nodes else ""),
    )


def _text(padded: str) -> str:
    """Slurm prints ``(null)`` and ``None`` for nothing."""
    text = padded.rstrip()
    return "" if text in ("(null)", "None", "N/A", "n/a") else text


def _moment(padded: str) -> float | None:
    text = _text(padded)
    return moment(int(text)) if text and text != "Unknown" else None
