"""What sacct is asked for, and its answer: jobs that have ended, also those that the controller has forgotten. Pure.

Accounting has a job's comment, by which it is known for ours, only where slurm.conf says
``AccountingStoreFlags=job_comment``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actuators.slurm.exit_status import exit_of
from actuators.slurm.job import JobRecord
from actuators.slurm.states import state_of
from actuators.slurm.texts import hosts, moment, seconds

DISABLED = "accounting storage is disabled"
_FIELD_END = "\x1f"
_FIELDS = (
    "JobIDRaw", "JobName", "User", "Comment", "Partition", "State", "NodeList", "Submit", "Start", "End",
    "TimelimitRaw", "ExitCode",
)  # fmt: skip

Fields = Mapping[str, str]


def arguments(within_s: float) -> tuple[str, ...]:
    """For the jobs of the last ``within_s``. Nothing is cut to a width in this form."""
    return (
        "sacct", "--allocations", "--noheader", "--parsable2", f"--delimiter={_FIELD_END}",
        f"--starttime=now-{within_s / 60:.0f}minutes", f"--format={','.join(_FIELDS)}",
    )  # fmt: skip


def fields(output: str) -> Iterator[Fields]:
    """One mapping for each job."""
    for line in output.splitlines():
        yield dict(zip(_FIELDS, line.split(_FIELD_END), strict=False))


def comment_of(given: Fields) -> str:
    """Empty if the record is too short to have one: part of somebody's comment of several lines."""
    return given.get("Comment", "")


def record(given: Fields) -> JobRecord:
    """Raises ``ValueError`` and ``KeyError``."""
    state, flags = state_of([given["State"].partition(" ")[0]])  # "CANCELLED by 1000"
    exit_code, exit_signal = exit_of(given["ExitCode"], state)
    return JobRecord(
        job_id=int(given["JobIDRaw"]),
        name=given["JobName"],
        user=given["User"],
        comment=given["Comment"],
        partition=given["Partition"],
        state=state,
        flags=flags,
        nodes=() if given["NodeList"].startswith("None") else hosts(given["NodeList"]),
        submitted_at=_moment(given["Submit"]),
        started_at=_moment(given["Start"]),
        end_at=_moment(given["End"]),
        time_limit_s=seconds(given["TimelimitRaw"]),
        exit_code=exit_code,
        exit_signal=exit_signal,
    )


def _moment(text: str) -> float | None:
    return moment(int(text)) if text.isdigit() else None
