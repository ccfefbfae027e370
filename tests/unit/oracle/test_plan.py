"""The clairvoyant plan and the offline optimum: whole replicas that serve what is needed, at the least cost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.log.memory import MemoryLog, MemoryStore
from broker.model.errors import ConfigError
from broker.model.spec import PolicySpec, StabilisationSpec
from policies.registry import cached
from simulator.demand import demand_of
from simulator.oracle.bound import OraclePool
from simulator.oracle.demand import Demand
from simulator.oracle.lazy import cost_steps, offline_optimum
from simulator.oracle.plan import Lead, ReplicaTimetable, clairvoyant_plan, whole_replicas
from simulator.oracle.policy import build_clairvoyant, clairvoyant_spec, with_clairvoyant
from simulator.simulation import Simulation, SimulationSettings
from tests.support.simulated import ELASTIC, SITE, SLOW_ENGINE, small_request
from tests.unit.policies.fleet import fleet

STEP_S = 60.0
needs = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(np.array)


def demand(*replicas: float) -> Demand:
    return Demand(STEP_S, np.array([replicas]) * STEP_S, np.array([0.6]), 1000)


@given(needs, st.integers(0, 4))
@settings(max_examples=40)
def test_the_offline_optimum_is_the_cheapest_of_all_plans(needed: Any, start_steps: int) -> None:
    top = int(needed.max())
    every = itertools.product(*(range(int(least), top + 1) for least in needed))
    best = min(cost_steps(np.array(plan), start_steps) for plan in every)
    running = offline_optimum(needed, start_steps)
    assert (running >= needed).all()
    assert cost_steps(running, start_steps) == best


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40).map(np.array), st.integers(0, 6))
def test_what_is_asked_for_in_time_serves_and_fits(needed: Any, lead: int) -> None:
    asked = whole_replicas(needed, OraclePool("pool", float(needed.max())), lead)
    assert len(asked) == len(needed) + lead
    assert asked.max(initial=0) <= needed.max()
    # What has been asked for without a break for the whole lead serves.
    serving = [asked[step : step + lead + 1].min() for step in range(len(needed))]
    assert (serving >= needed).all()


def test_a_plan_starts_before_the_demand_and_ends_with_it() -> None:
    plan = clairvoyant_plan(demand(0, 0, 0, 2, 2, 0), [OraclePool("pool", 4, start_s=61.0)], allowance=0.0)
    assert plan.times_s == (-120.0, 60.0, 300.0)
    assert plan.targets == ((0, 2, 0),)
    assert "queue waits allowed for, single ones not known: pool 0 s" in plan.words


def test_headroom_and_leads_make_it_larger_and_earlier() -> None:
    plan = clairvoyant_plan(
        demand(0, 0, 0, 2, 2, 0), [OraclePool("pool", 4)], allowance=0.0, headroom=1.5,
        leads={"pool": Lead(60.0, queue_wait_s=180.0)},
    )  # fmt: skip
    assert plan.times_s == (-240.0, -60.0, 300.0)
    assert plan.targets == ((0, 3, 0),)


def test_pools_with_different_leads_share_one_axis_of_time() -> None:
    near, far = OraclePool("near", 1), OraclePool("far", 2, gpus_per_replica=2)
    plan = clairvoyant_plan(
        demand(0, 3, 3, 0), [near, far], allowance=0.0, leads={"far": Lead(120.0), "near": Lead(0.0)}
    )
    assert plan.times_s == (-120.0, -60.0, 60.0, 180.0)
    assert plan.targets == ((0, 0, 1, 0), (0, 2, 2, 0))


TIMETABLE = ReplicaTimetable(("dedicated", "lent"), (-60.0, 0.0, 120.0), ((1, 1, 2), (0, 2, 0)), "")


def test_the_policy_reads_the_line_that_holds_and_says_until_when() -> None:
    policy = build_clairvoyant(clairvoyant_spec(TIMETABLE, start_at=1000.0, baseline_pools={"dedicated"}))
    told = [policy.recommend(fleet(now=now), {})[0] for now in (900.0, 940.0, 999.9, 1000.0, 1120.0)]
    assert [(one.target, one.baseline, one.valid_until) for one in told] == [
        (0, 0, 940.0), (1, 1, 1000.0), (1, 1, 1000.0), (3, 1, 1120.0), (2, 2, None),
    ]  # fmt: skip
    assert all(one.shaped for one in told)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"targets": [1]}, "times"), ({"times": [0.0, 2.0, 1.0]}, "times"), ({"baselines": [2, 9, 0]}, "baselines")],
)
def test_a_damaged_timetable_is_refused(change: dict[str, Any], field: str) -> None:
    spec = clairvoyant_spec(TIMETABLE, start_at=0.0, baseline_pools=())
    with pytest.raises(ConfigError) as caught:
        build_clairvoyant(PolicySpec(spec.kind, dict(spec.parameters) | change))
    assert caught.value.field == field


def test_the_production_core_executes_the_timetable() -> None:
    start_at = 1_700_000_000.0
    timetable = ReplicaTimetable(("pool",), (-5.0, 20.0, 40.0), ((1, 3, 1),), "")
    spec = clairvoyant_spec(timetable, start_at=start_at, baseline_pools={"pool"})
    model = replace(ELASTIC, policy=spec, stabilisation=StabilisationSpec(max_step_in=4))
    simulation = Simulation(
        SITE, (model,), log=MemoryLog(MemoryStore()), policies=with_clairvoyant(cached()),
        settings=SimulationSettings(start_at=start_at, warm_up_s=5.0, tail_s=10.0),
        profile_of=lambda launch: SLOW_ENGINE,
    )  # fmt: skip
    summary = simulation.run(demand_of("chat", [small_request(float(second)) for second in range(50)]))
    changes = [(d.now - start_at, d.target) for d in summary.decisions if d.target != d.before]
    assert changes == [(20.0, 3), (40.0, 1)]  # one is the model's minimum, from the first decision on
    assert summary.peak_ready == 3
    assert summary.requests.finished == 50
