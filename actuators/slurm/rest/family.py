"""What a family of slurmrestd's parsers is: where things are and how a job is written and read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from actuators.slurm.client import PartitionFacts, ReservationFacts
from actuators.slurm.job import JobRecord, JobSpec

Json = Mapping[str, Any]

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Of a job whose environment names none. slurmrestd gives a job nothing but what it is told, and refuses it with an
input/output error where that is nothing at all."""


class Family(Protocol):
    """The normaliser of some parsers. What cannot be read raises ``ValueError`` or ``KeyError``."""

    def submission(self, job: JobSpec) -> Json:
        """The body of ``POST /job/submit``. Raises ``ActionRejected`` for what the parser cannot say."""
        ...

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
