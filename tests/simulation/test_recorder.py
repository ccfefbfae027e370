"""What a run's replicas did, by phase: GPUs from when they are given to when they are taken back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from broker.model.replica import ReplicaPhase
from simulator.report.gpu_hours import gpu_hours
from simulator.report.recorder import Recorded
from tests.simulation.test_slurm_simulation import STEADY, place
from tests.support.reported import BURST, reported
from tests.support.simulated import ELASTIC, SmallRun


def seconds_by_phase(recorded: Recorded) -> dict[ReplicaPhase, float]:
    found: dict[ReplicaPhase, float] = defaultdict(float)
    for one in recorded.replicas:
        found[one.interval.phase] += one.interval.end_s - one.interval.begin_s
    return dict(found)


def test_each_replicas_phases_follow_each_other_without_a_gap_or_an_overlap() -> None:
    recorded = reported().recorded
    by_replica = defaultdict(list)
    for one in recorded.replicas:
        by_replica[one.replica_id].append(one.interval)
    assert len(by_replica) > 2
    for intervals in by_replica.values():
        ends, begins = [one.end_s for one in intervals[:-1]], [one.begin_s for one in intervals[1:]]
        assert ends == pytest.approx(begins)
        assert all(one.begin_s >= recorded.begin_s and one.end_s <= recorded.end_s for one in intervals)


def test_phases_take_as_long_as_the_summary_says() -> None:
    report = reported()
    since_0 = report.summary.replica_seconds
    ready = seconds_by_phase(report.recorded)[ReplicaPhase.READY]
    in_warm_up = 5.0 - ELASTIC_LOAD_S
    assert ready == pytest.approx(since_0[ReplicaPhase.READY] + in_warm_up, abs=1.5)


ELASTIC_LOAD_S = 1.5
"""Of the engine that small runs have."""


def test_a_replica_was_busy_while_it_had_requests_and_idle_afterwards() -> None:
    report = reported([BURST[0]])
    out = report.requests
    took_s = float(out.end_s[0] - out.arrival_s[0])
    hours = gpu_hours(report.facts.intervals)
    assert hours.busy * 3600 == pytest.approx(took_s, rel=0.05)
    assert hours.idle * 3600 == pytest.approx(35.0 - took_s - ELASTIC_LOAD_S, abs=1.0)


def test_busy_time_over_time_adds_up_to_that_of_all_intervals() -> None:
    recorded = reported().recorded
    busy = recorded.busy.seconds["chat", "pool"]
    assert np.all(np.diff(busy) >= -1e-9)
    assert busy[-1] == pytest.approx(sum(one.interval.busy_s for one in recorded.replicas), rel=1e-6)


def test_waiting_in_a_queue_takes_no_gpu() -> None:
    small = SmallRun(slurm={"pool": place()}, model=replace(ELASTIC, minimum=2))
    report = reported(STEADY, small)
    seconds = seconds_by_phase(report.recorded)
    assert seconds[ReplicaPhase.PENDING] > 25.0
    whole = sum(took for phase, took in seconds.items() if phase not in (ReplicaPhase.REQUESTED, ReplicaPhase.PENDING))
    assert gpu_hours(report.facts.intervals).total * 3600 == pytest.approx(whole)


def test_a_replica_that_dies_is_counted_until_it_did_and_not_until_the_broker_knew() -> None:
    small = SmallRun()
    at = small.start_at + 10.0
    simulation = small.simulation
    died: list[str] = []

    def crash(ran: object) -> None:
        if simulation.now >= at and not died:
            died.append(next(iter(simulation.pools["pool"].replicas)))
            simulation.crash(died[0])

    simulation.listen(crash)
    recorded = reported(BURST, small).recorded
    own = [one.interval for one in recorded.replicas if one.replica_id == died[0]]
    assert own[-1].phase is ReplicaPhase.READY
    assert own[-1].end_s == pytest.approx(10.0, abs=0.6)
