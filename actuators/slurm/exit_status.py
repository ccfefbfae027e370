"""The status with which a batch script ended, in Slurm's spellings. Pure."""

from __future__ import annotations

from actuators.slurm.job import LIVING, JobState


def exit_of(status: int | str, state: JobState) -> tuple[int | None, int | None]:
    """The exit code and the signal, one of them None; both None of a job that has not ended. ``status`` is what
    ``wait(2)`` gave (768, and 15), or ``code:signal`` (``3:0`` and ``0:15``: squeue of 26.05). Raises
    ``ValueError``."""
    text = str(status).strip()
    if ":" in text:
        code, signalled = map(int, text.split(":"))
    else:
        code, signalled = int(text) >> 8 & 0xFF, int(text) & 0x7F
    return ended(code, signalled, state)


def ended(code: int | None, signalled: int | None, state: JobState) -> tuple[int | None, int | None]:
    """A job that never began, or that ended with its node, has the code 0 in Slurm's records and did not exit."""
    if state in LIVING:
        return None, None
    if signalled:
        return None, signalled
    if code is None or (code == 0 and state not in (JobState.COMPLETED, JobState.FAILED)):
        return None, None
    return code, None
