"""From a target to launches, drains and stops: where new replicas go, and which ones leave.

The baseline part of a target goes to pools that accept baseline, the rest to pools that accept elastic. What leaves
first: replicas not serving yet (newest first), then elastic before baseline, then the least loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from broker.control import lifecycle
from broker.control.draft import Draft
from broker.control.reasons import Reason
from broker.model.identity import replica_name
from broker.model.observation import PauseScope
from broker.model.replica import ENDED, ON_ITS_WAY, Replica, ReplicaPhase, StopMode, Tier
from broker.model.snapshot import ModelSnapshot, Supply
from broker.model.spec import PoolSpec
from broker.model.state import ModelState
from broker.model.units import clock_time

SCALE_IN = "scale_in"
_MINUTE_S, _HOUR_S = 60.0, 3600.0


@dataclass(slots=True)
class Allocation:
    """What can be done now towards the target. ``blocked`` says why not all of it, and ``wake`` when to try again."""

    launches: list[Replica] = field(default_factory=list)
    reclaimed: list[Replica] = field(default_factory=list)
    leaving: list[Replica] = field(default_factory=list)
    expiring: list[Replica] = field(default_factory=list)
    blocked: list[tuple[Reason, str]] = field(default_factory=list)
    wake: list[float] = field(default_factory=list)

    @property
    def change(self) -> int:
        """By how many replicas the supply changes."""
        return len(self.launches) + len(self.reclaimed) - len(self.leaving)


def allocate(draft: Draft, model: ModelState, supply: Supply, target: int, baseline: int) -> Allocation:
    """Pure look at the draft; nothing is written. ``supply`` is what the draft holds of the model now."""
    allocation = Allocation()
    missing = target - supply.lasting - supply.on_its_way
    if missing == 0 and not supply.expiring:
        return allocation
    counted = [r for r in draft.replicas_of(model.model_id).values() if lifecycle.counts_towards_target(r)]
    if missing > 0:
        missing -= _reclaim(draft, model, allocation, missing)
        if missing > 0:
            _launch(draft, model, allocation, missing, baseline, counted)
    elif missing < 0:
        _leave(draft, model, allocation, -missing, counted)
    _expire(draft, model, allocation, supply, target)
    return allocation


def _expire(draft: Draft, model: ModelState, allocation: Allocation, supply: Supply, target: int) -> None:
    """What its pool will end leaves as soon as enough others are ready; the first to be ended leaves first. Limits of
    rates are for what could stay."""
    leaving = sum(record.phase is ReplicaPhase.READY for record in allocation.leaving)
    spare = supply.ready + len(allocation.reclaimed) - leaving - target
    if not supply.expiring or spare <= 0:
        return
    expiring = [
        record
        for record in draft.replicas_of(model.model_id).values()
        if record.phase is ReplicaPhase.READY
        and record.expiring_since is not None
        and not draft.paused(PauseScope.POOL, record.pool_id)
    ]
    expiring.sort(key=lambda record: (record.not_after or 0.0, record.replica_id))
    allocation.expiring = expiring[:spare]


def _reclaim(draft: Draft, model: ModelState, allocation: Allocation, wanted: int) -> int:
    """A replica drained for scale-in and still serving is the fastest supply there is: publish it again."""
    draining = [
        record
        for record in draft.replicas_of(model.model_id).values()
        if record.phase is ReplicaPhase.DRAINING
        and record.drain is not None
        and record.drain.reason == SCALE_IN
        and record.missing_since is None
    ]
    draining.sort(key=lambda record: (-record.phase_since, record.replica_id))
    allocation.reclaimed = draining[:wanted]
    return len(allocation.reclaimed)


def _launch(
    draft: Draft, model: ModelState, allocation: Allocation, wanted: int, baseline: int, counted: list[Replica]
) -> None:
    now, limits = draft.now, draft.limits
    pools = {pool.pool_id for tier in Tier for pool in _candidates(draft, model, tier)}
    resting = {pool_id: until for pool_id in pools if (until := lifecycle.rests_until(model, pool_id, now)) is not None}
    allocation.wake.extend(resting.values())
    if resting and resting.keys() == pools:
        words = "; ".join(_rest_words(model, pool_id, resting[pool_id]) for pool_id in sorted(resting))
        allocation.blocked.append((Reason.BREAKER_OPEN, words))
        return
    allowed = _rate_left(
        draft.control.starts,
        now,
        limits.starts_per_minute,
        limits.starts_per_hour,
        wanted,
        Reason.START_RATE,
        allocation,
    )
    loading = draft.loading()
    if loading + allowed > limits.concurrent_loads:
        allowed = max(0, limits.concurrent_loads - loading)
        words = f"at most {limits.concurrent_loads} load at once"
        allocation.blocked.append((Reason.CONCURRENT_LOADS, words))
    taken = {r.ordinal for r in draft.replicas_of(model.model_id).values() if r.phase not in ENDED}
    taken.update(record.ordinal for record in allocation.reclaimed)
    have = sum(record.tier is Tier.BASELINE for record in (*counted, *allocation.reclaimed))
    dedicated = min(wanted, max(0, baseline - have))
    planned: dict[str, int] = {}
    for tier, count in ((Tier.BASELINE, dedicated), (Tier.ELASTIC, wanted - dedicated)):
        for _ in range(min(count, allowed - len(allocation.launches))):
            pool = _pool_for(draft, model, tier, planned)
            if pool is None:
                allocation.blocked.append((Reason.NO_POOL, _why_no_pool(draft, model, tier, planned)))
                full = [p.full_until for p in draft.pools.values() if p.full_until is not None and p.full_until > now]
                allocation.wake.extend(full)
                break  # the other tier may have room
            planned[pool.pool_id] = planned.get(pool.pool_id, 0) + model.spec.gpus
            ordinal = next(n for n in range(len(taken) + 1) if n not in taken)
            taken.add(ordinal)
            allocation.launches.append(_new_replica(model, pool, tier, ordinal, len(allocation.launches), now))


def _new_replica(model: ModelState, pool: PoolSpec, tier: Tier, ordinal: int, index: int, now: float) -> Replica:
    """The ``index``-th launch of a step gets the ``index``-th of the generations not used yet."""
    generation = model.next_generation + index
    return Replica(
        replica_id=replica_name(model.model_id, ordinal, generation),
        model_id=model.model_id,
        pool_id=pool.pool_id,
        ordinal=ordinal,
        generation=generation,
        tier=tier,
        gpus=model.spec.gpus,
        phase=ReplicaPhase.REQUESTED,
        phase_since=now,
        requested_at=now,
        capabilities=model.spec.capabilities,
    )


def _rate_left(
    times: tuple[float, ...],
    now: float,
    per_minute: int,
    per_hour: int,
    wanted: int,
    reason: Reason,
    allocation: Allocation,
) -> int:
    """How many of ``wanted`` fit the sliding minute and hour."""
    allowed = wanted
    for limit, span_s, word in ((per_minute, _MINUTE_S, "minute"), (per_hour, _HOUR_S, "hour")):
        recent = [at for at in times if now < at + span_s]
        if len(recent) + allowed > limit:
            allowed = max(0, limit - len(recent))
            allocation.blocked.append((reason, f"at most {limit} per {word}"))
            allocation.wake.append((recent[0] if recent else now) + span_s)
    return allowed


def _candidates(draft: Draft, model: ModelState, tier: Tier) -> list[PoolSpec]:
    declared = {pool.pool_id: pool for pool in draft.site.pools}
    named = [declared[name] for name in model.spec.pools if name in declared]
    return [pool for pool in (named if model.spec.pools else declared.values()) if tier in pool.tiers]


def _rest_words(model: ModelState, pool_id: str, until: float) -> str:
    return f"{lifecycle.failures_words(model, pool_id)}; the next try is at {clock_time(until)}"


def _pool_for(draft: Draft, model: ModelState, tier: Tier, planned: dict[str, int]) -> PoolSpec | None:
    """The first pool, in the order declared, that takes the tier, is known, and has room within our share."""
    for pool in _candidates(draft, model, tier):
        if _pool_problem(draft, model, pool, planned.get(pool.pool_id, 0)) is None:
            return pool
    return None


def _pool_problem(draft: Draft, model: ModelState, pool: PoolSpec, planned: int) -> str | None:
    state = draft.pools[pool.pool_id]
    now, gpus = draft.now, model.spec.gpus
    rests_until = lifecycle.rests_until(model, pool.pool_id, now)
    if rests_until is not None:
        return f"rests until {clock_time(rests_until)}, since starts failed there too often"
    if lifecycle.on_trial(model, pool.pool_id) and (planned or _expects(draft, model, pool)):
        return "is tried with one start at a time, since starts failed there too often"
    if draft.paused(PauseScope.POOL, pool.pool_id):
        return "is paused"
    if state.known_at is None:
        return "has not been listed yet"
    if not draft.pool_known(pool.pool_id):
        return f"cannot be listed ({state.error or 'no answer'})"
    if state.full_until is not None and now < state.full_until:
        return "refused a start for want of room"
    total = min(pool.gpus, state.gpus_total) if state.gpus_total is not None else pool.gpus
    share = int(total * draft.limits.pool_share + 1e-9)
    left = share - draft.gpus_in_use().get(pool.pool_id, 0) - planned
    if gpus > left:
        return f"has {max(0, left)} of {share} GPUs left where a replica needs {gpus}"
    return None


def _expects(draft: Draft, model: ModelState, pool: PoolSpec) -> bool:
    records = draft.replicas_of(model.model_id).values()
    return any(record.pool_id == pool.pool_id and record.phase in ON_ITS_WAY for record in records)


def _why_no_pool(draft: Draft, model: ModelState, tier: Tier, planned: dict[str, int]) -> str:
    candidates = _candidates(draft, model, tier)
    if not candidates:
        return f"no pool accepts {tier} replicas"
    problems = ((p.pool_id, _pool_problem(draft, model, p, planned.get(p.pool_id, 0))) for p in candidates)
    return "; ".join(f"{name} {problem}" for name, problem in problems)


def _leave(draft: Draft, model: ModelState, allocation: Allocation, surplus: int, counted: list[Replica]) -> None:
    limits = draft.limits
    allowed = _rate_left(
        draft.control.stops,
        draft.now,
        limits.stops_per_minute,
        limits.stops_per_hour,
        surplus,
        Reason.STOP_RATE,
        allocation,
    )
    loads = _loads(model.snapshot)
    counted.sort(
        key=lambda record: (
            record.phase is ReplicaPhase.READY,
            record.tier is Tier.BASELINE,
            loads.get(record.replica_id, 0.0),
            -record.generation,
        )
    )
    free = [record for record in counted if not draft.paused(PauseScope.POOL, record.pool_id)]
    allocation.leaving = free[:allowed]
    if len(free) < allowed:
        allocation.blocked.append((Reason.PAUSED, "what is left runs in a paused pool"))


def _loads(snapshot: ModelSnapshot | None) -> dict[str, float]:
    if snapshot is None:
        return {}
    return {load.replica_id: load.requests_running + load.requests_waiting for load in snapshot.replicas}


def carry_out(draft: Draft, model: ModelState, allocation: Allocation) -> None:
    """Write the allocation down as intents, and as changes of the registry."""
    for record in allocation.reclaimed:
        lifecycle.undo_drain(draft, record)
    for record in allocation.launches:
        draft.launch(record)
    if allocation.launches:
        generation = allocation.launches[-1].generation + 1
        draft.put_model(replace(draft.models[model.model_id], next_generation=generation))
        draft.note_starts(len(allocation.launches))
    for record in allocation.leaving:
        if record.phase is ReplicaPhase.READY:
            lifecycle.begin_drain(draft, record, SCALE_IN)
        else:
            lifecycle.stop(draft, record, "no longer wanted", StopMode.GRACEFUL)
    if allocation.leaving:
        draft.note_stops(len(allocation.leaving))
    for record in allocation.expiring:
        lifecycle.begin_drain(draft, record, lifecycle.EXPIRY)
