"""The status with which a batch script ended, as ``wait(2)`` tells it and Slurm passes on. Pure."""

from __future__ import annotations

from actuators.slurm.job import LIVING, JobState


def exit_of(status: int, state: JobState) -> tuple[int | None, int | None]:
    """The exit code and the signal, one of them None; both None of a job that has not ended. A job that never began,
    or that ended with its node, has the status 0 in Slurm's records and did not exit."""
    if state in LIVING or (status == 0 and state not in (JobState.COMPLETED, JobState.FAILED)):
        return None, None
    signalled = status & 0x7F
    return (None, signalled) if signalled else (status >> 8 & 0xFF, None)
