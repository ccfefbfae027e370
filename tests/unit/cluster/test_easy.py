"""EASY's rules on cases made by hand, and against the textbook on thousands of small workloads."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cluster.background import arrivals
from simulator.cluster.calendar import StartRule, WeeklyWindow
from simulator.cluster.jobs import Ended, JobEvent, JobRequest, JobState, Requeued, Started
from simulator.cluster.model import Arrival, SlurmModel, run_to_end
from simulator.cluster.nodes import members
from simulator.cluster.spec import Maintenance, NodeFailure, Partition, PreemptMode
from tests.support.shared_data import shared_path
from tests.unit.cluster.clusters import cluster, job, started
from tests.unit.cluster.textbook import TextbookJob, start_times
from traces.batch.swf import open_batch_log


@dataclass(frozen=True)
class Case:
    name: str
    jobs: list[JobRequest]
    starts: dict[str, float]
    nodes: int = 4
    gpus: int = 1
    partitions: tuple[Partition, ...] = field(default=(Partition("batch"),))


CASES = [
    Case("jobs that fit start at once", [job("a", 2), job("b", 2)], {"a": 0, "b": 0}),
    Case("one that does not fit waits for an end", [job("a", 3), job("b", 2)], {"a": 0, "b": 100}),
    Case(
        "a job that ends when the head's nodes come free is backfilled",
        [job("a", 3), job("head", 4), job("fits", 1, 100)],
        {"a": 0, "head": 100, "fits": 0},
    ),
    Case(
        "one that would run a second longer is not, since it would delay the head",
        [job("a", 3), job("head", 4), job("long", 1, 101)],
        {"a": 0, "head": 100, "long": 200},
    ),
    Case(
        "a long one is backfilled on a node that the head does not need",
        [job("a", 3), job("head", 3, 50), job("long", 1, 1000)],
        {"a": 0, "head": 100, "long": 0},
    ),
    Case(
        "two long ones are not, if the head leaves one node",
        [job("a", 2), job("head", 3, 50), job("long", 1, 1000), job("longer", 1, 1000)],
        {"a": 0, "head": 100, "long": 0, "longer": 150},
    ),
    Case(
        "only the head is protected: the second may be overtaken",
        [job("a", 3), job("head", 4), job("second", 2), job("small", 1, 100)],
        {"a": 0, "head": 100, "second": 200, "small": 0},
    ),
    Case(
        "the shadow is that of the limits, though jobs end earlier",
        [job("a", 3, 100, 10), job("head", 4, 50), job("fits", 1, 100, 30)],
        {"a": 0, "head": 30, "fits": 0},
    ),
    Case(
        "first come, first served among equals",
        [job("a", 4), job("b", 4), job("c", 4)],
        {"a": 0, "b": 100, "c": 200},
    ),
    Case(
        "priority goes before the order of submission",
        [job("a", 4), job("b", 4), job("c", 4, priority=5)],
        {"a": 100, "b": 200, "c": 0},
    ),
    Case(
        "GPUs of one node are shared",
        [job("a", 1, gpus=3), job("b", 1, gpus=2), job("c", 1, gpus=1)],
        {"a": 0, "b": 100, "c": 0},
        nodes=1,
        gpus=4,
    ),
    Case(
        "a shared node leaves room beside the head's reservation",
        [job("a", 1, gpus=3), job("head", 1, gpus=3), job("long", 1, 1000, gpus=1), job("longer", 1, 1000, gpus=1)],
        {"a": 0, "head": 100, "long": 0, "longer": 200},
        nodes=1,
        gpus=4,
    ),
    Case(
        "small jobs are packed, so that whole nodes stay free",
        [job("a", 1, gpus=1), job("b", 1, gpus=1), job("whole", 1, gpus=4)],
        {"a": 0, "b": 0, "whole": 0},
        nodes=2,
        gpus=4,
    ),
    Case(
        "a partition of a higher tier goes first",
        [job("a", 4), job("b", 4), job("c", 4, partition="urgent")],
        {"a": 100, "b": 200, "c": 0},
        partitions=(Partition("batch"), Partition("urgent", tier=1)),
    ),
    Case(
        "the head of each partition has its reservation where they share nodes",
        [
            job("a", 3),
            job("head", 3, 50),
            job("other's head", 4, 50, partition="other"),
            job("long", 1, 1000),
            job("short", 1, 140),
        ],
        {"a": 0, "head": 100, "other's head": 150, "long": 200, "short": 0},
        partitions=(Partition("batch"), Partition("other")),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hand_made_queues_start_when_they_should(case: Case) -> None:
    model = SlurmModel(cluster(case.nodes, case.gpus, *case.partitions))
    for request in case.jobs:
        model.submit(request, 0.0)
    assert started(model) == case.starts


def workload(rng: random.Random, count: int, nodes: int) -> list[TextbookJob]:
    at, jobs = 0.0, []
    for _ in range(count):
        at += rng.choice((0, 0, 1, 3, 10))
        limit_s = float(rng.choice((1, 2, 5, 10, 20, 50)))
        jobs.append(TextbookJob(at, rng.randint(1, nodes), limit_s, float(rng.randint(0, int(limit_s)))))
    return jobs


def requests(jobs: list[TextbookJob]) -> list[Arrival]:
    return [
        Arrival(each.submitted_at, job(str(number), each.nodes, each.limit_s, each.run_s))
        for number, each in enumerate(jobs)
    ]


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(1, 60), st.integers(1, 12))
def test_equal_nodes_taken_whole_are_scheduled_as_in_the_textbook(rng: random.Random, count: int, nodes: int) -> None:
    jobs = workload(rng, count, nodes)
    found = started(SlurmModel(cluster(nodes), background=requests(jobs)))
    assert [found[str(number)] for number in range(count)] == start_times(jobs, nodes)


def test_the_whole_kth_log_is_scheduled_as_in_the_textbook() -> None:
    log = [each for each in open_batch_log(shared_path("traces/hpc/KTH-SP2-1996.swf.gz")) if each.processors]
    found = started(SlurmModel(cluster(100), background=arrivals(log, "batch", starts_at=0.0)))
    jobs = [
        TextbookJob(each.submitted_s, each.processors or 0, each.requested_s or 0.0, each.run_s or 0.0) for each in log
    ]
    assert [found[str(each.job_id)] for each in log] == start_times(jobs, 100)


World = tuple[SlurmModel, list[Arrival]]


def mixed_world(rng: random.Random, *partitions: Partition, priorities: tuple[float, ...] = (0.0,)) -> World:
    """Nodes shared by jobs of some of their GPUs and of all."""
    nodes, gpus = rng.randint(1, 6), rng.randint(1, 4)
    at, jobs = 0.0, []
    for number in range(rng.randint(1, 40)):
        at += rng.choice((0.0, 0.0, 1.0, 7.0))
        limit_s = rng.choice((1.0, 5.0, 20.0, 60.0))
        request = job(
            str(number), rng.randint(1, nodes), limit_s, rng.choice((0.0, limit_s / 2, limit_s)),
            gpus=rng.randint(1, gpus), partition=rng.choice(partitions).name, priority=rng.choice(priorities),
        )  # fmt: skip
        jobs.append(Arrival(at, request))
    return SlurmModel(cluster(nodes, gpus, *partitions), background=jobs), jobs


BATCH, URGENT = Partition("batch"), Partition("urgent", tier=1)
seeded = st.integers(0, 2**32).map(random.Random)
mixed = st.one_of(
    seeded.map(lambda rng: mixed_world(rng, BATCH, URGENT, priorities=(0.0, 3.0))),
    seeded.map(lambda rng: mixed_world(rng, BATCH, Partition("other"))),
)


def check_no_overbooking(events: list[JobEvent], model: SlurmModel) -> None:
    """Replay what was told: no node ever has more GPUs in use than it has."""
    used = dict.fromkeys(range(len(model.spec.gpus_by_node)), 0)
    holding: dict[int, tuple[int, ...]] = {}
    sizes = {event.job_id: event.record.request for event in events if isinstance(event, Ended)}
    for event in events:
        if isinstance(event, Started):
            holding[event.job_id] = tuple(members(event.nodes))
            assert len(holding[event.job_id]) == sizes[event.job_id].nodes
            for node in holding[event.job_id]:
                used[node] += sizes[event.job_id].gpus
                assert used[node] <= model.spec.gpus_by_node[node]
        elif isinstance(event, Ended | Requeued) and event.job_id in holding:
            for node in holding.pop(event.job_id):
                used[node] -= sizes[event.job_id].gpus
    assert not holding
    assert not any(used.values())


@settings(max_examples=200)
@given(mixed)
def test_no_node_is_overbooked_and_every_job_runs_after_its_submission(world: World) -> None:
    model, jobs = world
    events = list(run_to_end(model))
    check_no_overbooking(events, model)
    ended = [event.record for event in events if isinstance(event, Ended)]
    assert len(ended) == len(jobs)
    for record in ended:
        assert record.started_at is not None
        assert record.started_at >= record.submitted_at
        assert record.state is JobState.COMPLETED
        assert record.ended_at <= record.started_at + record.request.limit_s


def rough_world(rng: random.Random) -> World:
    """Preemption, failing nodes, maintenance and hours at which jobs may start, all at once."""
    partitions = (
        Partition("batch", preempt=rng.choice(list(PreemptMode)), grace_s=rng.choice((0.0, 4.0))),
        Partition("other", preempt=rng.choice(list(PreemptMode)), grace_s=rng.choice((0.0, 9.0)), tier=1),
        Partition("urgent", tier=2),
    )
    calm, jobs = mixed_world(rng, *partitions, priorities=(0.0, 3.0))
    jobs = [replace(each, request=replace(each.request, requeue=rng.random() < 0.5)) for each in jobs]
    nodes = len(calm.spec.gpus_by_node)
    hold = Maintenance("hold", rng.getrandbits(nodes), rng.uniform(0, 80), rng.uniform(80, 200))
    windows = tuple(WeeklyWindow(minute / 60, (minute + 1.5) / 60) for minute in range(0, 120, 2))
    rule = StartRule(10.0, windows, ends_inside=rng.random() < 0.5)
    at, failures = 0.0, []
    for _ in range(rng.randint(0, 6)):
        at += rng.uniform(0, 60)
        failures.append(NodeFailure(at, rng.randrange(nodes), at + rng.uniform(0, 90)))
    spec = replace(
        calm.spec, maintenance=(hold,), start_rules=rng.choice(((), (rule,))), priority_per_hour=rng.choice((0.0, 60.0))
    )
    monday = 4 * 86_400.0
    failures = [replace(each, at=monday + each.at, repaired_at=monday + each.repaired_at) for each in failures]
    spec = replace(spec, maintenance=(replace(hold, begins_at=monday + hold.begins_at, ends_at=monday + hold.ends_at),))
    jobs = [replace(each, at=monday + each.at) for each in jobs]
    return SlurmModel(spec, starts_at=monday, background=jobs, failures=failures), jobs


@settings(max_examples=100)
@given(seeded.map(rough_world))
def test_in_a_rough_world_no_node_is_overbooked_and_every_job_ends_once(world: World) -> None:
    model, jobs = world
    (hold,) = model.spec.maintenance
    events = list(run_to_end(model))
    check_no_overbooking(events, model)
    ended = [event.record for event in events if isinstance(event, Ended)]
    assert sorted(record.request.name for record in ended) == sorted(each.request.name for each in jobs)
    for event in events:
        if isinstance(event, Started) and event.at < hold.ends_at and hold.begins_at < event.ends_at:
            assert not event.nodes & hold.nodes
    for record in ended:
        assert record.started_at is None or record.submitted_at <= record.started_at <= record.ended_at
        if record.state is JobState.COMPLETED:
            assert record.started_at is not None
            assert record.ended_at == pytest.approx(record.started_at + (record.request.run_s or 0.0))


@settings(max_examples=300)
@given(seeded.map(lambda rng: mixed_world(rng, BATCH)))
def test_the_head_of_the_queue_is_never_delayed_by_what_is_backfilled(world: World) -> None:
    """Its promised start only comes nearer, and it is kept."""
    model, _ = world
    promised: dict[int, float] = {}
    while (at := model.next_event_at()) is not None:
        for event in model.advance(at):
            if isinstance(event, Started) and event.job_id in promised:
                assert event.at <= promised[event.job_id]
        for job_id, start_at in model.expected_starts().items():
            assert start_at <= promised.get(job_id, start_at)
            promised[job_id] = start_at


@settings(max_examples=300)
@given(seeded.map(lambda rng: mixed_world(rng, BATCH)))
def test_jobs_that_get_a_reservation_start_in_the_order_of_their_submission(world: World) -> None:
    model, _ = world
    heads: list[int] = []
    started_in_order: list[int] = []
    while (at := model.next_event_at()) is not None:
        started_in_order += [event.job_id for event in model.advance(at) if isinstance(event, Started)]
        heads += [job_id for job_id in model.expected_starts() if job_id not in heads]
    assert heads == sorted(heads)
    assert [job_id for job_id in started_in_order if job_id in heads] == heads


@settings(max_examples=100)
@given(mixed, st.lists(st.floats(0.1, 30.0), max_size=40))
def test_it_does_not_matter_in_which_steps_time_passes(world: World, steps: list[float]) -> None:
    model, jobs = world
    other = SlurmModel(model.spec, background=jobs)
    stepped: list[JobEvent] = []
    for step_s in steps:
        stepped += other.advance(other.now + step_s)
    assert stepped + list(run_to_end(other)) == list(run_to_end(model))
