"""What a job's warning makes of its replica: its broker knows the wall time by itself, a preemption it does not."""

from __future__ import annotations

import pytest

from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark
from actuators.slurm.sightings import sighting
from broker.model.agents import AgentPhase, AgentReport, DrainCause, DrainRequest
from broker.model.replica import ReplicaPhase

MARK = Mark("test", "pool", "chat", 0, 1, 1)


@pytest.mark.parametrize(
    ("cause", "end_at", "phase"),
    [
        pytest.param(DrainCause.WALL_TIME, 1000.0, ReplicaPhase.STARTING, id="an end that Slurm has told serves on"),
        pytest.param(DrainCause.WALL_TIME, None, ReplicaPhase.STOPPING, id="an end that nobody has told leaves"),
        pytest.param(DrainCause.PREEMPTION, 1000.0, ReplicaPhase.STOPPING, id="a preemption leaves"),
        pytest.param(DrainCause.TERMINATED, 1000.0, ReplicaPhase.STOPPING, id="one that was told to exit leaves"),
    ],
)
def test_the_warning_of_a_wall_time_withdraws_nobody_before_a_successor_could_be_ready(
    cause: DrainCause, end_at: float | None, phase: ReplicaPhase
) -> None:
    """With a drain limit longer than a quarter of the wall time all replicas of a model left at the warning, and only
    then successors were asked for."""
    job = JobRecord(7, MARK.job_name, "tide", MARK.comment, "gpu", JobState.RUNNING, end_at=end_at)
    report = AgentReport(
        "0" * 8, 1, 900.0, "test", "chat", 0, 1, AgentPhase.DRAINING, "n1",
        job_id=job.job_id, url="http://n1:1", drain=DrainRequest(cause, 990.0),
    )  # fmt: skip
    seen = sighting(job, MARK, report, told=False)
    warned = phase is ReplicaPhase.STARTING
    ends_at = 990.0 if warned else end_at  # the agent ends the engine by then
    assert (seen.phase, seen.url, seen.not_after, seen.warned) == (phase, "http://n1:1", ends_at, warned)
