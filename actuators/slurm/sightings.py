"""What a job and its agent together say of a replica. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from actuators.slurm.job import CONFIGURING, JobRecord, JobState
from actuators.slurm.marks import Mark
from actuators.slurm.reasons import explain
from broker.model.agents import AgentEnd, AgentPhase, AgentReport, DrainCause, DrainRequest, EndCause
from broker.model.replica import ENDED, ObservedReplica, ReplicaPhase

_ANSWERS = frozenset({AgentPhase.READY, AgentPhase.DRAINING})

_ENDS = {
    JobState.COMPLETED: "its script exited by itself",
    JobState.CANCELLED: "somebody cancelled the job",
    JobState.FAILED: "its script exited with an error",
    JobState.TIMEOUT: "the job reached its wall time",
    JobState.NODE_FAIL: "its node went down",
    JobState.PREEMPTED: "another job took its nodes",
    JobState.BOOT_FAIL: "its node did not boot",
    JobState.DEADLINE: "the job could not end before its deadline",
    JobState.OUT_OF_MEMORY: "the job went over its memory",
}

_ORDERED_ENDS = dict.fromkeys((JobState.COMPLETED, JobState.CANCELLED), "it was told to exit")

_SLURMS_DOING = frozenset(_ENDS) - {JobState.COMPLETED, JobState.FAILED}


def sighting(job: JobRecord, mark: Mark, report: AgentReport | None, *, told: bool) -> ObservedReplica:
    """``told``: it was ordered to exit. ``report`` is its agent's, None while that is silent. A job that was requeued
    is no replica any more, whatever it does: its name stands for one run."""
    if job.restarts:
        return _shown(job, mark, ReplicaPhase.FAILED, detail="the job was requeued, and its replica ended with its run")
    if report is not None and report.job_id not in (None, job.job_id):
        report = None
    end = None if report is None else report.end
    if job.gone:
        wanted = told or (end is not None and end.cause is EndCause.STOPPED and job.state not in _SLURMS_DOING)
        phase = ReplicaPhase.GONE if wanted else ReplicaPhase.FAILED
        return _shown(job, mark, phase, end=end, detail=_end_words(job, end, wanted))
    if job.state is JobState.PENDING:
        detail = f"{job.reason}: {explain(job.reason)}" if job.reason else ""
        return _shown(job, mark, ReplicaPhase.STOPPING if told else ReplicaPhase.PENDING, detail=detail)
    leaving = told or end is not None or job.state not in (JobState.RUNNING, JobState.SUSPENDED)
    detail = "" if report is None else report.detail
    drain = None if report is None else report.drain
    warned = drain if drain is not None and _foreseen(job, drain) else None
    if drain is not None and warned is None and not told:
        leaving, detail = True, f"its agent asks to be drained: {drain.cause.value.replace('_', ' ')}"
    elif end is not None:
        detail = _end_words(job, end, told)
    elif job.state is JobState.SUSPENDED:
        detail = "the job is suspended"
    elif CONFIGURING in job.flags:
        detail = "its nodes are being made ready"
    answers = report if report is not None and report.phase in _ANSWERS else None
    phase = ReplicaPhase.STOPPING if leaving else ReplicaPhase.STARTING
    return _shown(job, mark, phase, detail=detail, answers=answers, warned=warned)


def _foreseen(job: JobRecord, drain: DrainRequest) -> bool:
    """Whether its end was known without the warning, so that a successor may come first. Short jobs are warned long
    before they must be drained, and all replicas of a model were once withdrawn before any other was asked for."""
    return drain.cause is DrainCause.WALL_TIME and job.end_at is not None


def _shown(
    job: JobRecord, mark: Mark, phase: ReplicaPhase, *,
    detail: str = "", answers: AgentReport | None = None, end: AgentEnd | None = None,
    warned: DrainRequest | None = None,
) -> ObservedReplica:  # fmt: skip
    """``answers`` is the report of an agent whose engine does."""
    over = phase in ENDED
    exit_code = job.exit_code if end is None or end.exit_code is None else end.exit_code
    return ObservedReplica(
        replica_id=mark.replica_id,
        model_id=mark.model_id,
        generation=mark.generation,
        phase=phase,
        url=None if answers is None else answers.url,
        not_after=None if over or job.state is JobState.PENDING else _ends_at(job, warned),
        started_at=job.started_at,
        exit_code=exit_code if over else None,
        detail=detail,
        start_place=None if answers is None else answers.start_place,
        warned=warned is not None,
        runs_as=runs_as(job.job_id, job.nodes),
    )


def runs_as(job_id: int, nodes: Sequence[str] = ()) -> str:
    return f"job {job_id} on {', '.join(nodes)}" if nodes else f"job {job_id}"


def _ends_at(job: JobRecord, warned: DrainRequest | None) -> float | None:
    """An agent that was warned ends its engine by itself. Before Slurm 23 it does not know the job's end, and a warning
    may come a minute early."""
    return job.end_at if warned is None or job.end_at is None else min(job.end_at, warned.by)


def _end_words(job: JobRecord, end: AgentEnd | None, wanted: bool) -> str:
    """The agent knows more than Slurm, whose COMPLETED may be a server whose engine died, unless Slurm ended it: an
    agent that is told to exit cannot know who wanted that."""
    ends = _ENDS | _ORDERED_ENDS if wanted else _ENDS
    slurm = f"{job.state.value}: {ends.get(job.state, 'it ended')}"
    if end is None:
        return slurm
    agents = f"{end.cause.value.replace('_', ' ')}: {end.detail or slurm}"
    return f"{slurm}; its agent says {agents}" if job.state in _SLURMS_DOING and not wanted else agents
