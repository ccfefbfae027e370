"""What a report draws over time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from broker.model.replica import ReplicaPhase
from simulator.report.document import Grid, Series
from simulator.report.facts import Facts
from simulator.report.gpu_hours import PhaseInterval
from simulator.report.recorder import ReplicaInterval
from simulator.report.slo import Booleans
from simulator.report.summary import Floats
from simulator.report.timeline import (
    Level,
    counted,
    edges_of,
    grid_of,
    level,
    oldest_wait,
    quantiles,
    rounded,
    share,
)

_MOST_BINS = 1000
_LEAST_BINS = 60
_VALUES = 150_000
_SERIES_PER_MODEL = 25
_QUANTILES = {"P50": 0.5, "P95": 0.95, "P99": 0.99}
_STARTING = frozenset({ReplicaPhase.STARTING, ReplicaPhase.LOADING})
_DRAINING = frozenset({ReplicaPhase.DRAINING, ReplicaPhase.STOPPING})
_QUEUED = frozenset({ReplicaPhase.REQUESTED, ReplicaPhase.PENDING})


def grid_for(facts: Facts) -> Grid:
    """As fine as a page of all models' series allows."""
    wanted = _VALUES // (_SERIES_PER_MODEL * max(1, len(facts.asked)))
    return grid_of(facts.duration_s, min(_MOST_BINS, max(_LEAST_BINS, wanted)))


def series_of(facts: Facts, grid: Grid) -> tuple[Series, ...]:
    """For each model, and for all together where there are several."""
    told: list[Series] = []
    for model_id in ("", *facts.asked) if len(facts.asked) > 1 else facts.asked:
        labels = {"model": model_id}
        rows = facts.rows_of(model_id) if model_id else np.ones(len(facts.outcomes), np.bool_)
        told += _demand(facts, grid, rows, labels)
        told += _service(facts, grid, rows, labels)
        if model_id:
            told += _target(facts, grid, model_id)
    told += _replicas(facts, grid)
    told += _gpus(facts, grid)
    return tuple(told)


def _demand(facts: Facts, grid: Grid, rows: Booleans, labels: Mapping[str, str]) -> Iterator[Series]:
    out = facts.outcomes
    arrival_s, end_s = out.arrival_s[rows], out.end_s[rows]
    lengths = np.maximum(1e-9, np.minimum(edges_of(grid)[1:], facts.duration_s) - edges_of(grid)[:-1])
    yield Series("load", "requests/s", labels, rounded(counted(grid, arrival_s) / lengths))
    ended_s = np.where(np.isnan(end_s), np.inf, end_s)
    served_s = np.fmin(out.first_token_s[rows], ended_s)
    for name, until_s in (("in_flight", ended_s), ("waiting", served_s)):
        over = np.isfinite(until_s)
        times = np.concatenate((arrival_s, until_s[over]))
        changes = np.concatenate((np.ones(len(arrival_s)), -np.ones(int(over.sum()))))
        yield _level_series(name, "requests", labels, level(grid, times, changes, facts.duration_s))
    ages = oldest_wait(grid, arrival_s, served_s, facts.duration_s)
    yield Series("queue_age", "s", labels, rounded(ages))


def _service(facts: Facts, grid: Grid, rows: Booleans, labels: Mapping[str, str]) -> Iterator[Series]:
    arrival_s = facts.outcomes.arrival_s
    for name, values in (("ttft", facts.first_token_wait_s), ("tpot", facts.per_token_s)):
        there = rows & ~np.isnan(values)
        found = quantiles(grid, arrival_s[there], values[there], tuple(_QUANTILES.values()))
        for words, line in zip(_QUANTILES, found, strict=True):
            yield Series(name, "s", {**labels, "quantile": words}, rounded(line))
    yield Series("attainment", "share", labels, rounded(share(grid, arrival_s[rows], facts.kept[rows])))


def _target(facts: Facts, grid: Grid, model_id: str) -> Iterator[Series]:
    """From the first decision on; what stood before it is where it began."""
    own = [decision for decision in facts.decisions if decision.model_id == model_id]
    if not own:
        return
    begun = facts.recorded.begin_s - 1.0
    changed = [one for one in own if one.target != one.before]
    times = np.array([begun, *(one.now - facts.started_at for one in changed)])
    changes = np.array([own[0].before, *(one.target - one.before for one in changed)], dtype=np.float64)
    found = level(grid, times, changes, facts.duration_s)
    yield _level_series("target", "replicas", {"model": model_id}, found)


def _replicas(facts: Facts, grid: Grid) -> Iterator[Series]:
    """By model, phase, pool and tier: their means, which add up; and all that are ready, with the extremes."""
    groups: dict[tuple[str, str, str, str], list[PhaseInterval]] = {}
    ready: dict[str, list[PhaseInterval]] = {}
    for one in facts.recorded.replicas:
        interval = one.interval
        key = (one.model_id, interval.phase.value, interval.pool_id, one.tier.value)
        groups.setdefault(key, []).append(interval)
        if interval.phase is ReplicaPhase.READY:
            ready.setdefault(one.model_id, []).append(interval)
    for (model_id, phase, pool_id, tier), intervals in sorted(groups.items()):
        labels = {"model": model_id, "phase": phase, "pool": pool_id, "tier": tier}
        found = _level_of(grid, intervals, [1.0] * len(intervals), facts.duration_s)
        if found.high.any():
            yield Series("replicas", "replicas", labels, rounded(found.mean))
    for model_id, intervals in sorted(ready.items()):
        found = _level_of(grid, intervals, [1.0] * len(intervals), facts.duration_s)
        yield _level_series("ready", "replicas", {"model": model_id}, found)


def _gpus(facts: Facts, grid: Grid) -> Iterator[Series]:
    """What GPUs, weighted by their type, went to, as the split of GPU-hours has it, of all models."""
    serving: list[ReplicaInterval] = []
    parts: dict[str, list[PhaseInterval]] = {"starting": [], "draining": []}
    allocated = []
    for one in facts.recorded.replicas:
        phase = one.interval.phase
        if phase in _QUEUED:
            continue
        allocated.append(one.interval)
        if phase in _STARTING:
            parts["starting"].append(one.interval)
        elif phase in _DRAINING:
            parts["draining"].append(one.interval)
        else:
            serving.append(one)
    serves = _gpu_level(grid, [one.interval for one in serving], facts.duration_s).mean
    busy = _busy_gpus(facts, grid, serving)
    lines = {"busy": busy, "idle": serves - busy}
    lines |= {name: _gpu_level(grid, found, facts.duration_s).mean for name, found in parts.items()}
    lines["withheld"] = _withheld(facts, grid, allocated)
    for name, line in lines.items():
        yield Series("gpus", "GPUs", {"part": name}, rounded(line))


def _busy_gpus(facts: Facts, grid: Grid, serving: Iterable[ReplicaInterval]) -> Floats:
    """An iteration is known when it ends, which may be a bin later: no model is busier than what serves it."""
    groups: dict[tuple[str, str], list[PhaseInterval]] = {}
    for one in serving:
        groups.setdefault((one.model_id, one.interval.pool_id), []).append(one.interval)
    busy = facts.recorded.busy
    edges = np.minimum(edges_of(grid), facts.duration_s)
    lengths = np.maximum(1e-9, np.diff(edges))
    total = np.zeros(grid.bins)
    for key, intervals in groups.items():
        computed_s = np.diff(np.interp(edges, busy.t_s, busy.seconds.get(key, np.zeros(len(busy.t_s)))))
        gpus = intervals[0].gpus * intervals[0].gpu_weight
        total += np.minimum(gpus * computed_s / lengths, _gpu_level(grid, intervals, facts.duration_s).mean)
    return np.asarray(total)


def _withheld(facts: Facts, grid: Grid, allocated: Sequence[PhaseInterval]) -> Floats:
    """Unused GPUs of whole nodes, and what dedicated pools hold beyond use."""
    unused = _level_of(grid, allocated, [one.unused_gpus * one.gpu_weight for one in allocated], facts.duration_s).mean
    for holding in facts.holdings:
        own = [one for one in allocated if one.pool_id == holding.pool_id]
        times, changes = _steps(own, [float(one.gpus + one.unused_gpus) for one in own])
        order = np.argsort(times, kind="stable")
        surplus = np.maximum(0.0, holding.gpus - np.concatenate(([0.0], np.cumsum(changes[order]))))
        since = np.concatenate(([holding.begin_s], times[order]))
        held = level(grid, since, np.diff(surplus, prepend=0.0), facts.duration_s)
        unused = unused + held.mean * holding.gpu_weight
    return unused


def _gpu_level(grid: Grid, intervals: Sequence[PhaseInterval], end_s: float) -> Level:
    return _level_of(grid, intervals, [one.gpus * one.gpu_weight for one in intervals], end_s)


def _level_of(grid: Grid, intervals: Sequence[PhaseInterval], weights: Sequence[float], end_s: float) -> Level:
    return level(grid, *_steps(intervals, weights), end_s)


def _steps(intervals: Sequence[PhaseInterval], weights: Sequence[float]) -> tuple[Floats, Floats]:
    begins, ends = [one.begin_s for one in intervals], [one.end_s for one in intervals]
    return np.array([*begins, *ends]), np.array([*weights, *(-weight for weight in weights)])


def _level_series(name: str, unit: str, labels: Mapping[str, str], found: Level) -> Series:
    return Series(name, unit, labels, rounded(found.mean), rounded(found.low), rounded(found.high))
