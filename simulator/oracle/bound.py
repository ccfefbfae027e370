"""The lower bound: what any plan must at least allocate, as a linear program over the fluid demand. Pure.

In each step t and pool p stand, as means over the step, r (replicas that serve), u (more of them than in the step
before) and v (fewer). With A(x) the replicas started until x and V(x) those stopped, a start that takes at least L
whole steps gives r[t] <= mean A over step t-L minus mean V over step t, so that

    r[t] = r[t-1] + u[t] - v[t]                 u, v >= 0, since A and V only rise
    r[t] + u[t+1] + ... + u[t+L] <= capacity    serving and starting ones
    r[t] <= u[t-W+L+1] + ... + u[t]             none older than W steps, the wall time rounded up
    backlog[t] >= backlog[t-1] + work[t] - saved[t] - step * sum of speed * r[t]
    backlog[t] <= work of the last D steps      older work is a miss; D: the deadline rounded up
    sum of saved / heaviest request <= allowance * requests

hold for every real plan, whatever its routing, and the sum of serving and starting replicas is what it costs. Drains,
failed starts, queue waits (which allocate nothing) and whole replicas can only add to that. Replicas that are started
and stopped without having served are left out: without them a plan costs less and serves the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from broker.model.errors import ConfigError, InvariantViolated
from simulator.oracle.demand import Demand, Floats

_CONSERVATION = 9
"""The invariant that a run breaks which costs less than the bound: it did work that nobody did."""
_TOLERANCE = 1e-6
"""Relative; the solver's own tolerances are 1e-7."""
_SUMS_PER_LIFE = 16


@dataclass(frozen=True, slots=True)
class OraclePool:
    """One kind of capacity as the oracle sees it.

    ``capacity``: replicas that fit, one number or one for each step (the last goes on). ``speed``: work that a replica
    does, in reference replica-seconds per second; for the bound no less than can ever be reached. ``start_s``: from
    allocation to serving, for the bound the least ever seen. ``wall_time_s``: a replica's longest life, from its
    allocation. ``gpu_weight`` normalises where GPU types differ. ``initial``: replicas that serve when the run begins;
    None: as many as it likes, their start unpaid.
    """

    pool_id: str
    capacity: float | Floats
    gpus_per_replica: int = 1
    speed: float = 1.0
    start_s: float = 0.0
    wall_time_s: float = math.inf
    gpu_weight: float = 1.0
    initial: float | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """``gpu_hours`` (weighted by GPU type) that no run can undercut which misses at most ``allowance`` of its requests.

    ``serving``: (pools, steps) replicas of the solution, fractional; ``missed`` the requests that it leaves out.
    """

    gpu_hours: float
    allowance: float
    step_s: float
    pool_ids: tuple[str, ...]
    serving: Floats
    missed: float


class Judged(Protocol):
    """What a report must tell to be held against a bound: over the same requests, pools and span of time."""

    @property
    def gpu_hours(self) -> float: ...

    @property
    def attainment(self) -> float: ...


def beats_bound(report: Judged, bound: Bound) -> None:
    """Raise ``InvariantViolated`` if the report costs less than the bound at no more misses: one of the two is wrong.

    A report with more misses than the bound allows proves nothing and passes.
    """
    if report.attainment < 1 - bound.allowance - 1e-12:
        return
    if report.gpu_hours < bound.gpu_hours * (1 - _TOLERANCE) - 1e-9:
        raise InvariantViolated(
            _CONSERVATION,
            f"a run with {report.attainment:.4%} of its requests in time took {report.gpu_hours:.6g} GPU-hours, and "
            f"nothing can do that below {bound.gpu_hours:.6g}; the simulator or the bound's speeds and start times "
            "are wrong",
        )


def lower_bound(demand: Demand, pools: Sequence[OraclePool], *, allowance: float = 0.01) -> Bound:
    """Solve the program of the module's text with HiGHS (interior point).

    Raises ``ConfigError`` if even so no plan exists (too little capacity for the allowance), or without scipy.
    """
    if not pools:
        raise ConfigError("a bound needs at least one pool")
    if not 0 <= allowance <= 1:
        raise ConfigError(f"an allowance of misses is a share between 0 and 1, not {allowance}")
    program = _Program()
    padded = np.pad(demand.work_s, ((0, 0), (0, demand.patience_steps)))
    columns = [_pool(program, pool, demand.step_s, padded.shape[1]) for pool in pools]
    saved = _work(program, demand, padded, pools, columns, allowance)
    values, cost = program.solve()
    return Bound(
        gpu_hours=cost * demand.step_s / 3600,
        allowance=allowance,
        step_s=demand.step_s,
        pool_ids=tuple(pool.pool_id for pool in pools),
        serving=np.array([values[serving] for serving in columns]),
        missed=float((values[saved] / demand.heaviest_s[:, None]).sum()) * demand.step_s,
    )


def capacity_of(pool: OraclePool, steps: int) -> Floats:
    """Replicas that fit in each step."""
    given = np.atleast_1d(np.asarray(pool.capacity, dtype=np.float64))
    return np.concatenate([given[:steps], np.full(max(0, steps - len(given)), given[-1])])


Columns = NDArray[np.int64]
_Term = tuple[int, Columns, float]
"""First row, one column for each row from there, their coefficient."""


@dataclass(slots=True)
class _Program:
    """A sparse program under construction: columns by ``new``, rows by ``rows``."""

    cost: list[Floats] = field(default_factory=list)
    upper: list[Floats] = field(default_factory=list)
    limits: list[Floats] = field(default_factory=list)
    equal: list[NDArray[np.bool_]] = field(default_factory=list)
    entries: list[tuple[Columns, Columns, Floats]] = field(default_factory=list)
    columns: int = 0
    row: int = 0

    def new(self, count: int, cost: float | Floats = 0.0, upper: float | Floats = np.inf) -> Columns:
        self.cost.append(np.broadcast_to(np.asarray(cost, dtype=np.float64), count))
        self.upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), count))
        self.columns += count
        return np.arange(self.columns - count, self.columns)

    def rows(self, terms: Sequence[_Term], limits: Floats, *, equal: bool = False) -> None:
        """Sums of ``terms`` at most (or equal to) ``limits``."""
        for first, columns, coefficient in terms:
            self.put(self.row + first + np.arange(len(columns)), columns, np.full(len(columns), coefficient))
        self.limits.append(limits)
        self.equal.append(np.full(len(limits), equal))
        self.row += len(limits)

    def put(self, rows: Columns, columns: Columns, values: Floats) -> None:
        self.entries.append((rows, columns, values))

    def solve(self) -> tuple[Floats, float]:
        linprog, csr_array = _scipy()
        rows, columns, values = (np.concatenate(parts) for parts in zip(*self.entries, strict=True))
        matrix = csr_array((values, (rows, columns)), shape=(self.row, self.columns))
        limits, equal = np.concatenate(self.limits), np.concatenate(self.equal)
        found = linprog(
            np.concatenate(self.cost), matrix[~equal], limits[~equal], matrix[equal], limits[equal],
            bounds=np.column_stack([np.zeros(self.columns), np.concatenate(self.upper)]), method="highs-ipm",
        )  # fmt: skip
        if found.status == 2:
            raise ConfigError(
                "even with the future known this demand cannot be served within the allowance of misses; the pools "
                "need more capacity, or the allowance must rise"
            )
        if found.status != 0:
            raise ConfigError(f"the solver gave up on the oracle's program: {found.message}")
        return np.asarray(found.x, dtype=np.float64), float(found.fun)


def _pool(program: _Program, pool: OraclePool, step_s: float, steps: int) -> Columns:
    """The rows of one pool; the columns of its serving replicas."""
    start = math.floor(pool.start_s / step_s + 1e-9)
    price = pool.gpus_per_replica * pool.gpu_weight
    capacity = capacity_of(pool, steps)
    first = math.inf if pool.initial is None else pool.initial
    before = program.new(1, upper=min(first, float(capacity[0])))
    serving = program.new(steps, price, capacity)
    step = np.arange(steps)
    # What starts before the run is paid from the run's beginning on; with a given stock nothing does.
    late_enough = np.inf if pool.initial is None else np.where(step < start, 0.0, np.inf)
    more = program.new(steps, price * np.minimum(step, start), late_enough)
    less = program.new(steps)
    change: list[_Term] = [(0, serving, 1), (1, serving[:-1], -1), (0, before, -1), (0, more, -1), (0, less, 1)]
    program.rows(change, np.zeros(steps), equal=True)
    if start:
        starting: list[_Term] = [(0, more[ahead:], 1) for ahead in range(1, min(start, steps - 1) + 1)]
        program.rows([(0, serving, 1), *starting], capacity)
    life = math.ceil(pool.wall_time_s / step_s - 1e-9) - start if math.isfinite(pool.wall_time_s) else steps
    if life < steps:
        _wall_time(program, max(life, 0), before, serving, more)
    return serving


def _wall_time(program: _Program, life: int, before: Columns, serving: Columns, more: Columns) -> None:
    """``life``: steps for which a replica can serve. What began within them is a difference of running sums, kept only
    at every sixteenth of a life and rounded outwards: one for each step made the program four times as slow."""
    steps = len(serving)
    block = max(1, life // _SUMS_PER_LIFE)
    block_of = np.arange(steps) // block
    total = program.new(int(block_of[-1]) + 1)
    begun: list[_Term] = [(0, total, 1), (1, total[:-1], -1), (0, before, -1)]
    program.put(program.row + block_of, more, np.full(steps, -1.0))
    program.rows(begun, np.zeros(len(total)), equal=True)
    # Sums to the end of t's own block, less those to the end of the last block that is all older than a life.
    older = (np.arange(steps) - life + 1) // block - 1
    old = np.flatnonzero(older >= 0)
    program.put(program.row + old, total[older[old]], np.ones(len(old)))
    program.rows([(0, serving, 1), (0, total[block_of], -1)], np.zeros(steps))


def _work(
    program: _Program, demand: Demand, work_s: Floats, pools: Sequence[OraclePool], columns: Sequence[Columns],
    allowance: float,
) -> Columns:  # fmt: skip
    """Work is done, waits, or is saved by a miss; the columns of the last, (groups, steps)."""
    groups, steps = work_s.shape
    patience = demand.patience_steps
    # In units of one replica's step, so that all columns are of one size.
    unit = work_s / demand.step_s
    saved = program.new(groups * steps, upper=unit.ravel()).reshape(groups, steps)
    arrived = unit.sum(axis=0)
    terms: list[_Term] = [(0, group, -1) for group in saved]
    terms += [(0, serving, -pool.speed) for pool, serving in zip(pools, columns, strict=True)]
    if patience:
        backlog = program.new(steps, upper=np.convolve(arrived, np.ones(patience))[:steps])
        terms += [(1, backlog[:-1], 1), (0, backlog, -1)]
    program.rows(terms, -arrived)
    weights = np.repeat(demand.step_s / demand.heaviest_s, steps)
    program.put(np.full(groups * steps, program.row), saved.ravel(), weights)
    program.rows([], np.array([allowance * demand.requests]))
    return saved


def _scipy() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """scipy is an extra: only the oracle and calibration need it."""
    try:
        from scipy.optimize import linprog
        from scipy.sparse import csr_array
    except ImportError:
        raise ConfigError("the oracle needs scipy: pip install 'tidegate[sim]'") from None
    return linprog, csr_array
