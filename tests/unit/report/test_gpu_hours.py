"""GPU-hours: every allocated second in exactly one part."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import InvariantViolated
from broker.model.replica import ReplicaPhase
from simulator.report.gpu_hours import GpuHours, Holding, PhaseInterval, daily_gpu_hours, gpu_hours

H = 3600.0
ALLOCATED = (
    ReplicaPhase.STARTING, ReplicaPhase.LOADING, ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.STOPPING,
    ReplicaPhase.UNKNOWN,
)  # fmt: skip


def phase(name: ReplicaPhase, begin_h: float, end_h: float, *, gpus: int = 2, busy_h: float = 0.0) -> PhaseInterval:
    return PhaseInterval("pool", name, begin_h * H, end_h * H, gpus, busy_h * H)


LIFE = [
    phase(ReplicaPhase.PENDING, 0, 3),
    phase(ReplicaPhase.STARTING, 3, 3.5),
    phase(ReplicaPhase.LOADING, 3.5, 4),
    phase(ReplicaPhase.READY, 4, 10, busy_h=2),
    phase(ReplicaPhase.DRAINING, 10, 10.5),
    phase(ReplicaPhase.STOPPING, 10.5, 11),
]


def test_a_replica_counts_from_its_allocation_to_its_end() -> None:
    assert gpu_hours(LIFE) == GpuHours(busy=4.0, idle=8.0, starting=2.0, draining=2.0)
    assert gpu_hours(LIFE).total == 16.0


def test_a_failed_start_counts() -> None:
    assert gpu_hours([phase(ReplicaPhase.LOADING, 0, 1), phase(ReplicaPhase.FAILED, 1, 5)]) == GpuHours(starting=2.0)


def test_unused_gpus_of_an_exclusive_node_are_withheld() -> None:
    assert gpu_hours([replace(phase(ReplicaPhase.DRAINING, 0, 1), unused_gpus=6)]) == GpuHours(
        draining=2.0, withheld=6.0
    )


def test_gpu_types_are_normalised() -> None:
    assert gpu_hours([replace(phase(ReplicaPhase.READY, 0, 1), gpu_weight=0.5)]) == GpuHours(idle=1.0)


def test_what_is_held_and_not_used_is_withheld() -> None:
    """Four GPUs held for ten hours; two replicas of two overlap for an hour, a third of them goes beyond."""
    replicas = [phase(ReplicaPhase.READY, begin, end) for begin, end in ((1, 5), (4, 8), (4, 5), (9, 12))]
    told = gpu_hours(replicas, [Holding("pool", 0, 10 * H, 4)])
    assert told.idle == 24.0
    # 4 alone for an hour, 2 for three, none for one, 2 for three, 4 for one, 2 for one.
    assert told.withheld == pytest.approx(4 + 6 + 0 + 6 + 4 + 2)


def test_another_pools_holding_is_withheld_whole() -> None:
    assert gpu_hours(LIFE, [Holding("other", 0, H, 3)]).withheld == 3.0


@pytest.mark.parametrize(
    "wrong",
    [
        phase(ReplicaPhase.READY, 2, 1),
        phase(ReplicaPhase.READY, 0, math.inf),
        phase(ReplicaPhase.READY, 0, 1, busy_h=2),
    ],
    ids=["backwards", "endless", "busier than its time"],
)
def test_an_impossible_interval_is_a_bug(wrong: PhaseInterval) -> None:
    with pytest.raises(InvariantViolated):
        gpu_hours([wrong])


@st.composite
def intervals(draw: st.DrawFn) -> PhaseInterval:
    begin, length = draw(st.floats(-5, 60)), draw(st.floats(0, 40))
    share = draw(st.floats(0, 1))
    interval = phase(draw(st.sampled_from(ALLOCATED)), begin, begin + length, gpus=draw(st.integers(1, 8)))
    return replace(interval, busy_s=share * (interval.end_s - interval.begin_s), unused_gpus=draw(st.integers(0, 3)))


holdings = st.builds(
    lambda begin, length, gpus: Holding("pool", begin * H, (begin + length) * H, gpus),
    st.floats(-5, 60), st.floats(0, 40), st.integers(0, 9),
)  # fmt: skip


@given(st.lists(intervals(), max_size=12))
def test_the_parts_add_up_to_all_that_was_allocated(replicas: list[PhaseInterval]) -> None:
    allocated = sum((one.gpus + one.unused_gpus) * (one.end_s - one.begin_s) / H for one in replicas)
    assert gpu_hours(replicas).total == pytest.approx(allocated, abs=1e-6)


@given(st.lists(intervals(), max_size=12), st.lists(holdings, max_size=4))
def test_days_add_up_to_the_run_and_holdings_count_at_least_once(
    replicas: list[PhaseInterval], held: list[Holding]
) -> None:
    whole = gpu_hours(replicas, held)
    parts = sum(daily_gpu_hours(replicas, held, days=3), gpu_hours(replicas, held, end_s=0.0))
    for name in ("busy", "idle", "starting", "draining", "withheld"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-5)
    used = gpu_hours(replicas).total
    of_holdings = sum(one.gpus * (one.end_s - one.begin_s) / H for one in held)
    assert max(used, of_holdings) - 1e-5 <= whole.total <= used + of_holdings + 1e-5
