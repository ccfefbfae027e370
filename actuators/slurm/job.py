"""A job as it is asked for and as Slurm tells of it, whatever the transport. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

COMMENT_MARK = "tidegate:"
"""Every comment of ours begins with it: a record that cannot be read, and does not begin so, is somebody else's."""


class JobState(StrEnum):
    """Slurm's base states by their long names. A transport that reads a name that is not here raises: an unknown state
    is no state."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    ENDING = "ENDING"
    """It has ended, and how is not told yet: the commands, and slurmrestd up to v0.0.39, show ``COMPLETING`` in place
    of the base state. The same record tells it once the nodes are clean."""


LIVING = frozenset({JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED})

COMPLETING = "COMPLETING"
"""The flag of a job whose processes are being ended: its nodes are not free yet, so it is not gone."""
CONFIGURING = "CONFIGURING"
"""The flag of a job whose nodes are being made ready."""


@dataclass(frozen=True, slots=True)
class WarningSignal:
    """Sent to the batch script alone, ``before_s`` before the wall time; Slurm may be up to 60 s early."""

    name: str
    before_s: int


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job to submit. ``name`` is the ``action_id``: with ``comment`` and our user it proves that a job is ours.

    ``time_limit_s`` is rounded up to whole minutes, Slurm's unit. ``gpus`` are of each node. None and empty fields are
    left to the cluster's defaults. A job is never requeued by Slurm: the core replaces what ends. ``comment`` begins
    with ``COMMENT_MARK``. ``script`` is of a shell (some transports put lines before its first command) and needs no
    ``#SBATCH`` lines, which slurmrestd does not read.
    """

    name: str
    comment: str
    script: str
    partition: str
    time_limit_s: float
    output: str
    working_directory: str
    nodes: int = 1
    gpus: int = 0
    gpu_type: str | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    licenses: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    warning: WarningSignal | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What Slurm tells of one job. Times are in seconds since the epoch, None where Slurm has none yet.

    ``end_at`` is the present end of its life, which preemption and ``scontrol update`` move; never the limit asked for.
    (``job_id``, ``restarts``) names one run: a requeued job keeps its id and changes its node and start. ``flags`` are
    Slurm's additions to the base state (``COMPLETING``). ``exit_code`` and ``exit_signal`` are the batch script's.
    """

    job_id: int
    name: str
    user: str
    comment: str
    partition: str
    state: JobState
    flags: frozenset[str] = frozenset()
    reason: str = ""
    nodes: tuple[str, ...] = ()
    restarts: int = 0
    submitted_at: float | None = None
    started_at: float | None = None
    end_at: float | None = None
    time_limit_s: float | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    output: str = ""

    @property
    def gone(self) -> bool:
        """Ended, and nothing of it is left on its nodes."""
        return self.state not in LIVING and COMPLETING not in self.flags
