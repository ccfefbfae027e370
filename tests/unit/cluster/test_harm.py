"""Harm is counted job by job against the same trace without the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.cluster.harm import bounded_slowdown, harm, jittered
from simulator.cluster.jobs import Ended, JobRecord, JobRequest, JobState
from simulator.cluster.model import Arrival, SlurmModel, run_to_end
from tests.unit.cluster.clusters import cluster, job


def record(name: str, wait_s: float, *, run_s: float = 100.0, nodes: int = 1, submitted_at: float = 0.0) -> JobRecord:
    request = job(name, nodes, run_s)
    start = submitted_at + wait_s
    return JobRecord(1, request, JobState.COMPLETED, submitted_at, start, start + run_s, 1, 0)


@pytest.mark.parametrize(
    ("wait_s", "run_s", "expected"), [(0, 100, 1), (100, 100, 2), (9, 1, 1), (19, 1, 2), (5, 0, 1)]
)
def test_slowdown_is_bounded_for_short_jobs(wait_s: float, run_s: float, expected: float) -> None:
    assert bounded_slowdown(wait_s, run_s) == expected


def test_a_run_does_itself_no_harm() -> None:
    same = [record("a", 5), record("b", 70, nodes=8)]
    for line in harm(same, same):
        assert (line.delay_mean_s, line.delay_p99_s, line.delayed_share, line.lost) == (0, 0, 0, 0)
        assert line.slowdown_before == line.slowdown_after


def test_delays_are_paired_by_job_and_told_by_size() -> None:
    before = [record("small", 0), record("other", 50), record("big", 0, nodes=100)]
    after = [record("other", 20), record("big", 300, nodes=100), record("small", 10)]
    lines = {line.size: line for line in harm(before, after)}
    assert list(lines) == ["1", "over 64", "all"]
    assert (lines["1"].jobs, lines["1"].delay_mean_s, lines["1"].delayed_share) == (2, -10.0, 0.5)
    assert (lines["over 64"].delay_mean_s, lines["over 64"].slowdown_before, lines["over 64"].slowdown_after) == (
        300.0, 1.0, 4.0,
    )  # fmt: skip
    assert lines["all"].jobs == 3


def test_jobs_that_did_not_run_beside_the_others_are_lost_not_left_out() -> None:
    before = [record("gone", 0), record("killed", 0), record("kept", 0)]
    after = [replace(record("killed", 5), state=JobState.PREEMPTED), record("kept", 1)]
    (_, line) = harm(before, after)
    assert (line.jobs, line.lost, line.delay_mean_s) == (1, 2, 1.0)


def test_where_all_are_lost_there_is_no_delay_to_tell() -> None:
    (line, _) = harm([record("gone", 0)], [])
    assert (line.jobs, line.lost) == (0, 1)
    assert line.delay_mean_s is None
    assert line.slowdown_after is None


def test_jobs_of_one_name_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="two batch jobs are named a"):
        harm([record("a", 0), record("a", 1)], [])


def test_delay_counts_from_the_jobs_own_submission() -> None:
    (line, _) = harm([record("a", 30)], [record("a", 30, submitted_at=4.0)])
    assert line.delay_mean_s == 0.0


def test_jitter_moves_submissions_by_seconds_and_keeps_the_jobs() -> None:
    arrivals = [Arrival(float(at), job(str(at))) for at in range(0, 100, 3)]
    moved = jittered(arrivals, 10.0, np.random.default_rng(1))
    assert [each.at for each in moved] == sorted(each.at for each in moved)
    by_name = {each.request.name: each.at for each in moved}
    assert all(0 <= by_name[each.request.name] - each.at <= 10 for each in arrivals)
    assert len(moved) == len(arrivals)


def ended(arrivals: list[Arrival], *others: JobRequest) -> list[JobRecord]:
    """The batch jobs' records of a run with these servers beside them."""
    model = SlurmModel(cluster(4), background=arrivals)
    for other in others:
        model.submit(other, 0.0)
    return [
        event.record for event in run_to_end(model) if isinstance(event, Ended) and event.record.request not in others
    ]


def test_a_server_on_a_node_delays_the_batch_beyond_the_jitter() -> None:
    rng = np.random.default_rng(3)
    arrivals = [
        Arrival(50.0 * number, job(str(number), int(rng.integers(1, 5)), 100.0, float(rng.integers(20, 100))))
        for number in range(200)
    ]
    alone = ended(arrivals)
    with_server = harm(alone, ended(arrivals, job("server", 1, 40_000.0, None)))[-1]
    null = harm(alone, ended(jittered(arrivals, 5.0, rng)))[-1]
    assert (with_server.jobs, null.jobs) == (200, 200)
    assert (with_server.delay_mean_s or 0.0) > 10 * abs(null.delay_mean_s or 0.0)
    assert (with_server.slowdown_after or 0.0) > (with_server.slowdown_before or 0.0)
