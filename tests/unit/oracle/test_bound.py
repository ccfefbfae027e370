"""The lower bound: known optima of small cases, and that no feasible plan undercuts it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import ConfigError, InvariantViolated
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import EngineRequest
from simulator.oracle.bound import Bound, OraclePool, beats_bound, lower_bound
from simulator.oracle.demand import Demand, Floats, fluid_demand, least_work_s
from tests.support.simulated import SLOW_ENGINE

STEP_S = 3600.0
"""Hours, so that a replica's step is a GPU-hour."""


def demand(*replicas: float, requests: int = 1000, deadline_steps: int = 0) -> Demand:
    """So many replicas' worth of work in each step, in requests of equal work."""
    work = np.array([replicas]) * STEP_S
    return Demand(STEP_S, work, np.array([work.sum() / requests]), requests, deadline_steps * STEP_S)


def pool(capacity: float | Floats = 10.0, *, start: int = 0, life: float = math.inf, **more: float) -> OraclePool:
    return OraclePool("pool", capacity, start_s=start * STEP_S, wall_time_s=life * STEP_S, **more)  # type: ignore[arg-type]


CASES = [
    ("constant demand costs what it is", demand(*[2.5] * 8), pool(), 0.0, 20.0),
    ("an allowance saves its share of the work", demand(*[2.0] * 8), pool(), 0.25, 12.0),
    ("two GPUs to a replica cost twice", demand(*[2.0] * 8), pool(gpus_per_replica=2), 0.0, 32.0),
    ("a light GPU type costs its weight", demand(*[2.0] * 8), pool(gpu_weight=0.5), 0.0, 8.0),
    ("a fast engine needs less", demand(*[2.0] * 8), pool(speed=4.0), 0.0, 4.0),
    ("a burst pays its start beforehand", demand(0, 0, 0, 3, 0, 0), pool(start=2, initial=0), 0.0, 9.0),
    ("a gap shorter than a start is sat out", demand(0, 0, 0, 1, 0, 1, 0), pool(start=2, initial=0), 0.0, 5.0),
    ("a gap longer than a start is not", demand(0, 1, 0, 0, 0, 1, 0), pool(start=1, initial=0), 0.0, 4.0),
    ("what the run begins with is free", demand(1, 1, 0, 0), pool(start=2), 0.0, 2.0),
    ("a burst that may wait is spread", demand(0, 4, 0, 0, deadline_steps=3), pool(1.0), 0.0, 4.0),
    ("where capacity binds the allowance goes there", demand(1, 1, 4, 1, 1), pool(2.0), 0.25, 6.0),
    ("each life of 4 with a start of 1 serves 3", demand(*[1] * 13), pool(start=1, life=4, initial=1), 0.0, 17.0),
    ("capacity may change with time", demand(1, 1, 1), pool(np.array([1.0, 2.0, 1.0])), 0.0, 3.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "given_pool", "allowance", "gpu_hours"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_bound_is_the_known_optimum(
    wanted: Demand, given_pool: OraclePool, allowance: float, gpu_hours: float
) -> None:
    assert lower_bound(wanted, [given_pool], allowance=allowance).gpu_hours == pytest.approx(gpu_hours, rel=1e-5)


def test_the_cheaper_of_two_pools_fills_first() -> None:
    cheap = OraclePool("cheap", 1.0)
    dear = OraclePool("dear", 5.0, gpus_per_replica=4, speed=2.0)
    bound = lower_bound(demand(3, 3), [dear, cheap], allowance=0.0)
    assert bound.gpu_hours == pytest.approx(10.0)
    assert bound.pool_ids == ("dear", "cheap")
    assert bound.serving == pytest.approx(np.array([[1.0, 1.0], [1.0, 1.0]]), abs=1e-6)


def test_the_heavy_requests_are_missed_first() -> None:
    wanted = Demand(STEP_S, np.array([[2.0], [2.0]]) * STEP_S, np.array([0.02, 0.2]) * STEP_S, 110)
    bound = lower_bound(wanted, [pool()], allowance=10 / 110)
    assert bound.gpu_hours == pytest.approx(2.0)
    assert bound.missed == pytest.approx(10.0)


def test_too_little_capacity_is_an_error_for_the_operator() -> None:
    with pytest.raises(ConfigError, match="more capacity"):
        lower_bound(demand(5, 5), [pool(2.0)], allowance=0.1)


def test_no_pool_and_no_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one pool"):
        lower_bound(demand(1), [])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        lower_bound(demand(1), [pool()], allowance=5.0)


# -- no feasible plan costs less


@dataclass(frozen=True)
class Lives:
    """A plan: of each replica the step in which it is allocated, and for how many steps."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    start_steps: int
    steps: int

    def alive(self) -> Floats:
        counts = np.zeros(self.steps)
        for start, length in zip(self.starts, self.lengths, strict=True):
            counts[start : start + length] += 1
        return counts

    def serving(self) -> Floats:
        counts = np.zeros(self.steps)
        for start, length in zip(self.starts, self.lengths, strict=True):
            counts[start + self.start_steps : start + length] += 1
        return counts


STEPS = 12


@st.composite
def plans(draw: st.DrawFn) -> Lives:
    count = draw(st.integers(1, 8))
    starts = draw(st.lists(st.integers(0, STEPS - 1), min_size=count, max_size=count))
    lengths = draw(st.lists(st.integers(1, STEPS), min_size=count, max_size=count))
    return Lives(tuple(starts), tuple(lengths), draw(st.integers(0, 3)), STEPS)


@st.composite
def served(draw: st.DrawFn) -> tuple[Lives, Demand, OraclePool]:
    """A plan, a demand that it serves in time (each step's work served within ``delay`` steps), and a pool that holds
    it and lets its replicas live."""
    plan = draw(plans())
    delay = draw(st.integers(0, 2))
    used = np.array(draw(st.lists(st.floats(0, 1), min_size=STEPS, max_size=STEPS))) * plan.serving()
    arrived = np.zeros(STEPS)
    for step, amount in enumerate(used):
        arrived[max(0, step - draw(st.integers(0, delay)))] += amount
    wanted = Demand(STEP_S, arrived[None] * STEP_S, np.array([0.1 * STEP_S]), 100, delay * STEP_S)
    life = max(plan.lengths)
    return plan, wanted, pool(float(plan.alive().max()), start=plan.start_steps, life=life, initial=0)


@given(served(), st.sampled_from((0.0, 0.01, 0.2)))
@settings(max_examples=50)
def test_no_feasible_plan_costs_less(case: tuple[Lives, Demand, OraclePool], allowance: float) -> None:
    plan, wanted, given_pool = case
    bound = lower_bound(wanted, [given_pool], allowance=allowance)
    assert bound.gpu_hours <= plan.alive().sum() + 1e-5


@given(served(), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 5))
@settings(max_examples=15)
def test_more_allowance_and_more_capacity_never_cost_more(
    case: tuple[Lives, Demand, OraclePool], allowance: float, more_allowance: float, more_capacity: float
) -> None:
    _, wanted, given_pool = case
    first = lower_bound(wanted, [given_pool], allowance=allowance).gpu_hours
    assert lower_bound(wanted, [given_pool], allowance=allowance + more_allowance).gpu_hours <= first + 1e-5
    roomier = replace(given_pool, capacity=given_pool.capacity + more_capacity)
    assert lower_bound(wanted, [roomier], allowance=allowance).gpu_hours <= first + 1e-5


# -- a report against it


@dataclass(frozen=True)
class Told:
    gpu_hours: float
    attainment: float


BOUND = Bound(100.0, 0.01, 60.0, ("pool",), np.zeros((1, 1)), 0.0)


@pytest.mark.parametrize("report", [Told(100.0, 0.99), Told(130.0, 1.0), Told(50.0, 0.98)])
def test_a_possible_report_passes(report: Told) -> None:
    beats_bound(report, BOUND)


def test_a_report_below_the_bound_is_a_bug() -> None:
    with pytest.raises(InvariantViolated, match=r"99.5.*below 100"):
        beats_bound(Told(99.5, 0.995), BOUND)


# -- the fluid demand


@given(
    st.lists(st.tuples(st.floats(0, 599), st.floats(0.01, 50)), max_size=60),
    st.integers(1, 10),
)
def test_no_work_and_no_request_is_lost_in_binning(requests: list[tuple[float, float]], groups: int) -> None:
    arrivals, work = (np.array([pair[part] for pair in requests], dtype=np.float64) for part in (0, 1))
    wanted = fluid_demand(arrivals, work, step_s=60.0, horizon_s=600.0, groups=groups)
    assert wanted.steps == 10
    assert wanted.requests == len(requests)
    assert wanted.work_s.sum() == pytest.approx(work.sum())
    assert not len(work) or wanted.heaviest_s.max() == work.max()


def test_arrivals_beyond_the_horizon_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon"):
        fluid_demand(np.array([600.0]), np.array([1.0]), step_s=60.0, horizon_s=600.0)


def test_the_least_work_is_a_full_batch_share() -> None:
    # One prompt token computed, three decodes in a batch that is always full.
    assert least_work_s(SLOW_ENGINE, np.array([1.0]), np.array([4.0])) == pytest.approx(4 * 0.05 / 4 + 1e-4 + 3 * 1e-3)
    assert least_work_s(SLOW_ENGINE, np.array([101.0]), np.array([1.0]), 100.0) == pytest.approx(0.05 / 4 + 1e-4)


requests_of_one_engine = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 300), st.integers(1, 60), st.integers(0, 40)), min_size=1, max_size=25
)


@given(requests_of_one_engine)
@settings(max_examples=60)
def test_no_batching_does_requests_in_less_than_their_least_work(rows: list[tuple[float, int, int, int]]) -> None:
    """Preemption and chunks included: the cache holds some four of the larger requests."""
    profile = replace(SLOW_ENGINE, s_per_kv_token=1e-5, num_blocks=80)
    engine = ReferenceEngine(profile)
    table = [(at, prompt, output, min(cached, prompt - 1)) for at, prompt, output, cached in sorted(rows)]
    for index, (at, prompt, output, cached) in enumerate(table):
        engine.add(EngineRequest(f"r{index}", at, prompt, output, cached_tokens=cached))
    busy_s = sum(iteration.ended_at - iteration.started_at for iteration in engine.iterations(1e6))
    _, prompts, outputs, cached_tokens = (np.array(column, dtype=np.float64) for column in zip(*table, strict=True))
    assert least_work_s(profile, prompts, outputs, cached_tokens).sum() <= busy_s * (1 + 1e-6)


def test_no_requests_cost_nothing() -> None:
    nothing = fluid_demand(np.zeros(0), np.zeros(0), step_s=60.0, horizon_s=600.0)
    assert lower_bound(nothing, [pool(start=1)]).gpu_hours == 0.0
