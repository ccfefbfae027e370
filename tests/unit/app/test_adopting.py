"""Which jobs `tidegate adopt` takes for ours, and what it would do with each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actuators.slurm.job import COMPLETING, JobRecord, JobState
from actuators.slurm.marks import Mark
from broker.app.adopting import Verdict, judge
from broker.model.state import BrokerState, ControlState
from tests.support.world import serving

MARK = Mark("test", "shared", "chat", 0, 1, 1)


def job(mark: Mark = MARK, **changes: object) -> JobRecord:
    known = JobRecord(7, mark.job_name, "tide", mark.comment, "gpu", JobState.RUNNING, nodes=("n1",))
    return replace(known, **changes)  # type: ignore[arg-type]  # a table of changes


def verdict(job: JobRecord, state: BrokerState | None = None) -> Verdict | None:
    judged = judge(job, "test", {"shared"}, {"chat"}, state or BrokerState())
    return None if judged is None else judged.verdict


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED])
def test_a_living_job_that_is_ours_and_not_on_record_is_taken_back(state: JobState) -> None:
    assert verdict(job(state=state)) is Verdict.TAKE


def test_a_job_on_record_is_left_to_the_broker() -> None:
    assert verdict(job(), serving().state) is Verdict.KNOWN


@pytest.mark.parametrize("state", [BrokerState(), serving().state], ids=["not on record", "of the same name on record"])
def test_a_job_that_another_log_began_is_taken_back_with_a_warning(state: BrokerState) -> None:
    judged = judge(job(replace(MARK, log_id="abcd0001")), "test", {"shared"}, {"chat"}, state)
    assert judged is not None
    assert (judged.verdict, judged.words) == (Verdict.TAKE, "another log began it: is no other broker running?")


def test_a_job_of_a_log_that_was_taken_over_is_as_the_own_logs() -> None:
    state = BrokerState(ControlState(log_ids=("0000ffff", "abcd0001")))
    judged = judge(job(replace(MARK, log_id="abcd0001")), "test", {"shared"}, {"chat"}, state)
    assert judged is not None
    assert (judged.verdict, judged.words) == (Verdict.TAKE, "")


FOREIGN = {
    "our name and somebody's comment": job(comment="mine"),
    "our comment and somebody's name": job(name="launch-0123456789abcdef"),
    "a name made of another comment": job(comment=replace(MARK, generation=2).comment),
    "another cluster's": job(replace(MARK, cluster="other")),
    "of a pool that is not declared": job(replace(MARK, pool_id="old")),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_only_looks_like_ours_is_shown_and_left_alone(foreign: JobRecord) -> None:
    assert verdict(foreign) is Verdict.LEAVE


def test_other_jobs_of_the_same_account_are_not_even_shown() -> None:
    assert verdict(job(name="training", comment="")) is None


@pytest.mark.parametrize("flags", [frozenset(), frozenset({COMPLETING})], ids=["gone", "still on its nodes"])
def test_a_job_that_has_ended_is_not_shown(flags: frozenset[str]) -> None:
    assert verdict(job(state=JobState.CANCELLED, flags=flags)) is None


@pytest.mark.parametrize(
    "useless", [job(restarts=1), job(replace(MARK, model_id="retired"))], ids=["requeued", "of no model"]
)
def test_a_job_that_the_broker_has_no_use_for_is_told_to_be_ended(useless: JobRecord) -> None:
    assert verdict(useless) is Verdict.END
