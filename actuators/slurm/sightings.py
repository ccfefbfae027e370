"""What a job and its agent together say of a replica. Pure."""

from __future__ import annotations

from actuators.slurm.job import CONFIGURING, JobRecord, JobState
from actuators.slurm.marks import Mark
from actuators.slurm.reasons import explain
from broker.model.agents import AgentEnd, AgentPhase, AgentReport, EndCause
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
    if report is not None and report.drain is not None and not told:
        leaving, detail = True, f"its agent asks to be drained: {report.drain.cause.value.replace('_', ' ')}"
    elif end is not None:
        detail = _end_words(job, end, told)
    elif job.state is JobState.SUSPENDED:
        detail = "the job is suspended"
    elif CONFIGURING in job.flags:
        detail = "its nodes are being made ready"
    url = report.url if report is not None and report.phase in _ANSWERS else None
    return _shown(job, mark, ReplicaPhase.STOPPING if leaving else ReplicaPhase.STARTING, url=url, detail=detail)


def _shown(
    job: JobRecord, mark: Mark, phase: ReplicaPhase, *,
    url: str | None = None, detail: str = "", end: AgentEnd | None = None,
) -> ObservedReplica:  # fmt: skip
    over = phase in ENDED
    exit_code = job.exit_code if end is None or end.exit_code is None else end.exit_code
    return ObservedReplica(
        replica_id=mark.replica_id,
        model_id=mark.model_id,
        generation=mark.generation,
        phase=phase,
        url=None if over else url,
        not_after=None if over or job.state is JobState.PENDING else job.end_at,
        started_at=job.started_at,
        exit_code=exit_code if over else None,
        detail=detail,
    )


def _end_words(job: JobRecord, end: AgentEnd | None, wanted: bool) -> str:
    """The agent knows more than Slurm, whose COMPLETED may be a server whose engine died, unless Slurm ended it: an
    agent that is told to exit cannot know who wanted that."""
    slurm = f"{job.state.value}: {_ENDS.get(job.state, 'it ended')}"
    if end is None:
        return slurm
    agents = f"{end.cause.value.replace('_', ' ')}: {end.detail or slurm}"
    return f"{slurm}; its agent says {agents}" if job.state in _SLURMS_DOING and not wanted else agents
