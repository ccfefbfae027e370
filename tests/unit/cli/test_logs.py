"""``tidegate replicas logs`` of a Slurm job: where its output is seen, and where it is not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark
from actuators.slurm.outputs import LAST_BYTES, last_lines
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


def test_of_an_output_without_ends_of_lines_the_end_is_shown(tmp_path: Path) -> None:
    """A bar of progress over a day filled the memory."""
    output = tmp_path / "chat-0-g1-7.out"
    with output.open("wb") as file:
        file.truncate(LAST_BYTES * 4)
        file.seek(0, os.SEEK_END)
        file.write(b"\nready\n")
    first, *rest = last_lines(output, 100)
    assert (len(first), rest) == (LAST_BYTES - len("\nready\n"), ["ready"])


def test_an_output_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "chat-0-g1-7.out")
    with pytest.raises(OSError, match="no regular file"):
        last_lines(tmp_path / "chat-0-g1-7.out", 100)


def test_an_output_elsewhere_is_found_by_the_jobs_record(tmp_path: Path, jobs: Path) -> None:
    (tmp_path / "moved.out").write_text("one\n")
    assert logs(tmp_path, replace(JOB, output=str(tmp_path / "moved.out"))) == (Exit.OK, "one\n")


def test_an_output_that_this_machine_does_not_see_is_told_with_its_node(tmp_path: Path, jobs: Path) -> None:
    status, told = logs(tmp_path, JOB)
    assert (status, "ssh n4 tail -n 2 /scratch/chat-0-g1-17.out" in told) == (Exit.FAILED, True)


def test_a_job_that_waits_has_written_nothing(tmp_path: Path, jobs: Path) -> None:
    status, told = logs(tmp_path, replace(JOB, state=JobState.PENDING, nodes=(), reason="Priority"))
    assert (status, "job 17 has written nothing" in told, "Priority" in told) == (Exit.FAILED, True, True)


OTHER = replace(MARK, cluster="other")
FOREIGN = {
    "comment": replace(JOB, comment="mine"),
    "name": replace(JOB, name="mine"),
    "cluster": replace(JOB, comment=OTHER.comment, name=OTHER.job_name),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_the_output_of_a_job_that_is_not_ours_is_not_read(tmp_path: Path, jobs: Path, foreign: JobRecord) -> None:
    (tmp_path / "theirs.out").write_text("one\n")
    status, told = logs(tmp_path, replace(foreign, output=str(tmp_path / "theirs.out")))
    assert (status, f"there is no log of 'chat-0-g1' in {jobs}" in told) == (Exit.FAILED, True)


def test_a_slurm_that_cannot_be_asked_is_told(tmp_path: Path, jobs: Path) -> None:
    status, told = logs(tmp_path, replace(JOB, name="x" * 300))
    assert (status, "Slurm does not tell where its job writes" in told) == (Exit.FAILED, True)
