"""The life of a replica after its launch, in phases with deadlines.

    requested -> pending -> starting -> loading -> ready -> draining -> stopping -> gone
                                  (anything) -> stopping or failed, with the failure's name

Draining: withdrawn from the registry -> every live gateway session has applied that revision -> nothing in flight by
gateway reports and by the engine's own gauges, or the stated limit -> stopping. A gateway that was silent for longer
than a session and is heard again is waited for again: it may have gone on sending meanwhile. A hard kill is a later
step with its own deadline: no actuator ever waits.
"""

from __future__ import annotations

from dataclasses import replace

from broker.control import renewal
from broker.control.draft import Draft
from broker.model.replica import ENDED, ON_ITS_WAY, Drain, GatewaySessionKey, Replica, ReplicaPhase, StopMode
from broker.model.snapshot import ModelSnapshot
from broker.model.state import Breaker, ModelState

EXPIRY = "expiry"
"""Why a replica is drained that its pool will end, or that has its successor."""
STOPPED_BY_POOL = "stopped_by_pool"
"""Why one is drained that its pool is ending already: it was given notice, or somebody ends it."""

_GAUGE_LAG_S = 0.5
"""A gauge scraped sooner than this after the last acknowledgement may miss a request just handed over."""


def become_ready(draft: Draft, record: Replica) -> None:
    """It answered with the right model and key: publish it, remember how long it took, close the breaker."""
    ready = replace(
        record,
        phase=ReplicaPhase.READY,
        phase_since=draft.now,
        ready_at=draft.now,
        retry_at=None,
        unhealthy_since=None,
        missing_since=None,
        detail="",
    )
    draft.publish(renewal.scheduled(draft, ready))
    if not record.adopted:  # nobody knows when that one was asked for
        renewal.learn(draft, ready)
    model = draft.models[record.model_id]
    if record.pool_id in model.breakers:
        others = {pool_id: breaker for pool_id, breaker in model.breakers.items() if pool_id != record.pool_id}
        draft.put_model(replace(model, breakers=others))
    draft.dirty.add(record.model_id)


def begin_drain(draft: Draft, record: Replica, reason: str) -> None:
    """Withdraw it and start the clock of its drain limit."""
    if not record.published:
        stop(draft, record, reason, StopMode.GRACEFUL)
        return
    revision = draft.control.revision + 1
    awaiting = _unaware(draft, revision)
    drain = Drain(
        reason=reason,
        began_at=draft.now,
        deadline_at=renewal.drain_deadline_at(draft, record),
        revision=revision,
        awaiting=awaiting,
        acknowledged_at=None if awaiting else draft.now,
    )
    record = replace(record, phase=ReplicaPhase.DRAINING, phase_since=draft.now, drain=drain)
    draft.withdraw(record, reason)
    draft.dirty.add(record.model_id)


def undo_drain(draft: Draft, record: Replica) -> None:
    """A draining replica is wanted (or well) again before it was told to exit: publish it anew."""
    draft.publish(
        replace(record, phase=ReplicaPhase.READY, phase_since=draft.now, drain=None, unhealthy_since=None, detail="")
    )
    draft.dirty.add(record.model_id)


def stop(draft: Draft, record: Replica, detail: str, mode: StopMode, *, in_flight: int = 0) -> None:
    """Tell it to exit, with a deadline after which it is killed. What was not drained is withdrawn first."""
    was_published = record.published
    record = replace(
        record,
        phase=ReplicaPhase.STOPPING,
        phase_since=draft.now,
        stop_mode=mode,
        stop_deadline_at=None,
        missing_since=None,
        in_flight_at_stop=in_flight,
        detail=detail,
    )
    if was_published and record.drain is None:
        record = draft.withdraw(record, detail)
    draft.stop(record)
    draft.dirty.add(record.model_id)


def give_up(draft: Draft, record: Replica, failure: str, detail: str, mode: StopMode) -> None:
    """It will not serve (again): stop it, count the failure."""
    count_failure(draft, record, detail or failure)
    stop(draft, replace(record, failure=failure), detail or failure, mode)


def end(draft: Draft, record: Replica, failure: str, detail: str) -> None:
    """It is over: GONE if that was wanted, FAILED otherwise. Its tombstone is written only now."""
    if failure and not record.failure:
        count_failure(draft, record, detail or failure)
    ended = replace(
        record,
        phase=ReplicaPhase.FAILED if failure else ReplicaPhase.GONE,
        phase_since=draft.now,
        retry_at=None,
        failure=failure,
        detail=detail,
    )
    if record.revision:
        draft.withdraw(ended, failure or "gone")
    else:
        draft.put_replica(ended)
    draft.dirty.add(record.model_id)


def count_failure(draft: Draft, record: Replica, why: str) -> None:
    """Open the model's breaker of a pool after too many failed starts in a row there, each time for twice as long. It
    keeps the reason, since it may be open for longer than what failed is on record.

    One that had served did not fail to start: a node's end, which takes several at once, must not hinder their
    replacement. Nor does a start count that was under way when the breaker opened: one burst opens it once. Thereafter
    one start is tried, whose failure opens it again.
    """
    model = draft.models[record.model_id]
    spec = draft.limits.breaker
    known = model.breakers.get(record.pool_id, Breaker())
    if record.ready_at is not None or rests_until(model, record.pool_id, draft.now) is not None:
        return
    breaker = replace(known, failures=known.failures + 1, why=why)
    if known.opened or breaker.failures >= spec.failures:
        open_s = min(spec.open_s * 2**known.opened, spec.max_open_s)
        breaker = Breaker(failures=0, opened=known.opened + 1, open_until=draft.now + open_s, why=why)
    draft.put_model(replace(model, breakers={**model.breakers, record.pool_id: breaker}))


def failures_words(model: ModelState, pool_id: str) -> str:
    """Why the breaker of a pool is open; older releases did not keep it."""
    why = model.breakers[pool_id].why
    return f"starts in pool {pool_id} failed too often{f': {why}' if why else ''}"


def rests_until(model: ModelState, pool_id: str, now: float) -> float | None:
    """Until when nothing of the model is started in this pool, since its starts there failed too often."""
    breaker = model.breakers.get(pool_id)
    if breaker is None or breaker.open_until is None or now >= breaker.open_until:
        return None
    return breaker.open_until


def on_trial(model: ModelState, pool_id: str) -> bool:
    """Whether the breaker of this pool was open and no start has succeeded since: there is one at a time until then."""
    breaker = model.breakers.get(pool_id)
    return breaker is not None and breaker.opened > 0


def advance(draft: Draft, model_id: str) -> bool:
    """Let time act on this model's replicas, in the order of their names: a restored state may have another. False if
    there is none that it acts on."""
    records = timed(draft, model_id)
    for record in sorted(records, key=lambda record: record.replica_id):
        _advance_one(draft, record)
    return bool(records)


def repeat_launches(draft: Draft, model_id: str) -> None:
    """Ask again for what was asked for and not answered in time. After deciding: it may not be wanted any more."""
    due = [
        record
        for record in timed(draft, model_id)
        if record.phase is ReplicaPhase.REQUESTED and record.retry_at is not None and draft.now >= record.retry_at
    ]
    for record in sorted(due, key=lambda record: record.replica_id):
        if _may_launch(draft, record):
            draft.launch(record)


def timed(draft: Draft, model_id: str) -> list[Replica]:
    """The replicas that time acts on: not the healthy ones that serve for as long as they are wanted."""
    ready = ReplicaPhase.READY
    return [
        record
        for record in draft.replicas_of(model_id).values()
        if record.phase is not ready or record.unhealthy_since is not None or record.not_after is not None
    ]


def _advance_one(draft: Draft, record: Replica) -> None:
    now, limits = draft.now, draft.limits
    if record.phase in ENDED:
        if now >= record.phase_since + limits.ended_kept_s:
            draft.drop_replica(record)
        return
    match record.phase:
        case ReplicaPhase.STARTING | ReplicaPhase.LOADING:
            limit_s = draft.models[record.model_id].spec.load_timeout_s
            if record.started_at is not None and now >= record.started_at + limit_s:
                give_up(draft, record, "load_timeout", f"not ready {limit_s:g} s after its start", StopMode.KILL)
        case ReplicaPhase.READY:
            if record.unhealthy_since is not None and now >= record.unhealthy_since + limits.unhealthy_after_s:
                begin_drain(draft, record, "unhealthy")
            elif record.serves_until is not None and now >= record.serves_until:
                begin_drain(draft, record, EXPIRY)
            elif record.expiring_since is None and now >= renewal.due_at(draft, record):
                draft.put_replica(replace(record, expiring_since=now))
        case ReplicaPhase.DRAINING:
            _advance_drain(draft, record)
        case ReplicaPhase.STOPPING:
            _advance_stop(draft, record)
        case _:
            pass


def _advance_drain(draft: Draft, record: Replica) -> None:
    drain = record.drain
    if drain is None:
        return
    awaiting = _unaware(draft, drain.revision)
    if awaiting != drain.awaiting:
        drain = replace(drain, awaiting=awaiting, acknowledged_at=None)
    if not awaiting and drain.acknowledged_at is None:
        drain = replace(drain, acknowledged_at=draft.now)
    if drain != record.drain:
        record = replace(record, drain=drain)
        draft.put_replica(record)
    if draft.frozen(record):
        return
    in_flight = in_flight_of(draft, record)
    if drain.acknowledged_at is not None and in_flight == 0:
        stop(draft, record, drain.reason, StopMode.GRACEFUL)
    elif draft.now >= drain.deadline_at:
        open_requests = in_flight or 0
        stop(draft, record, f"{drain.reason}: the drain limit passed", StopMode.GRACEFUL, in_flight=open_requests)


def _unaware(draft: Draft, revision: int) -> tuple[GatewaySessionKey, ...]:
    """The live gateway sessions that have not applied ``revision`` yet, in the order of their names."""
    keys = (gateway.key for gateway in draft.live_gateways() if gateway.applied_revision < revision)
    return tuple(sorted(keys, key=lambda key: (key.gateway_id, key.boot_id)))


def in_flight_of(draft: Draft, record: Replica) -> int | None:
    """Requests open at a replica by every source, the highest of them; None while nobody can say.

    The engine's gauges count only if scraped after the gateways' last acknowledgement. A dead engine cannot be
    scraped: then the gateways' word is enough, if a gateway lives.
    """
    gateways = draft.live_gateways()
    by_gateways = sum(gateway.in_flight.get(record.replica_id, 0) for gateway in gateways)
    if by_gateways:
        return by_gateways
    gauge = engine_in_flight(draft.models[record.model_id].snapshot, record, draft.now - draft.limits.signal_patience_s)
    acknowledged_at = record.drain.acknowledged_at if record.drain else None
    if gauge is not None and acknowledged_at is not None and gauge[0] >= acknowledged_at + _GAUGE_LAG_S:
        return gauge[1]
    scrape_is_lost = record.unhealthy_since is not None or (record.drain is not None and gauge is None)
    return 0 if scrape_is_lost and gateways else None


def engine_in_flight(snapshot: ModelSnapshot | None, record: Replica, horizon: float) -> tuple[float, int] | None:
    """(time of the scrape, requests running and waiting) by the engine's own gauges, None if older than ``horizon``."""
    if snapshot is None:
        return None
    for load in snapshot.replicas:
        if load.replica_id == record.replica_id and load.observed_at >= horizon:
            return load.observed_at, round(load.requests_running + load.requests_waiting)
    return None


def _may_launch(draft: Draft, record: Replica) -> bool:
    """What was asked for before may be asked again: not in a pause, and not of a pool that nobody can see into."""
    return not draft.frozen(record) and draft.pool_known(record.pool_id)


def _advance_stop(draft: Draft, record: Replica) -> None:
    if draft.frozen(record):
        return
    if (
        record.stop_mode is StopMode.GRACEFUL
        and record.stop_deadline_at is not None
        and draft.now >= record.stop_deadline_at
    ):
        draft.stop(replace(record, stop_mode=StopMode.KILL, detail=f"{record.detail}; killed after its grace"))
    elif record.retry_at is not None and draft.now >= record.retry_at:
        draft.stop(record)


def deadlines(draft: Draft, record: Replica) -> list[float]:
    """When time will act on this record if nothing is observed."""
    limits = draft.limits
    if record.phase in ENDED:
        return [record.phase_since + limits.ended_kept_s]
    found: list[float] = []
    match record.phase:
        case ReplicaPhase.STARTING | ReplicaPhase.LOADING if record.started_at is not None:
            found.append(record.started_at + draft.models[record.model_id].spec.load_timeout_s)
        case ReplicaPhase.REQUESTED if record.retry_at is not None and _may_launch(draft, record):
            found.append(record.retry_at)
        case ReplicaPhase.READY:
            if record.unhealthy_since is not None:
                found.append(record.unhealthy_since + limits.unhealthy_after_s)
            if record.serves_until is not None:
                waiting = record.expiring_since is None
                found.append(renewal.due_at(draft, record) if waiting else record.serves_until)
        case ReplicaPhase.DRAINING if record.drain is not None and not draft.frozen(record):
            found.append(record.drain.deadline_at)
            found.extend(gateway.seen_at + limits.gateway_session_s for gateway in draft.live_gateways())
        case ReplicaPhase.STOPPING if not draft.frozen(record):
            if record.retry_at is not None:
                found.append(record.retry_at)
            if record.stop_mode is StopMode.GRACEFUL and record.stop_deadline_at is not None:
                found.append(record.stop_deadline_at)
        case _:
            pass
    return found


def excuse(record: Replica, outage_s: float) -> Replica:
    """The record with its clocks set on by a time in which no broker led: nobody could probe, list or stop it then."""

    def later(at: float | None) -> float | None:
        return None if at is None else at + outage_s

    drain = record.drain
    return replace(
        record,
        started_at=later(record.started_at) if record.phase in ON_ITS_WAY else record.started_at,
        unhealthy_since=later(record.unhealthy_since),
        missing_since=later(record.missing_since),
        stop_deadline_at=later(record.stop_deadline_at),
        drain=None if drain is None else replace(drain, deadline_at=drain.deadline_at + outage_s),
    )


def counts_towards_target(record: Replica) -> bool:
    """Whether it serves or will serve for as long as it is wanted: what is being drained, stopped or over does not,
    nor does what its pool will end before long."""
    if record.phase is ReplicaPhase.READY:
        return record.expiring_since is None
    return record.phase in ON_ITS_WAY
