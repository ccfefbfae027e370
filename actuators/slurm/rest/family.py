"""What a family of slurmrestd's parsers is: where things are and how a job is written and read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from actuators.slurm.client import PartitionFacts, ReservationFacts
from actuators.slurm.job import JobRecord, JobSpec, JobState
from actuators.slurm.states import state_of
from actuators.slurm.texts import hosts, moment, number, output_path

Json = Mapping[str, Any]
Exit = tuple[int | None, int | None]
"""The batch script's exit code and the signal that ended it."""

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Of a job whose environment names none. slurmrestd gives a job nothing but what it is told, and refuses it with an
input/output error where that is nothing at all."""


class Family(Protocol):
    """The normaliser of some parsers. What cannot be read raises ``ValueError`` or ``KeyError``."""

    def submission(self, job: JobSpec) -> Json:
        """The body of ``POST /job/submit``. Raises ``ActionRejected`` for what the parser cannot say."""
        ...

    tells_states: bool
    """Whether there is an address that tells the states of some jobs, which are named."""

    listing_query: Mapping[str, str]
    """With which a listing of jobs tells no more of each than it must."""

    def signal_query(self, name: str) -> Mapping[str, str]:
        """Of ``DELETE /job/ID``, for a signal to the batch script alone."""
        ...

    def path(self, collection: str) -> str:
        """``jobs``, as the parser's addresses end."""
        ...

    def job(self, raw: Json) -> JobRecord: ...

    def partition(self, raw: Json) -> PartitionFacts: ...

    def reservation(self, raw: Json) -> ReservationFacts: ...


def text(value: object) -> str:
    """Slurm's words for nothing become nothing."""
    return "" if value in (None, "None", "(null)") else str(value)


def owner(raw: Json) -> str:
    """Raises ``ValueError`` where slurmrestd does not know the user's name, only a number."""
    if not raw["user_name"]:
        raise ValueError(
            f"the user with the number {raw.get('user_id')} has no name where slurmrestd runs: give that machine the "
            "site's user database"
        )
    return str(raw["user_name"])


def names(value: object) -> tuple[str, ...]:
    """A list, or names with commas between."""
    parts = value if isinstance(value, list) else text(value).split(",")
    return tuple(str(part) for part in parts if part)


def environment(job: JobSpec) -> dict[str, str]:
    return {"PATH": PATH, **job.environment}


def job_record(raw: Json, states: Iterable[str], exit_in: Callable[[JobState], Exit], restarts: int) -> JobRecord:
    """What all parsers name alike, with what they do not: the state's names, how it exited in that state, restarts."""
    job_id, name, user = int(raw["job_id"]), str(raw["name"]), owner(raw)
    state, flags = state_of(states)
    nodes = hosts(text(raw["nodes"]))
    exit_code, exit_signal = exit_in(state)
    minutes = number(raw["time_limit"])
    return JobRecord(
        job_id=job_id,
        name=name,
        user=user,
        comment=text(raw["comment"]),
        partition=str(raw["partition"]),
        state=state,
        flags=flags,
        reason=text(raw["state_reason"]),
        nodes=nodes,
        restarts=restarts,
        submitted_at=moment(raw["submit_time"]),
        started_at=moment(raw["start_time"]),
        end_at=moment(raw["end_time"]),
        time_limit_s=None if minutes is None else minutes * 60,
        exit_code=exit_code,
        exit_signal=exit_signal,
        output=output_path(text(raw["standard_output"]), job_id, name, user, nodes[0] if nodes else ""),
    )
