"""Whole simulations whose replicas are jobs of a busy cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.model import wire
from broker.model.replica import ENDED, Replica, ReplicaPhase
from simulator.checks.level import CheckLevel
from simulator.cluster.jobs import JobRequest
from simulator.cluster.model import Arrival, SlurmModel
from simulator.cluster.pool import ReplicaJobs, SlurmPlace
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition, PreemptMode
from simulator.cold_start import ColdStart, ColdStarts, Duration, NodeCaches
from simulator.report.summary import CutCause, RunSummary
from tests.support.simulated import ELASTIC, SmallRun, small_request
from traces.schema import TraceRequest

START_AT = 1_700_000_000.0
STEADY = [small_request(0.5 * n, output_tokens=20) for n in range(200)]


def place(
    *, limit_s: float = 3600.0, busy_until_s: float = 30.0, urgent_at_s: float | None = None,
    all_taken_from_s: float | None = None,
) -> SlurmPlace:  # fmt: skip
    """Four nodes of one GPU, of which a batch job holds three until ``busy_until_s``. Others take them all for a while:
    what runs there is preempted at ``urgent_at_s``, or from ``all_taken_from_s`` on, what is free."""
    partitions = (Partition("gpu", preempt=PreemptMode.CANCEL, grace_s=10.0), Partition("urgent", tier=1))
    jobs = [Arrival(START_AT - 100.0, JobRequest("batch", "urgent", 3, 1, 100.0 + busy_until_s, 100.0 + busy_until_s))]
    if urgent_at_s is not None:
        jobs.append(Arrival(START_AT + urgent_at_s, JobRequest("urgent", "urgent", 4, 1, 20.0, 20.0)))
    if all_taken_from_s is not None:
        jobs.append(Arrival(START_AT + all_taken_from_s, JobRequest("wide", "gpu", 3, 1, 600.0, 600.0, priority=1.0)))
    spec = ClusterSpec((NodeGroup("n", 4, 1),), partitions)
    return SlurmPlace(
        SlurmModel(spec, starts_at=START_AT - 100.0, background=jobs), ReplicaJobs("gpu", limit_s, exit_s=1.0)
    )


def run(requests: list[TraceRequest], where: SlurmPlace, minimum: int = 1) -> tuple[SmallRun, RunSummary]:
    small = SmallRun(model=replace(ELASTIC, minimum=minimum), slurm={"pool": where}, checks=CheckLevel.FULL)
    return small, small.run(requests)


def ready_at(small: SmallRun) -> list[float]:
    """When each replica became ready, in seconds of the trace."""
    found = {
        entity.replica_id: entity.ready_at - START_AT
        for record in small.store.steps
        for entity in record.changes.values()
        if isinstance(entity, Replica) and entity.ready_at is not None
    }
    return sorted(found.values())


def test_a_second_replica_waits_in_the_queue_until_the_batch_job_ends() -> None:
    small, summary = run(STEADY, place(), minimum=2)
    first, second = ready_at(small)[:2]
    assert first < 5.0
    assert 31.5 <= second < 33.0
    assert summary.requests.finished == len(STEADY)


def ended(small: SmallRun) -> list[Replica]:
    return [
        entity
        for record in small.store.steps
        for entity in record.changes.values()
        if isinstance(entity, Replica) and entity.phase in ENDED
    ]


def test_a_replica_has_its_successor_before_its_time_limit_and_no_request_is_cut() -> None:
    small, summary = run(STEADY, place(limit_s=40.0))
    assert len(ready_at(small)) >= 3
    assert {replica.phase for replica in ended(small)} == {ReplicaPhase.GONE}
    assert "expiry" in {replica.detail for replica in ended(small)}
    assert summary.requests.finished == summary.requests.sent == len(STEADY)


def test_a_replica_whose_successor_cannot_start_takes_nothing_new_before_its_time_limit() -> None:
    small, summary = run(STEADY, place(limit_s=40.0, all_taken_from_s=10.0))
    first = min(ended(small), key=lambda replica: replica.phase_since)
    assert (first.phase, first.detail) == (ReplicaPhase.GONE, "expiry")
    assert first.drain is not None
    assert first.drain.began_at == first.serves_until
    assert summary.requests.cut == 0


def test_a_replica_whose_nodes_a_job_of_a_higher_tier_takes_is_drained_within_their_grace() -> None:
    small, summary = run(STEADY, place(urgent_at_s=40.0))
    first = min(ended(small), key=lambda replica: replica.phase_since)
    assert (first.phase, first.detail) == (ReplicaPhase.GONE, "expiry")
    assert 40.0 <= first.phase_since - START_AT < 50.0
    assert summary.requests.cut == 0


LONG = [small_request(0.5 * n, output_tokens=900) for n in range(100)]
"""Answers that take longer than what is left to a replica that must go."""


@pytest.mark.parametrize(
    ("given", "cause"),
    [({"limit_s": 40.0}, CutCause.WALL_TIME), ({"urgent_at_s": 40.0}, CutCause.PREEMPTED)],
    ids=["its time limit", "a job of a higher tier"],
)
def test_answers_that_outlast_their_replica_are_cut_and_told_by_what(given: dict[str, float], cause: CutCause) -> None:
    _, summary = run(LONG, place(**given))
    assert summary.requests.cut
    assert {(one.model_id, one.pool_id, one.cause) for one in summary.cuts} == {("chat", "pool", cause)}
    assert sum(one.requests for one in summary.cuts) == summary.requests.cut


def test_a_replica_serves_when_its_cold_start_is_over_and_a_second_one_on_its_node_sooner() -> None:
    model = ColdStart(
        cached_gib=1.0, boot=Duration(2.0), fetch=Duration(6.0), load=Duration(1.0), compile=Duration(3.0),
        warm_up=Duration(1.0), boot_again=Duration(1.0), warm_up_again=Duration(0.0),
    )  # fmt: skip
    where = replace(
        place(limit_s=40.0, busy_until_s=1000.0), cold_starts=ColdStarts(1, {"chat": model}, NodeCaches(10.0))
    )
    small, _ = run(STEADY, where)
    first, second = ready_at(small)[:2]
    began_at = small.simulation.settings.warm_up_s
    assert 13.0 - began_at <= first <= 14.5 - began_at
    assert second - (40.0 - began_at) < 6.0


def test_a_run_beside_a_cluster_is_the_same_to_the_last_byte() -> None:
    (first, one), (second, two) = (run(STEADY, place(limit_s=40.0, urgent_at_s=40.0)) for _ in range(2))
    assert wire.dumps(one) == wire.dumps(two)
    assert [wire.dumps(record) for record in first.store.steps] == [wire.dumps(record) for record in second.store.steps]
    batch = [next(iter(small.simulation.clusters.values())).batch for small in (first, second)]
    assert batch[0] == batch[1]
    assert [record.request.name for record in batch[0]] == ["batch", "urgent"]
