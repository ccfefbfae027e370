"""What accounting says of jobs, as 22.05 prints it."""

from __future__ import annotations

import pytest

from actuators.slurm.job import JobState
from actuators.slurm.sacct import comment_of, fields, record

ENDED = (
    "9", "launch-0123456789abcdef", "root", "tidegate: cluster=c", "gpu", "CANCELLED by 1000", "n[1-2]", "1790000000",
    "1790000010", "1790000020", "60", "0:15",
)  # fmt: skip


def line(*cells: str) -> str:
    return "\x1f".join(cells) + "\n"


def test_a_job_that_was_cancelled_by_somebody() -> None:
    (given,) = fields(line(*ENDED))
    job = record(given)
    assert (job.state, job.exit_code, job.exit_signal, job.nodes) == (JobState.CANCELLED, None, 15, ("n1", "n2"))
    assert (job.submitted_at, job.started_at, job.end_at) == (1_790_000_000.0, 1_790_000_010.0, 1_790_000_020.0)
    assert (job.time_limit_s, job.gone) == (3600.0, True)


def test_a_job_that_never_ran() -> None:
    (given,) = fields(line(*ENDED[:5], "CANCELLED", "None assigned", "1790000000", "None", "1790000020", "60", "0:0"))
    job = record(given)
    assert (job.nodes, job.started_at, job.exit_code) == ((), None, None)


@pytest.mark.parametrize("text", [line("9", "x"), "of a comment of two lines\n"], ids=["cut", "a comment's rest"])
def test_a_line_that_is_no_record_is_not_ours(text: str) -> None:
    (given,) = fields(text)
    assert comment_of(given) == ""
    with pytest.raises(KeyError):
        record(given)
