"""Whose a job is, by its comment and its name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark, mark_of_job

TEXTS = st.text(min_size=1, max_size=20)
MARK = Mark("hpc", "shared", "chat", 0, 3, gpus=2)


def job(mark: Mark) -> JobRecord:
    return JobRecord(1, mark.job_name, "tide", mark.comment, "gpu", JobState.RUNNING)


IDS = st.text("0123456789abcdef", max_size=16)


@given(st.builds(Mark, TEXTS, TEXTS, TEXTS, st.integers(0, 999), st.integers(0, 10**8), st.integers(0, 512), IDS))
def test_a_mark_is_read_back_as_it_was_written(mark: Mark) -> None:
    assert mark_of_job(job(mark)) == mark
    assert not set(mark.comment) & set("|'\"\n\t\\")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"name": "train"}, id="another name"),
        pytest.param({"comment": MARK.comment.replace("generation=3", "generation=4")}, id="another generation"),
        pytest.param({"comment": ""}, id="no comment"),
        pytest.param({"comment": "my run of tidegate: cluster=hpc"}, id="somebody's own words"),
        pytest.param({"comment": MARK.comment + " and more"}, id="more than ours"),
    ],
)  # fmt: skip
def test_what_is_not_provably_ours_is_nobodys(changes: dict[str, str]) -> None:
    assert mark_of_job(job(MARK)) == MARK
    assert mark_of_job(replace(job(MARK), **changes)) is None  # type: ignore[arg-type]  # a table of texts
