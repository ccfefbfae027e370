"""Slurm's names of states, base and flags, as the transports send them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from actuators.slurm.job import COMPLETING, CONFIGURING, JobState

IMPLIED = {
    COMPLETING: JobState.ENDING,
    CONFIGURING: JobState.RUNNING,
    "EXPEDITING": JobState.PENDING,
    "LAUNCH_FAILED": JobState.PENDING,
    "POWER_UP_NODE": JobState.RUNNING,
    "RECONFIG_FAIL": JobState.FAILED,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESIZING": JobState.RUNNING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "REVOKED": JobState.CANCELLED,
    "SIGNALING": JobState.RUNNING,
    "SPECIAL_EXIT": JobState.PENDING,
    "STAGE_OUT": JobState.ENDING,
    "STOPPED": JobState.RUNNING,
    "UPDATE_DB": JobState.ENDING,
}
"""Each flag with the base state that a job has where a listing shows the flag alone (``slurm.h``, ``job_states``)."""


def state_of(names: Iterable[str]) -> tuple[JobState, frozenset[str]]:
    """The base state and the flags of a job shown as ``names``: one (``COMPLETING``), or all (``FAILED``,
    ``COMPLETING``). Raises ``ValueError`` for a name that is none, and where there is no name."""
    base: JobState | None = None
    flags = set()
    for name in names:
        if name in IMPLIED:
            flags.add(name)
        else:
            base = JobState(name)
    if base is None and not flags:
        raise ValueError("a job without a state")
    return base or _implied_by(flags), frozenset(flags)


def _implied_by(flags: set[str]) -> JobState:
    """A job that is being put back into the queue still ends on its nodes: it waits, whatever else is shown."""
    implied = {IMPLIED[flag] for flag in flags}
    return next(state for state in (JobState.PENDING, JobState.ENDING, *sorted(implied)) if state in implied)
