"""Slurm's reasons in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm.reasons import Who, explain

REASONS = [
    ("Priority", "behind jobs of higher priority", Who.NOBODY),
    ("Resources", "for nodes or GPUs to come free", Who.NOBODY),
    ("BeginTime", "for the time at which it may begin", Who.NOBODY),
    ("Dependency", "for another job", Who.US),
    ("ReqNodeNotAvail", "down, drained or reserved", Who.ADMINS),
    ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "down, drained or reserved", Who.ADMINS),
    ("ReqNodeNotAvail, Reserved for maintenance", "down, drained or reserved", Who.ADMINS),
    ("(Resources)", "for nodes or GPUs", Who.NOBODY),
    ("None", "next look", Who.NOBODY),
    ("", "next look", Who.NOBODY),
    ("PartitionTimeLimit", "over its partition's limit", Who.US),
    (
        "Job's account not permitted to use this partition (paid allows hpc not other)",
        "partition does not take its account",
        Who.US,
    ),
    ("Job's QOS not permitted to use this partition (paid allows a not b)", "quality of service", Who.US),
    ("JobHeldAdmin", "an administrator holds it", Who.ADMINS),
    ("AssocGrpGRES", "of its account as a whole on GPUs", Who.NOBODY),
    ("AssocGrpCpuLimit", "of its account as a whole on processor cores", Who.NOBODY),
    ("AssocMaxJobsLimit", "for one user on running jobs", Who.NOBODY),
    ("QOSMaxJobsPerUserLimit", "quality of service for one user or job on running jobs", Who.NOBODY),
    ("QOSMaxGRESPerUser", "quality of service for one user or job on GPUs", Who.NOBODY),
    ("QOSGrpNodeLimit", "quality of service as a whole on nodes", Who.NOBODY),
    ("QOSMaxSubmitJobPerUserLimit", "on jobs in the queue", Who.NOBODY),
    ("QOSMaxWallDurationPerJobLimit", "this one job is over the limit", Who.US),
    ("QOSMaxCpuPerJobLimit", "this one job is over the limit", Who.US),
    ("AssocGrpGRESMinutes", "minutes of GPUs", Who.ADMINS),
    ("AssocGrpCPURunMinutesLimit", "minutes, still to run, of processor cores", Who.ADMINS),
    ("AssocGrpBilling", "billing units", Who.NOBODY),
    ("SomethingOfTomorrow", "'SomethingOfTomorrow', which this Tidegate does not know", Who.ADMINS),
]


@pytest.mark.parametrize(("reason", "words", "who"), REASONS, ids=[r[0] or "nothing" for r in REASONS])
def test_a_reason_says_what_is_waited_for_and_who_can_change_it(reason: str, words: str, who: Who) -> None:
    waiting = explain(reason)
    assert words in waiting.words
    assert waiting.who is who
    assert str(waiting).startswith("it waits ")


@given(st.text(max_size=60))
def test_no_reason_is_an_error(reason: str) -> None:
    assert str(explain(reason))
