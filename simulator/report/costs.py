"""Whose GPU-hours: those of the models that somebody asked, of the others, and of none. Pure.

What ranks policies is what was spent on the question. A model that nobody asked costs what its minimum is, whatever the
policies under comparison do; a sweep that counted it once called the lack of an idle model a saving.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from math import inf

from simulator.report.facts import Facts
from simulator.report.gpu_hours import GpuHours, Holding, day_edges, gpu_hours, held_beyond_use


def model_hours(facts: Facts, model_ids: Collection[str], *, begin_s: float = 0.0, end_s: float = inf) -> GpuHours:
    """Of these models' replicas, with the unused GPUs of their nodes."""
    own = [one.interval for one in facts.recorded.replicas if one.model_id in model_ids]
    return gpu_hours(own, begin_s=begin_s, end_s=end_s)


def unused_hours(facts: Facts) -> GpuHours:
    """What dedicated pools hold beyond all models' replicas, which belongs to no model."""
    return _held(facts, facts.holdings, 0.0, inf)


def asked_hours(facts: Facts, *, begin_s: float = 0.0, end_s: float = inf) -> GpuHours:
    """Of the models that somebody asked: their replicas, and what the dedicated pools that they may use hold beyond
    all replicas."""
    specs = [facts.spec(model_id) for model_id in facts.asked]
    theirs = [one for one in facts.holdings if any(not spec.pools or one.pool_id in spec.pools for spec in specs)]
    replicas = model_hours(facts, facts.asked, begin_s=begin_s, end_s=end_s)
    return replicas + _held(facts, theirs, begin_s, end_s)


def daily_asked_hours(facts: Facts) -> tuple[GpuHours, ...]:
    """``asked_hours`` by day, from second 0 on; what comes after the last day belongs to it."""
    return tuple(asked_hours(facts, begin_s=begin, end_s=end) for begin, end in pairwise(day_edges(facts.days)))


def _held(facts: Facts, holdings: Collection[Holding], begin_s: float, end_s: float) -> GpuHours:
    return GpuHours(withheld=held_beyond_use(facts.intervals, list(holdings), begin_s=begin_s, end_s=end_s))
