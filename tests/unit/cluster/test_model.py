"""What may happen to jobs besides running to their end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

import numpy as np
import pytest

from broker.model.errors import ActionRejected, ConfigError
from simulator.cluster.background import node_failures
from simulator.cluster.calendar import StartRule, WeeklyWindow
from simulator.cluster.jobs import Ended, JobEvent, JobRequest, JobState, PreemptionWarned, Requeued, Started
from simulator.cluster.model import Arrival, SlurmModel, run_to_end
from simulator.cluster.nodes import lowest, members, node_range
from simulator.cluster.spec import ClusterSpec, Maintenance, NodeFailure, NodeGroup, Partition, PreemptMode
from tests.unit.cluster.clusters import by_name, cluster, job, records, started


def model_with(*jobs: JobRequest, nodes: int = 4, gpus: int = 1, spec: ClusterSpec | None = None) -> SlurmModel:
    """These jobs, submitted at 0."""
    model = SlurmModel(spec or cluster(nodes, gpus))
    for each in jobs:
        model.submit(each, 0.0)
    return model


def of(kind: type[JobEvent], events: Iterable[JobEvent]) -> list[JobEvent]:
    return [event for event in events if isinstance(event, kind)]


# -- ends


def test_a_job_that_would_run_longer_is_ended_by_its_limit() -> None:
    (record,) = records(model_with(job("a", 1, 100, 500))).values()
    assert (record.state, record.ended_at) == (JobState.TIMEOUT, 100)


def test_a_server_runs_until_its_limit() -> None:
    (record,) = records(model_with(job("a", 1, 100, None))).values()
    assert (record.state, record.ended_at) == (JobState.TIMEOUT, 100)


def test_a_job_that_runs_exactly_its_limit_has_completed() -> None:
    (record,) = records(model_with(job("a", 1, 100, 100))).values()
    assert record.state is JobState.COMPLETED


def test_a_cancelled_job_ends_then_whether_it_waits_or_runs() -> None:
    model = model_with(job("runs", 4, 100), job("waits", 4, 100))
    model.cancel(1, 30.0)
    model.cancel(2, 20.0)
    found = records(model)
    assert (found["runs"].state, found["runs"].ended_at) == (JobState.CANCELLED, 30.0)
    assert (found["waits"].state, found["waits"].ended_at, found["waits"].started_at) == (
        JobState.CANCELLED,
        20.0,
        None,
    )


def test_cancelling_at_the_moment_of_submission_holds() -> None:
    model = model_with(job("a"))
    model.cancel(1, 0.0)
    assert records(model)["a"].state is JobState.CANCELLED


def test_cancelling_what_has_ended_or_never_was_is_no_error() -> None:
    model = model_with(job("a", 1, 10))
    assert len(model.advance(20.0)) == 2
    model.cancel(1, 20.0)
    model.cancel(99, 20.0)
    assert model.advance(30.0) == []


def test_a_server_that_exits_by_itself_frees_its_nodes() -> None:
    model = model_with(job("server", 4, 100, None), job("next", 4, 10))
    model.finish(1, 25.0, failed=True)
    found = records(model)
    assert (found["server"].state, found["server"].ended_at) == (JobState.FAILED, 25.0)
    assert found["next"].started_at == 25.0


def test_orders_for_the_past_are_refused() -> None:
    model = model_with()
    model.advance(10.0)
    with pytest.raises(ValueError, match="already"):
        model.submit(job("a"), 9.0)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (job("a", partition="none"), "no partition 'none'"),
        (job("a", 5), "needs 5 nodes with 1 GPUs; partition batch has 4"),
        (job("a", gpus=3), "partition batch has 0"),
        (job("a", limit_s=2000), "allows 1000 s"),
        (job("a", 0), "no nodes"),
        (job("a", limit_s=math.inf), "no time"),
    ],
)
def test_a_job_that_no_partition_could_run_is_rejected_in_words(request_: JobRequest, words: str) -> None:
    model = SlurmModel(cluster(4, 2, Partition("batch", max_limit_s=1000.0)))
    with pytest.raises(ActionRejected, match=words):
        model.submit(request_, 0.0)


def test_jobs_of_the_background_that_fit_nowhere_are_counted() -> None:
    model = SlurmModel(cluster(4), background=[Arrival(0.0, job("big", 9)), Arrival(1.0, job("a"))])
    assert started(model) == {"a": 1.0}
    assert model.refused == 1


def test_the_listing_shows_who_waits_who_runs_and_when_the_first_will_start() -> None:
    model = model_with(job("a", 3, 100), job("head", 4, 10), job("next", 4, 10))
    model.advance(5.0)
    assert [each.request.name for each in model.queue] == ["head", "next"]
    assert [each.request.name for each in model.running] == ["a"]
    assert model.expected_starts() == {2: 100.0}
    waiting = model.job(2)
    assert waiting is not None
    assert waiting.state is JobState.PENDING
    assert model.job(99) is None


# -- preemption


def tiers(mode: PreemptMode, grace_s: float = 0.0) -> ClusterSpec:
    return cluster(4, 1, Partition("batch", preempt=mode, grace_s=grace_s), Partition("urgent", tier=1))


def test_a_higher_tier_takes_the_nodes_of_the_youngest_of_a_lower_one() -> None:
    model = SlurmModel(tiers(PreemptMode.CANCEL))
    model.submit(job("old", 2, 100), 0.0)
    model.submit(job("young", 2, 100), 10.0)
    model.submit(job("urgent", 2, 50, partition="urgent"), 20.0)
    events = list(run_to_end(model))
    assert of(PreemptionWarned, events) == []
    found = by_name(events)
    assert (found["young"].state, found["young"].ended_at) == (JobState.PREEMPTED, 20.0)
    assert found["old"].state is JobState.COMPLETED
    assert found["urgent"].started_at == 20.0


def test_the_preempted_are_warned_and_have_their_grace() -> None:
    model = SlurmModel(tiers(PreemptMode.CANCEL, grace_s=30.0))
    model.submit(job("victim", 4, 100), 0.0)
    model.submit(job("urgent", 2, 50, partition="urgent"), 20.0)
    events = list(run_to_end(model))
    assert of(PreemptionWarned, events) == [PreemptionWarned(1, 20.0, 50.0)]
    found = by_name(events)
    assert (found["victim"].state, found["victim"].ended_at) == (JobState.PREEMPTED, 50.0)
    assert found["urgent"].started_at == 50.0


def test_one_that_ends_within_its_grace_has_completed() -> None:
    model = SlurmModel(tiers(PreemptMode.CANCEL, grace_s=30.0))
    model.submit(job("victim", 4, 100, 40), 0.0)
    model.submit(job("urgent", 2, 50, partition="urgent"), 20.0)
    found = records(model)
    assert (found["victim"].state, found["victim"].ended_at) == (JobState.COMPLETED, 40.0)
    assert found["urgent"].started_at == 40.0


def test_a_requeued_job_waits_again_under_its_id_and_starts_anew_after_a_delay() -> None:
    model = SlurmModel(tiers(PreemptMode.REQUEUE))
    model.submit(job("victim", 4, 100, requeue=True), 0.0)
    model.submit(job("urgent", 2, 50, partition="urgent"), 20.0)
    events = list(run_to_end(model))
    assert of(Requeued, events) == [Requeued(1, 20.0, JobState.PREEMPTED)]
    victim = by_name(events)["victim"]
    assert (victim.job_id, victim.restarts, victim.started_at, victim.ended_at) == (1, 1, 140.0, 240.0)


def test_a_requeued_job_can_be_cancelled_while_it_waits() -> None:
    model = SlurmModel(tiers(PreemptMode.REQUEUE))
    model.submit(job("victim", 4, 100, requeue=True), 0.0)
    model.submit(job("urgent", 2, 50, partition="urgent"), 20.0)
    model.cancel(1, 60.0)
    assert records(model)["victim"].state is JobState.CANCELLED


@pytest.mark.parametrize(
    "spec",
    [tiers(PreemptMode.OFF), cluster(4, 1, Partition("batch", preempt=PreemptMode.CANCEL), Partition("urgent"))],
    ids=["preemption is off", "tiers are equal"],
)
def test_nobody_is_preempted_without_leave(spec: ClusterSpec) -> None:
    model = SlurmModel(spec)
    model.submit(job("runs", 4, 100), 0.0)
    model.submit(job("urgent", 2, 50, partition="urgent"), 20.0)
    assert started(model) == {"runs": 0.0, "urgent": 100.0}


def test_no_more_are_preempted_than_are_needed_nor_any_if_it_does_not_help() -> None:
    model = SlurmModel(tiers(PreemptMode.CANCEL))
    for number in range(3):
        model.submit(job(f"single{number}", 1, 100), 0.0)
    model.submit(job("urgent", 1, 100, partition="urgent"), 1.0)
    model.submit(job("second", 3, 100, partition="urgent"), 2.0)
    model.submit(job("third", 4, 100, partition="urgent"), 3.0)
    states = {name: record.state for name, record in records(model).items()}
    assert states == {
        "single0": JobState.PREEMPTED,
        "single1": JobState.PREEMPTED,
        "single2": JobState.PREEMPTED,
        "urgent": JobState.COMPLETED,
        "second": JobState.COMPLETED,
        "third": JobState.COMPLETED,
    }


def test_a_victim_whose_nodes_are_of_no_use_is_spared() -> None:
    groups = (NodeGroup("a", 2, 1), NodeGroup("b", 2, 1))
    partitions = (
        Partition("batch", preempt=PreemptMode.CANCEL),
        Partition("urgent", ("a",), tier=1),
    )
    model = SlurmModel(ClusterSpec(groups, partitions))
    for number in range(4):
        model.submit(job(str(number), 1, 100), float(number))
    model.submit(job("urgent", 1, 50, partition="urgent"), 10.0)
    states = {name: record.state for name, record in records(model).items()}
    assert [name for name, state in states.items() if state is JobState.PREEMPTED] == ["1"]


# -- nodes


def test_a_failing_node_ends_its_jobs_and_comes_back_when_it_is_repaired() -> None:
    model = SlurmModel(cluster(2), failures=[NodeFailure(10.0, 0, 60.0)])
    model.submit(job("hit", 1, 100), 0.0)
    model.submit(job("spared", 1, 100), 0.0)
    model.submit(job("waits", 1, 10), 20.0)
    found = records(model)
    assert (found["hit"].state, found["hit"].ended_at) == (JobState.NODE_FAIL, 10.0)
    assert found["spared"].state is JobState.COMPLETED
    assert found["waits"].started_at == 60.0


def test_a_job_that_allows_it_is_requeued_when_its_node_fails() -> None:
    model = SlurmModel(cluster(2), failures=[NodeFailure(10.0, 0, 500.0)])
    model.submit(job("hit", 1, 100, requeue=True), 0.0)
    record = records(model)["hit"]
    assert (record.state, record.started_at, record.restarts) == (JobState.COMPLETED, 130.0, 1)
    assert list(members(record.nodes)) == [1]


def test_of_two_failures_of_one_node_the_later_repair_counts() -> None:
    failures = [NodeFailure(10.0, 0, 100.0), NodeFailure(20.0, 0, 50.0)]
    model = SlurmModel(cluster(1), failures=failures)
    model.submit(job("a", 1, 10), 30.0)
    assert started(model) == {"a": 100.0}


def test_a_job_that_fits_only_with_the_node_that_is_down_holds_nobody_up() -> None:
    model = SlurmModel(cluster(2), failures=[NodeFailure(0.0, 0, 1000.0)])
    model.submit(job("both", 2, 10), 1.0)
    model.submit(job("one", 1, 500), 1.0)
    assert started(model) == {"both": 1000.0, "one": 1.0}


def test_failures_are_drawn_at_their_rate() -> None:
    drawn = node_failures(10, mean_between_s=1000.0, mean_repair_s=50.0, starts_at=7.0, rng=np.random.default_rng(1))
    failures = list(islice(drawn, 4000))
    assert failures[0].at > 7.0
    assert failures[-1].at == pytest.approx(4000 * 100.0, rel=0.1)
    assert np.mean([each.repaired_at - each.at for each in failures]) == pytest.approx(50.0, rel=0.1)
    assert {each.node for each in failures} == set(range(10))


# -- maintenance


def test_no_job_runs_into_a_maintenance() -> None:
    hold = Maintenance("window", node_range(0, 4), 50.0, 80.0)
    model = model_with(job("short", 2, 50), job("long", 2, 51), spec=cluster(4, maintenance=(hold,)))
    assert started(model) == {"short": 0.0, "long": 80.0}


def test_a_maintenance_of_some_nodes_leaves_the_others() -> None:
    hold = Maintenance("window", node_range(0, 2), 50.0, 80.0)
    model = model_with(job("long", 2, 100), spec=cluster(4, maintenance=(hold,)))
    (record,) = records(model).values()
    assert list(members(record.nodes)) == [2, 3]


def test_a_maintenance_may_be_announced_and_taken_back() -> None:
    model = model_with()
    model.hold(Maintenance("loan", node_range(0, 4), 0.0, math.inf))
    model.submit(job("a"), 10.0)
    assert [type(event) for event in model.advance(20.0)] == []
    assert model.next_event_at() is None
    model.release("loan")
    model.release("loan")
    assert [(type(event), event.at) for event in model.advance(20.0)] == [(Started, 20.0)]


def test_what_runs_when_a_maintenance_is_announced_runs_on() -> None:
    model = model_with(job("a", 4, 100), job("b", 4, 10))
    model.advance(5.0)
    model.hold(Maintenance("window", node_range(0, 4), 50.0, 150.0))
    found = records(model)
    assert found["a"].state is JobState.COMPLETED
    assert found["b"].started_at == 150.0


# -- the rest


def test_priority_may_grow_with_waiting() -> None:
    spec = cluster(1, priority_per_hour=10.0)
    model = SlurmModel(spec)
    model.submit(job("runs", 1, 7200), 0.0)
    model.submit(job("patient", 1, 10), 1.0)
    model.submit(job("important", 1, 10, priority=5.0), 3601.0)
    assert started(model)["patient"] == 7200.0
    assert started(SlurmModel(spec)) == {}


def test_the_scheduler_looks_at_so_many_jobs_and_no_more() -> None:
    model = model_with(
        job("a", 3, 100), job("head", 4, 10), job("big", 4, 10), job("small", 1, 10), spec=cluster(4, backfill_depth=2)
    )
    model.advance(0.0)
    assert model.queue[-1].request.name == "small"


def test_partitions_have_the_nodes_of_their_groups() -> None:
    groups = (NodeGroup("cpu", 2, 1), NodeGroup("gpu", 3, 4))
    spec = ClusterSpec(groups, (Partition("gpus", ("gpu",)), Partition("all")))
    assert [list(members(spec.nodes_of(each))) for each in spec.partitions] == [[2, 3, 4], [0, 1, 2, 3, 4]]
    model = SlurmModel(spec)
    assert [model.largest_node(name) for name in ("gpus", "all", "none")] == [4, 4, 1]


def test_a_job_submitted_for_later_does_not_go_before_those_submitted_earlier() -> None:
    model = SlurmModel(cluster(1), background=[Arrival(1.0, job("early")), Arrival(2.0, job("second"))])
    model.submit(job("late"), 50.0)
    assert started(model) == {"early": 1.0, "second": 101.0, "late": 201.0}


def test_a_job_longer_than_any_window_is_rejected() -> None:
    rule = StartRule(0.0, (WeeklyWindow(8, 18),), ends_inside=True)
    model = SlurmModel(cluster(1, start_rules=(rule,)))
    model.submit(job("a", 1, 36_000.0), 0.0)
    with pytest.raises(ActionRejected, match="allow 36000 s at most"):
        model.submit(job("b", 1, 36_001.0), 0.0)


@pytest.mark.parametrize(
    ("groups", "partitions"),
    [
        ((), (Partition("p"),)),
        ((NodeGroup("n", 1, 1),), ()),
        ((NodeGroup("n", 1, 1), NodeGroup("n", 2, 1)), (Partition("p"),)),
        ((NodeGroup("n", 0, 1),), (Partition("p"),)),
        ((NodeGroup("n", 1, 1),), (Partition("p", ("m",)),)),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_refused(
    groups: tuple[NodeGroup, ...], partitions: tuple[Partition, ...]
) -> None:
    with pytest.raises(ConfigError):
        ClusterSpec(groups, partitions)


def test_the_lowest_members_of_a_set_are_found_by_halving() -> None:
    nodes = node_range(3, 5) | node_range(100, 7)
    for count in range(1, 14):
        assert list(members(lowest(nodes, count))) == list(members(nodes))[:count]


def test_events_carry_the_record_of_what_has_ended() -> None:
    model = model_with(job("a", 2, 10))
    start, end = model.advance(100.0)
    assert start == Started(1, 0.0, node_range(0, 2), 10.0)
    assert isinstance(end, Ended)
    assert (end.record.request.name, end.record.submitted_at, end.record.nodes) == ("a", 0.0, node_range(0, 2))
    assert model.queue == model.running == ()
