"""Renewal: what its pool will end (a job at its wall time) is succeeded before that, and drained in time. Pure.

    asked for the successor   due_at = serves_until - (P95 queue + P95 load)
    nothing new is sent       serves_until = not_after - margin - drain limit
    ended by its pool         not_after

The predecessor is drained when enough others are ready, or at ``serves_until``, whichever comes first. A short life is
divided: at most a quarter of it goes to draining, at most half of the rest to waiting for the successor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from broker.control.draft import Draft
from broker.model.replica import Replica, ReplicaPhase
from broker.model.starts import ENOUGH, StartPlace, StartTime, StartTimes, loads_like, starts_entity_key
from broker.model.units import clock_time

STARTS_KEPT = 64
_NEAR_S = 3 * 3600.0
_DAY_S = 86400.0


def scheduled(draft: Draft, record: Replica) -> Replica:
    """``record`` with what follows from its ``not_after``, which is new or has moved."""
    if record.not_after is None or record.ready_at is None:
        return record
    life_s = max(0.0, record.not_after - record.ready_at)
    spec = draft.limits.renewal
    reserved_s = min(spec.margin_s + draft.models[record.model_id].spec.drain_limit_s, life_s / 4)
    record = replace(record, serves_until=record.not_after - reserved_s)
    if record.expiring_since is not None and draft.now < due_at(draft, record):
        record = replace(record, expiring_since=None)  # its life was extended
    return record


def due_at(draft: Draft, record: Replica) -> float:
    """From when on a successor is wanted; infinity for what its pool does not end."""
    if record.serves_until is None or record.ready_at is None:
        return math.inf
    lead_s = start_p95_s(draft, record.model_id, record.pool_id, record.gpus)
    return record.serves_until - min(lead_s, max(0.0, record.serves_until - record.ready_at) / 2)


def told(draft: Draft, model_id: str) -> str:
    """Which replicas are being succeeded, and why."""
    ends = [
        f"{record.replica_id} at {clock_time(record.not_after)}"
        for record in sorted(draft.replicas_of(model_id).values(), key=lambda record: record.replica_id)
        if record.phase is ReplicaPhase.READY and record.expiring_since is not None and record.not_after is not None
    ]
    return f"a successor is wanted for what its pool will end: {', '.join(ends)}"


def drain_deadline_at(draft: Draft, record: Replica) -> float:
    """The stated drain limit, but no longer than its pool lets it live."""
    deadline_at = draft.now + draft.models[record.model_id].spec.drain_limit_s
    return deadline_at if record.not_after is None else max(draft.now, min(deadline_at, record.not_after))


def learn(draft: Draft, record: Replica) -> None:
    """Remember how long a replica took that has just become ready."""
    key = starts_entity_key(record.model_id, record.pool_id)
    known = draft.starts.get(key)
    if known is None or known.gpus != record.gpus:
        known = StartTimes(record.pool_id, record.model_id, record.gpus)
    started_at = record.requested_at if record.started_at is None else record.started_at
    queue_s = max(0.0, started_at - record.requested_at)
    load_s = max(0.0, draft.now - started_at)
    start = StartTime(draft.now, queue_s, load_s, record.start_place or StartPlace())
    draft.put_starts(replace(known, latest=(*known.latest, start)[-STARTS_KEPT:]))


def starts_of(draft: Draft, model_id: str) -> tuple[StartTimes, ...]:
    """What was learned of the model's starts, by pool."""
    known = [draft.starts.get(starts_entity_key(model_id, pool.pool_id)) for pool in draft.site.pools]
    return tuple([starts for starts in known if starts is not None])


def start_time_s(known: Sequence[StartTimes]) -> float | None:
    """The median of the latest starts from intent to ready, in whichever pool; None before the first."""
    times = [start.queue_s + start.load_s for starts in known for start in starts.latest]
    return sorted(times)[len(times) // 2] if times else None


def start_p95_s(draft: Draft, model_id: str, pool_id: str, gpus: int) -> float:
    """The time that a start in this pool takes at most 19 times of 20: queueing as all replicas of this size did,
    about this time of day where that is known, and loading as this model did without its weights in the node's memory.
    Asked for every replica at every step, so found once a step."""
    found = draft.start_p95_s.get((model_id, pool_id, gpus))
    if found is None:
        found = draft.start_p95_s[model_id, pool_id, gpus] = _start_p95_s(draft, model_id, pool_id, gpus)
    return found


def _start_p95_s(draft: Draft, model_id: str, pool_id: str, gpus: int) -> float:
    spec = draft.limits.renewal
    waits = [
        start
        for starts in draft.starts.values()
        if (starts.pool_id, starts.gpus) == (pool_id, gpus)
        for start in starts.latest
    ]
    near = [start for start in waits if _apart_s(start.at, draft.now) <= _NEAR_S]
    queue_s = _p95([start.queue_s for start in (near if len(near) >= ENOUGH else waits)], spec.queue_prior_s)
    own = draft.starts.get(starts_entity_key(model_id, pool_id))
    return queue_s + _load_p95_s(own.latest if own else (), spec.load_prior_s)


def _load_p95_s(starts: Sequence[StartTime], prior_s: float) -> float:
    """Nobody knows where a successor will start: it may be on the slowest kind of node that this pool has shown. And
    its predecessor still holds the one where the weights lie in memory: so it counts on none that has them, unless
    hardly any start here had to do without."""
    classes = {start.place.node_class for start in starts}
    return max((_p95(loads_like(starts, StartPlace(name)), prior_s) for name in classes), default=prior_s)


def _apart_s(a: float, b: float) -> float:
    """How far two times of day are apart."""
    apart_s = abs(a - b) % _DAY_S
    return min(apart_s, _DAY_S - apart_s)


def _p95(values: Sequence[float], prior: float) -> float:
    """With fewer than ``ENOUGH`` values the prior stays in force where it is the longer."""
    if len(values) < ENOUGH:
        return max((prior, *values))
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
