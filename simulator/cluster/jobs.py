"""Jobs: what is asked for, what became of it, and what the model tells while it happens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from simulator.cluster.nodes import NodeSet


class JobState(StrEnum):
    """Slurm's names. TIMEOUT: ended by its time limit. NODE_FAIL: a node went down under it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"


@dataclass(frozen=True, slots=True)
class JobRequest:
    """``gpus`` on each of ``nodes`` nodes of a partition, for ``limit_s`` at most.

    ``run_s``: how long it runs if nothing ends it before; None for a server, which runs until it is told to end.
    A higher ``priority`` goes first within a partition's tier. ``requeue``: after preemption or a node's failure it
    waits in the queue again, under the same id; otherwise that is its end.
    """

    name: str
    partition: str
    nodes: int
    gpus: int
    limit_s: float
    run_s: float | None = None
    priority: float = 0.0
    requeue: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """A job as the model keeps it until it ends; for readers only.

    ``ends_at`` is the end that the scheduler counts with: start plus limit, less once it is being preempted.
    ``place`` is its partition and GPUs on each node, ``allowed`` the nodes that have them.
    ``restarts`` counts requeues: (``job_id``, ``restarts``) names one run of it.
    """

    job_id: int
    request: JobRequest
    submitted_at: float
    rank: tuple[float, float, float, int]
    place: tuple[str, int]
    allowed: NodeSet
    state: JobState = JobState.PENDING
    nodes: NodeSet = 0
    started_at: float | None = None
    ends_at: float = 0.0
    eligible_at: float = 0.0
    preempted: bool = False
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job that has ended, as accounting keeps it. ``started_at`` is None if it never ran, its last start if it was
    requeued; ``submitted_at`` is the first submission."""

    job_id: int
    request: JobRequest
    state: JobState
    submitted_at: float
    started_at: float | None
    ended_at: float
    nodes: NodeSet
    restarts: int


@dataclass(frozen=True, slots=True)
class Started:
    job_id: int
    at: float
    nodes: NodeSet
    ends_at: float


@dataclass(frozen=True, slots=True)
class PreemptionWarned:
    """It was told to end by ``ends_at``: its partition's grace from now. Without a grace there is no warning."""

    job_id: int
    at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Requeued:
    """It lost its nodes and waits again. ``reason`` is PREEMPTED or NODE_FAIL."""

    job_id: int
    at: float
    reason: JobState


@dataclass(frozen=True, slots=True)
class Ended:
    """The model keeps nothing of it any more."""

    job_id: int
    at: float
    record: JobRecord


JobEvent: TypeAlias = Started | PreemptionWarned | Requeued | Ended
