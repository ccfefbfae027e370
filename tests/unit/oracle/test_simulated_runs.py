"""Runs of the simulator stay above the bound that their own requests give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from broker.model.errors import InvariantViolated
from broker.model.replica import ReplicaPhase
from simulator.oracle.bound import Bound, OraclePool, beats_bound, lower_bound
from simulator.oracle.demand import fluid_demand, least_work_s
from simulator.report.summary import RunSummary
from tests.support.simulated import SLOW_ENGINE, SmallRun, small_request
from traces.schema import TraceRequest

REQUESTS = [small_request(0.05 * index, 200, 60) for index in range(200)]
QUEUED = (ReplicaPhase.REQUESTED, ReplicaPhase.PENDING)


@dataclass(frozen=True)
class Judged:
    gpu_hours: float
    attainment: float


def judged(run: RunSummary) -> Judged:
    seconds = sum(value for phase, value in run.replica_seconds.items() if phase not in QUEUED)
    return Judged(seconds / 3600, run.requests.finished / run.requests.sent)


def bound_of(requests: list[TraceRequest], horizon_s: float, deadline_s: float) -> Bound:
    arrival_s, prompts, outputs = (
        np.array(column, dtype=np.float64)
        for column in zip(*((one.arrival_s, one.prompt_tokens, one.output_tokens) for one in requests), strict=True)
    )
    work_s = least_work_s(SLOW_ENGINE, prompts, outputs)
    demand = fluid_demand(arrival_s, work_s, step_s=1.0, horizon_s=horizon_s, deadline_s=deadline_s)
    return lower_bound(demand, [OraclePool("pool", 6, start_s=SLOW_ENGINE.load_time_s)], allowance=0.0)


def test_a_run_costs_more_than_its_bound_and_a_forged_one_is_caught() -> None:
    run = SmallRun().run(REQUESTS)
    told = judged(run)
    assert told.attainment == 1.0
    bound = bound_of(REQUESTS, run.duration_s, deadline_s=run.end_to_end.max_s or 0.0)
    assert 0.3 * told.gpu_hours < bound.gpu_hours < told.gpu_hours
    beats_bound(told, bound)
    with pytest.raises(InvariantViolated, match="nothing can do that"):
        beats_bound(Judged(0.9 * bound.gpu_hours, told.attainment), bound)
