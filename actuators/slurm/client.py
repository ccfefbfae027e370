"""What a transport to Slurm must do: slurmrestd, the commands here, the commands over SSH. One contract suite for all.

A transport translates and judges; it does not wait, retry or decide. What Slurm answers is believed by body *and*
status: a listing that failed, was cut, or is "200 with nothing" raises, since unknown is never empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actuators.slurm.job import JobRecord, JobSpec
from broker.model.errors import TransientError


class SubmitUnclear(TransientError):
    """The job may have been submitted or not: the connection or the controller was lost in between. Look the name up
    before another attempt."""


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """``max_time_s`` is None where there is no limit, ``accounts`` and ``qos`` are empty where all are allowed.
    ``gpus`` is None where Slurm does not count them (it does with ``AccountingStorageTRES=gres/gpu``)."""

    name: str
    up: bool
    nodes: int
    max_time_s: float | None
    default_time_s: float | None
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class ReservationFacts:
    """Nodes set apart from ``start_at`` to ``end_at``. ``maintenance``: nobody's jobs run there."""

    name: str
    start_at: float
    end_at: float
    nodes: tuple[str, ...]
    partition: str | None
    maintenance: bool


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What a site says of itself: for ``tidegate doctor``, and for fitting wall times before maintenance.
    ``token_life_s`` is how long the present token lives in all; None without one. ``accounted`` is what accounting
    keeps of jobs beyond the usual (``AccountingStoreFlags``); None where none is asked."""

    release: str
    transport: str
    user: str
    partitions: tuple[PartitionFacts, ...]
    reservations: tuple[ReservationFacts, ...]
    clock_skew_s: float | None
    token_life_s: float | None = None
    accounted: tuple[str, ...] | None = None

    def partition(self, name: str) -> PartitionFacts | None:
        return next((known for known in self.partitions if known.name == name), None)

    @property
    def partition_names(self) -> str:
        """For errors."""
        return ", ".join(sorted(known.name for known in self.partitions)) or "none"


class SlurmClient(Protocol):
    """One way to one cluster, as one user. Every call raises ``TransientError`` where Slurm cannot be asked now and
    ``ActionRejected`` where it will never answer as asked (a token without rights, a version that fits none)."""

    async def submit(self, job: JobSpec) -> int:
        """The job's id. Raises ``CapacityUnavailable`` or ``ActionRejected`` (a partition, account or GRES that Slurm
        does not take, a limit above the partition's), with nothing submitted; ``SubmitUnclear`` if nobody can tell."""
        ...

    async def jobs(self) -> tuple[JobRecord, ...]:
        """All jobs of our user that the controller remembers, ended ones included, in one call. A record that cannot
        be read does not hide the others: it is left out and told in the log, and ``TransientError`` is raised if it
        may be one of ours."""
        ...

    async def unchanged(self, jobs: Sequence[JobRecord]) -> bool | None:
        """Whether all of ``jobs`` are in the state that they were listed in, asked at the price of these jobs alone.
        What else may have changed (a job's end, a requeue that was over between two looks) is not seen. None where
        nobody tells: this transport has no such question, or it was not answered. Raises nothing."""
        ...

    async def ended(self, within_s: float) -> tuple[JobRecord, ...]:
        """Jobs of our user that ended in the last ``within_s``, by the site's accounting, which remembers what the
        controller has forgotten. None where there is no accounting, or none that this transport asks."""
        ...

    async def cancel(self, job_id: int) -> None:
        """End a job, all of it. Already gone is success."""
        ...

    async def signal(self, job_id: int, name: str) -> None:
        """Send ``name`` (``TERM``, ``USR1``) to the batch script alone. Already gone is success."""
        ...

    async def facts(self) -> SiteFacts: ...

    async def close(self) -> None: ...
