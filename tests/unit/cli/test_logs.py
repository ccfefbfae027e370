"""``tidegate replicas logs`` of a Slurm job: where its output is seen, and where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark
from cli.output import Exit
from tests.support.command_line import tidegate
from tests.support.pretended_squeue import pretended_squeue

MARK = Mark("hpc", "shared", "chat", 0, 1, 1)
JOB = JobRecord(
    17, MARK.job_name, "tide", MARK.comment, "gpu", JobState.RUNNING, nodes=("n4",), output="/scratch/chat-0-g1-17.out"
)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """The folder where jobs write."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    return folder


def logs(folder: Path, *shown: JobRecord) -> tuple[int, str]:
    """Of the replica chat-0-g1, on a site whose Slurm shows these jobs."""
    job = f"job: {{broker_url: 'http://login1:8600', directory: {folder / 'jobs'}}}"
    path = folder / "site.yaml"
    path.write_text(
        f"cluster: hpc\npools: {{shared: {{kind: slurm, gpus: 8, partition: gpu, time_limit: 4h, {job}}}}}\n"
    )
    environment = pretended_squeue(folder, shown)
    result = tidegate("replicas", "logs", "chat-0-g1", "-n", "2", "--site", path, environment=environment)
    return result.exit_code, result.output


def test_the_end_of_a_jobs_output_is_shown_without_slurm(tmp_path: Path, jobs: Path) -> None:
    (jobs / "chat-0-g1-9.out").write_text("of another life\n")
    (jobs / "chat-0-g1-17.out").write_text("one\ntwo [2]\nthree\n")
    (jobs / "chat-0-g10-99.out").write_text("of another replica\n")
    assert logs(tmp_path) == (Exit.OK, "two [2]\nthree\n")


def test_an_output_elsewhere_is_found_by_the_jobs_record(tmp_path: Path, jobs: Path) -> None:
    (tmp_path / "moved.out").write_text("one\n")
    assert logs(tmp_path, replace(JOB, output=str(tmp_path / "moved.out"))) == (Exit.OK, "one\n")


def test_an_output_that_this_machine_does_not_see_is_told_with_its_node(tmp_path: Path, jobs: Path) -> None:
    status, told = logs(tmp_path, JOB)
    assert (status, "ssh n4 tail -n 2 /scratch/chat-0-g1-17.out" in told) == (Exit.FAILED, True)


def test_a_job_that_waits_has_written_nothing(tmp_path: Path, jobs: Path) -> None:
    status, told = logs(tmp_path, replace(JOB, state=JobState.PENDING, nodes=(), reason="Priority"))
    assert (status, "job 17 has written nothing" in told, "Priority" in told) == (Exit.FAILED, True, True)


@pytest.mark.parametrize("foreign", [replace(JOB, comment="mine"), replace(JOB, name="mine")], ids=["comment", "name"])
def test_the_output_of_a_job_that_is_not_ours_is_not_read(tmp_path: Path, jobs: Path, foreign: JobRecord) -> None:
    status, told = logs(tmp_path, foreign)
    assert (status, f"there is no log of 'chat-0-g1' in {jobs}" in told) == (Exit.FAILED, True)


def test_a_slurm_that_cannot_be_asked_is_told(tmp_path: Path, jobs: Path) -> None:
    status, told = logs(tmp_path, replace(JOB, name="x" * 300))
    assert (status, "Slurm does not tell where its job writes" in told) == (Exit.FAILED, True)
