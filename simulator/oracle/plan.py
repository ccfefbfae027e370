"""The clairvoyant plan: the bound's solution in whole replicas, started early enough, as a timetable. Pure.

It knows every arrival, start times, and what queue waits it is told to allow for (``Lead.queue_wait_s``), but no single
job's wait. It runs in the simulator under everybody's rules, so engines, routing, limits and drains cost it what they
cost others; its knob is ``headroom``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.oracle.bound import OraclePool, capacity_of, lower_bound
from simulator.oracle.demand import Demand
from simulator.oracle.lazy import Counts, stretches


@dataclass(frozen=True, slots=True)
class Lead:
    """How long before its replicas must serve a pool is asked: allocation to serving, and the queue before."""

    start_s: float
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaTimetable:
    """From ``times_s[i]`` on (seconds from the run's start, ascending, the first may be negative) pool p is to have
    ``targets[p][i]`` replicas, starting ones included. ``words`` say what the plan knows."""

    pool_ids: tuple[str, ...]
    times_s: tuple[float, ...]
    targets: tuple[tuple[int, ...], ...]
    words: str


def clairvoyant_plan(
    demand: Demand, pools: Sequence[OraclePool], *, allowance: float = 0.01, headroom: float = 1.0,
    leads: Mapping[str, Lead] | None = None,
) -> ReplicaTimetable:  # fmt: skip
    """Solve for ``headroom`` times the demand and make it whole: rounded up, gaps shorter than a start bridged.

    ``leads``, by pool id, replace the bound's favourable start times. Rounding up never takes more than a pool holds:
    one replica is started, serves and ends after the other in each of its places. Raises as ``lower_bound`` does.
    """
    known = {pool.pool_id: Lead(pool.start_s) for pool in pools} | dict(leads or {})
    harder = replace(demand, work_s=demand.work_s * headroom, heaviest_s=demand.heaviest_s * headroom)
    bound = lower_bound(harder, pools, allowance=allowance)
    whole = [
        whole_replicas(np.ceil(serving - 1e-4).astype(np.int64), pool, _steps(known[pool.pool_id], demand.step_s))
        for serving, pool in zip(bound.serving, pools, strict=True)
    ]
    return _timetable(whole, pools, demand.step_s, known, headroom)


def whole_replicas(needed: Counts, pool: OraclePool, lead_steps: int) -> Counts:
    """Replicas asked for in each step from ``lead_steps`` before the run on, so that ``needed`` serve in each step."""
    asked = np.zeros(len(needed) + lead_steps, dtype=np.int64)
    for level in range(1, int(needed.max(initial=0)) + 1):
        for begin, end in stretches(needed >= level, longest_gap=lead_steps):
            asked[begin : end + lead_steps] += 1
    room = np.floor(capacity_of(pool, len(needed)) + 1e-9).astype(np.int64)
    return np.asarray(np.minimum(asked, np.concatenate((np.full(lead_steps, room[0]), room))))


def _steps(lead: Lead, step_s: float) -> int:
    """Rounded up: a plan must be early, where a bound must be late."""
    return math.ceil((lead.start_s + lead.queue_wait_s) / step_s - 1e-9)


def _timetable(
    whole: Sequence[Counts], pools: Sequence[OraclePool], step_s: float, leads: Mapping[str, Lead], headroom: float
) -> ReplicaTimetable:
    """All pools over one axis of time, from the longest lead before the run to the first step after it (none)."""
    longest = max(map(len, whole))
    # Each series ends with the run, so that they are aligned at their ends.
    table = np.array([np.pad(series, (longest - len(series), 1)) for series in whole])
    runs_from = max(_steps(leads[pool.pool_id], step_s) for pool in pools)
    changes = np.concatenate(([0], 1 + np.flatnonzero(np.any(np.diff(table, axis=1), axis=0))))
    waits = ", ".join(f"{pool.pool_id} {leads[pool.pool_id].queue_wait_s:g} s" for pool in pools)
    return ReplicaTimetable(
        pool_ids=tuple(pool.pool_id for pool in pools),
        times_s=tuple(float((index - runs_from) * step_s) for index in changes),
        targets=tuple(tuple(int(count) for count in series[changes]) for series in table),
        words=f"knows all arrivals; queue waits allowed for, single ones not known: {waits}; headroom {headroom:g}",
    )
