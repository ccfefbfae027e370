"""How far a run is from the best that was possible: the oracle's bound and its plan, held against the run itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from broker.model.errors import ConfigError
from broker.model.replica import ReplicaPhase, Tier
from broker.model.spec import PolicySpec
from simulator.oracle.bound import Bound, OraclePool, beats_bound, lower_bound
from simulator.oracle.demand import Demand, fluid_demand, least_work_s
from simulator.oracle.plan import Lead, ReplicaTimetable, clairvoyant_plan
from simulator.oracle.policy import clairvoyant_spec
from simulator.report.costs import asked_hours, model_hours
from simulator.report.document import Clairvoyant, Oracle
from simulator.report.facts import Facts
from simulator.report.gpu_hours import weight_of
from simulator.report.slo import HOUR_S
from simulator.report.timeline import grid_of

HEADROOMS = (1.0, 1.5, 2.0, 3.0, 4.0)
"""Tried in this order until the plan attains what the run did: a fluid plan without any is late."""

_STEPS = 1000
_STEPS_OF_SEVERAL_POOLS = 250
"""Several pools together with a deadline take minutes for a week in steps of a minute; longer steps keep it a bound."""

Execute = Callable[[Mapping[str, PolicySpec]], Facts]
"""The same run once more, with these policies in place of the models' own."""


@dataclass(frozen=True, slots=True)
class _Judged:
    gpu_hours: float
    attainment: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """One model's part of the question: what it was asked, where it may run, what share it missed."""

    demand: Demand
    at_once: Demand
    pools: tuple[OraclePool, ...]
    leads: Mapping[str, Lead]
    allowance: float


def oracle_of(facts: Facts, execute: Execute | None, *, left_out: str = "") -> Oracle:
    """The bound at the run's own share of misses, and the plan executed by ``execute`` (``left_out`` says why there is
    none). Models are bounded one by one, each as if it had its pools to itself, and added. Like is held against like:
    the hours of the asked models' own replicas from second 0 on, since the bound knows no others, no warm-up, and no
    pool that is paid for whether it is used or not.

    Raises ``InvariantViolated`` if the run beats the bound, and ``ConfigError`` without scipy.
    """
    asked = {model_id: _asked(facts, model_id) for model_id in facts.asked}
    if not asked:
        return Oracle(left_out="nothing was asked", clairvoyant_left_out="nothing was asked")
    try:
        bounds = {
            model_id: lower_bound(one.demand, one.pools, allowance=one.allowance) for model_id, one in asked.items()
        }
    except ConfigError as error:
        return Oracle(left_out=str(error), clairvoyant_left_out=str(error))
    for model_id, bound in bounds.items():
        _check(facts, model_id, bound)
    least = sum(bound.gpu_hours for bound in bounds.values())
    cost = model_hours(facts, facts.asked).total
    plan = _clairvoyant(facts, asked, execute, cost) if execute is not None else None
    if execute is not None and plan is None:
        left_out = "no plan in whole replicas exists within the pools and the run's own share of misses"
    return Oracle(
        allowance=1 - float(facts.kept.mean()),
        step_s=max(bound.step_s for bound in bounds.values()),
        run_gpu_hours=cost,
        dedicated_gpu_hours=asked_hours(facts).total - cost,
        bound_gpu_hours=least,
        gap=cost / least - 1 if least > 0 else None,
        clairvoyant=plan,
        clairvoyant_left_out=left_out if plan is None else "",
    )


def _check(facts: Facts, model_id: str, bound: Bound) -> None:
    own = model_hours(facts, (model_id,))
    beats_bound(_Judged(own.total, float(facts.kept[facts.rows_of(model_id)].mean())), bound)


def _asked(facts: Facts, model_id: str) -> _Asked:
    rows = facts.rows_of(model_id)
    out, level = facts.outcomes, facts.levels[facts.models.index(model_id)]
    prompts, answers = out.prompt_tokens[rows].astype(np.float64), out.answer_tokens[rows].astype(np.float64)
    profile = facts.recorded.profiles.get(model_id)
    if profile is None:
        raise ConfigError(f"no replica of {model_id} was ever started, so that nothing is known of its engine")
    pools = _pools(facts, model_id)
    several = _STEPS_OF_SEVERAL_POOLS if len(pools) > 1 else _STEPS
    step_s = grid_of(facts.duration_s, several).bin_s
    lengths = np.array([limit.up_to_tokens for limit in level.first_token])
    limits = np.array([limit.limit_s for limit in level.first_token])
    # In time is whoever has the first token by its limit and then the pace: so late may the last one's work be done.
    latest_s = limits[np.searchsorted(lengths, prompts)] + level.per_token_s * np.maximum(0.0, answers - 1)
    found = 0.0 if out.shared_tokens is None else out.shared_tokens[rows].astype(np.float64)
    work_s = least_work_s(profile, prompts, answers, found)
    arrival_s = np.maximum(0.0, out.arrival_s[rows])
    fluid, at_once = (
        fluid_demand(
            arrival_s, work_s, step_s=step_s, horizon_s=max(facts.duration_s, float(arrival_s.max()) + step_s),
            deadline_s=deadline_s,
        )
        for deadline_s in (float(latest_s.max()), 0.0)
    )  # fmt: skip
    missed = 1 - float(facts.kept[rows].mean())
    return _Asked(fluid, at_once, pools, {pool.pool_id: _lead(facts, model_id, pool) for pool in pools}, missed)


def _pools(facts: Facts, model_id: str) -> tuple[OraclePool, ...]:
    spec = facts.spec(model_id)
    profile = facts.recorded.profiles[model_id]
    return tuple(
        OraclePool(
            pool.pool_id, float(min(pool.gpus // spec.gpus, spec.maximum)), spec.gpus,
            gpu_weight=weight_of(pool),
            start_s=min([profile.load_time_s, *_starts_s(facts, model_id, pool.pool_id)]),
        )
        for pool in facts.recorded.site.pools
        if not spec.pools or pool.pool_id in spec.pools
    )  # fmt: skip


def _starts_s(facts: Facts, model_id: str, pool_id: str) -> list[float]:
    """How long each replica took from its allocation until it was proven ready."""
    begun: dict[str, float] = {}
    took = []
    for one in facts.recorded.replicas:
        interval = one.interval
        if (one.model_id, interval.pool_id) != (model_id, pool_id):
            continue
        if interval.phase in (ReplicaPhase.STARTING, ReplicaPhase.LOADING):
            begun.setdefault(one.replica_id, interval.begin_s)
        elif interval.phase is ReplicaPhase.READY and one.replica_id in begun:
            took.append(interval.begin_s - begun.pop(one.replica_id))
    return took


def _lead(facts: Facts, model_id: str, pool: OraclePool) -> Lead:
    """Medians of the run: what whoever knows this site would allow for."""
    starts_s = _starts_s(facts, model_id, pool.pool_id)
    waits_s = [
        one.interval.end_s - one.interval.begin_s
        for one in facts.recorded.replicas
        if (one.model_id, one.interval.pool_id) == (model_id, pool.pool_id)
        and one.interval.phase in (ReplicaPhase.REQUESTED, ReplicaPhase.PENDING)
    ]
    start_s = float(np.median(starts_s)) if starts_s else pool.start_s
    return Lead(start_s, round(float(np.median(waits_s)), 1) if waits_s else 0.0)


def _clairvoyant(facts: Facts, asked: Mapping[str, _Asked], execute: Execute, cost: float) -> Clairvoyant | None:
    """At the least headroom at which it attains what the run did, so that costs stand at equal service; else the one
    that attained most, and no more is tried once more room gains nothing: the pools are full. None if no plan
    exists."""
    wanted = float(facts.kept.mean())
    best: Clairvoyant | None = None
    for headroom in HEADROOMS:
        plans = {model_id: _plan(one, headroom) for model_id, one in asked.items()}
        known = {model_id: plan for model_id, plan in plans.items() if plan is not None}
        if len(known) < len(plans):
            break
        tried = _told(execute(_specs(facts, known)), known, cost, wanted)
        if best is not None and tried.attainment <= best.attainment:
            break
        best = tried
        if best.attainment >= wanted:
            break
    return best


def _plan(one: _Asked, headroom: float) -> ReplicaTimetable | None:
    """Work is done as it comes; where the pools are too small for that, as late as the limits allow."""
    for demand in (one.at_once, one.demand):
        try:
            return clairvoyant_plan(demand, one.pools, allowance=one.allowance, headroom=headroom, leads=one.leads)
        except ConfigError:
            continue
    return None


def _specs(facts: Facts, plans: Mapping[str, ReplicaTimetable]) -> dict[str, PolicySpec]:
    dedicated = [pool.pool_id for pool in facts.recorded.site.pools if Tier.BASELINE in pool.tiers]
    return {
        model_id: clairvoyant_spec(plan, start_at=facts.started_at, baseline_pools=dedicated)
        for model_id, plan in plans.items()
    }


def _told(found: Facts, plans: Mapping[str, ReplicaTimetable], cost: float, wanted: float) -> Clairvoyant:
    """Costs are compared at equal service only: a plan that attained less has no gap."""
    attained = float(found.kept.mean())
    total = model_hours(found, found.asked).total
    worst = found.worst_window(HOUR_S)
    return Clairvoyant(
        gpu_hours=total,
        attainment=attained,
        worst_hour=worst.share.value if worst is not None else None,
        gpu_hours_gap=cost / total - 1 if total > 0 and attained >= wanted else None,
        knows="; ".join(f"{model_id} {plan.words}" for model_id, plan in plans.items()),
    )
