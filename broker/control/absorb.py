"""What observations do to the records: facts only, no wishes. Everything here is pure and writes to a ``Draft``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from broker.control import lifecycle, renewal
from broker.control.draft import Draft
from broker.control.listing import may_be_missed, new_rows, waits_for_another_reason
from broker.model.making import copy_with
from broker.model.observation import (
    GatewayReport,
    LeadershipTaken,
    LogsTaken,
    Observation,
    Outcome,
    Override,
    OverrideCleared,
    PauseChanged,
    PauseScope,
    PoolSnapshot,
    Probe,
    ProbeVerdict,
    Receipt,
    SpecChanged,
)
from broker.model.replica import (
    ENDED,
    ON_ITS_WAY,
    GatewaySessionKey,
    ObservedReplica,
    Replica,
    ReplicaPhase,
    StopMode,
    Tier,
)
from broker.model.snapshot import ModelSnapshot
from broker.model.spec import EngineSpec, Mode, ModelSpec, PolicySpec
from broker.model.state import GatewayState, ModelState, PoolState, gateway_entity_key


def absorb(draft: Draft, observations: Sequence[Observation]) -> None:
    """Write down what was observed, in the order in which the log received it."""
    for observation in observations:
        match observation:
            case ModelSnapshot():
                _snapshot(draft, observation)
            case PoolSnapshot():
                _pool(draft, observation)
            case Receipt():
                _receipt(draft, observation)
            case Probe():
                _probe(draft, observation)
            case GatewayReport():
                _gateway(draft, observation)
            case Override():
                model = draft.models.get(observation.model_id)
                if model is not None:
                    draft.put_model(replace(model, override=observation))
                    draft.dirty.add(model.model_id)
            case OverrideCleared():
                model = draft.models.get(observation.model_id)
                if model is not None:
                    draft.put_model(replace(model, override=None))
                    draft.dirty.add(model.model_id)
            case PauseChanged():
                _pause(draft, observation)
            case SpecChanged():
                _spec(draft, observation)
            case LeadershipTaken():
                _leadership(draft)
            case LogsTaken():
                known = dict.fromkeys((*draft.control.log_ids, *observation.log_ids))
                draft.control = replace(draft.control, log_ids=tuple(known))


def _snapshot(draft: Draft, snapshot: ModelSnapshot) -> None:
    model = draft.models.get(snapshot.model_id)
    if model is None:
        return
    last = model.snapshot
    # Whoever makes snapshots counts from 1 again after a restart, and a clock may be set back: either may go back.
    if last is not None:
        if snapshot.received_at <= last.received_at and snapshot.sequence <= last.sequence:
            return
        if snapshot.received_at < last.received_at:
            snapshot = replace(snapshot, received_at=last.received_at)
    draft.put_model(copy_with(model, snapshot=snapshot))
    draft.dirty.add(model.model_id)


def _pool(draft: Draft, listing: PoolSnapshot) -> None:
    pool = draft.pools.get(listing.pool_id)
    if pool is None:
        return
    if not listing.known:
        since = pool.unknown_since if pool.unknown_since is not None else listing.received_at
        draft.put_pool(replace(pool, unknown_since=since, error=listing.error))
        return
    if not draft.pool_known(pool.pool_id) or listing.gpus_total != pool.gpus_total:
        draft.dirty.update(draft.models)
    draft.put_pool(
        replace(
            pool,
            gpus_total=listing.gpus_total,
            known_at=max(listing.received_at, pool.known_at or 0.0),
            unknown_since=None,
            error="",
        )
    )
    for observed in new_rows(draft.models, draft.replicas_of, listing):
        record = draft.replicas_of(observed.model_id).get(observed.replica_id)
        if record is None:
            _found_without_record(draft, listing, observed)
        elif record.phase in ENDED:
            lifecycle.stop(draft, record, "it still runs though it was given up", StopMode.GRACEFUL)
        else:
            _seen(draft, record, observed)
    _missing(draft, listing)


def _seen(draft: Draft, record: Replica, observed: ObservedReplica) -> None:
    """One replica in a good listing that says something new. What changes is collected, since a copy costs most."""
    changes: dict[str, Any] = {}
    if record.missing_since is not None:
        changes["missing_since"] = None
    if observed.runs_as not in ("", record.runs_as):
        changes["runs_as"] = observed.runs_as
    match observed.phase:
        case ReplicaPhase.STARTING | ReplicaPhase.LOADING | ReplicaPhase.READY:
            if record.phase is ReplicaPhase.REQUESTED or record.phase is ReplicaPhase.PENDING:
                started = observed.started_at if observed.started_at is not None else draft.now
                changes["phase"], changes["phase_since"] = ReplicaPhase.STARTING, draft.now
                # What started while nobody led could not be probed before we did.
                changes["started_at"] = max(started, draft.control.led_since)
                changes["retry_at"] = None
        case ReplicaPhase.GONE | ReplicaPhase.FAILED:
            expired = record.drain is not None and record.drain.reason == lifecycle.EXPIRY
            wanted = record.phase is ReplicaPhase.STOPPING or expired
            # Told to exit, it is over for the reason that was given then; its exit itself says nothing more.
            why = (record.detail or "exited") if wanted else observed.detail or "exited without being asked to"
            failure = "" if wanted and not record.failure else record.failure or "exited"
            lifecycle.end(draft, replace(record, **changes), failure, why)
            return
        case ReplicaPhase.PENDING:
            if record.phase is ReplicaPhase.REQUESTED:
                changes |= {"phase": ReplicaPhase.PENDING, "phase_since": draft.now, "retry_at": None}
            if waits_for_another_reason(observed, record):
                changes["detail"] = observed.detail
        case ReplicaPhase.STOPPING:
            if record.phase not in (ReplicaPhase.STOPPING, ReplicaPhase.DRAINING):
                why = observed.detail or "its pool is stopping it"
                stopped = replace(record, **changes, detail=why)
                if record.phase in ON_ITS_WAY and not record.adopted:  # a start that failed, whoever ended it
                    lifecycle.give_up(draft, stopped, "exited", why, StopMode.GRACEFUL)
                else:
                    lifecycle.begin_drain(draft, stopped, lifecycle.STOPPED_BY_POOL)
                return
        case _:
            pass
    if observed.url is not None and observed.url != record.url:
        changes["url"], changes["start_place"] = observed.url, observed.start_place
    if observed.not_after is not None and observed.not_after != record.not_after:
        changes["not_after"] = observed.not_after
    if observed.warned and record.phase is ReplicaPhase.READY and record.expiring_since is None:
        changes["expiring_since"] = draft.now
    if changes:
        changed = copy_with(record, **changes)
        if "not_after" in changes:
            changed = renewal.scheduled(draft, changed)
        if changed.published and not changes.keys().isdisjoint(("url", "not_after")):
            changed = draft.publish(changed)
        draft.put_replica(changed)
        draft.dirty.add(record.model_id)


def _found_without_record(draft: Draft, listing: PoolSnapshot, observed: ObservedReplica) -> None:
    """Something provably ours without a record: our record was lost (an older backup), the thing was not. Its name is
    taken, also if it has ended."""
    if draft.site.mode is Mode.OBSERVE:
        return
    model = draft.models.get(observed.model_id)
    if model is None:
        model = ModelState(observed.model_id, _unserved(observed.model_id), target=0, retired=True)
    draft.put_model(replace(model, next_generation=max(model.next_generation, observed.generation + 1)))
    if observed.phase not in ENDED:
        _adopt(draft, listing, observed)


def _adopt(draft: Draft, listing: PoolSnapshot, observed: ObservedReplica) -> None:
    """It joins as if just started, or just submitted, and must prove itself; one whose model we do not serve is
    stopped. The target rises with it: to have found it is no reason to stop it, the policy may have one."""
    model = draft.models[observed.model_id]
    waits = observed.phase is ReplicaPhase.PENDING
    record = Replica(
        replica_id=observed.replica_id,
        model_id=observed.model_id,
        pool_id=listing.pool_id,
        ordinal=_ordinal_of(observed),
        generation=observed.generation,
        tier=_tier_of(draft, model, listing.pool_id),
        gpus=model.spec.gpus,
        phase=ReplicaPhase.PENDING if waits else ReplicaPhase.STARTING,
        phase_since=draft.now,
        requested_at=observed.started_at if observed.started_at is not None else draft.now,
        started_at=None if waits else draft.now,
        url=observed.url,
        not_after=observed.not_after,
        adopted=True,
        capabilities=model.spec.capabilities,
        detail="adopted: found in its pool without a record",
    )
    draft.put_replica(record)
    _seen(draft, record, observed)  # its pool may be stopping it
    if not model.retired:
        held = sum(lifecycle.counts_towards_target(each) for each in draft.replicas_of(model.model_id).values())
        draft.put_model(replace(model, target=max(model.target, held)))
    draft.dirty.add(model.model_id)


def _tier_of(draft: Draft, model: ModelState, pool_id: str) -> Tier:
    """Pools do not know it of what they run: baseline where the pool takes that, until the model has its baseline."""
    tiers = next(pool.tiers for pool in draft.site.pools if pool.pool_id == pool_id)
    if Tier.ELASTIC not in tiers:
        return Tier.BASELINE
    held = sum(
        record.tier is Tier.BASELINE and lifecycle.counts_towards_target(record)
        for record in draft.replicas_of(model.model_id).values()
    )
    lacks = held < max(model.baseline, model.spec.minimum)
    return Tier.BASELINE if Tier.BASELINE in tiers and lacks else Tier.ELASTIC


def _unserved(model_id: str) -> ModelSpec:
    """The specification of a model that nobody declares: none of it, so that what is found of it is stopped."""
    return ModelSpec(model_id, EngineSpec(()), PolicySpec("none"), minimum=0, maximum=0)


def _ordinal_of(observed: ObservedReplica) -> int:
    """The ordinal in ``model-ORDINAL-gN``; 0 when the name is not of that form."""
    middle = observed.replica_id.removeprefix(f"{observed.model_id}-").rpartition("-g")[0]
    return int(middle) if middle.isdigit() else 0


def _missing(draft: Draft, listing: PoolSnapshot) -> None:
    """Replicas that a good listing does not show are doubted at once, and given up by one that still does not show
    them after the pool's patience. Time alone gives up nothing: while listings fail, nobody knows."""
    vanished: list[Replica] = []
    for record in _unlisted(draft, listing):
        if not may_be_missed(record, listing):
            continue
        if record.missing_since is None:
            draft.put_replica(replace(record, missing_since=draft.now))
        elif draft.now >= record.missing_since + draft.limits.pool_patience_s:
            vanished.append(record)
    for record in sorted(vanished, key=lambda record: record.replica_id):
        wanted = record.phase is ReplicaPhase.STOPPING
        lifecycle.end(draft, record, record.failure if wanted else "vanished", "its pool no longer lists it")


def _unlisted(draft: Draft, listing: PoolSnapshot) -> list[Replica]:
    """The records of all models that the listing does not show, whole or told by what it misses."""
    found: list[Replica] = []
    if listing.missing == ():  # nearly always
        return found
    listed = {observed.replica_id for observed in listing.replicas}
    for model_id in draft.models:
        records = draft.replicas_of(model_id)
        unlisted = records.keys() - listed if listing.missing is None else records.keys() & listing.missing
        found.extend(records[replica_id] for replica_id in sorted(unlisted))
    return found


def _receipt(draft: Draft, receipt: Receipt) -> None:
    record = draft.replicas_of(receipt.model_id).get(receipt.replica_id)
    if record is None or record.phase in ENDED:
        return
    draft.dirty.add(record.model_id)
    if receipt.action_id.startswith("launch-"):
        _launch_receipt(draft, record, receipt)
    elif record.phase is ReplicaPhase.STOPPING and receipt.action_id.startswith(_verb_of(record)):
        if receipt.outcome is Outcome.ACCEPTED:
            draft.put_replica(replace(record, stop_acknowledged=True, retry_at=None))
        else:
            wait_s = max(receipt.retry_after_s, 1.0)
            draft.put_replica(replace(record, retry_at=draft.now + wait_s, detail=receipt.detail))


def _verb_of(record: Replica) -> str:
    """A late answer to the gentle stop says nothing of the kill that followed."""
    return "kill-" if record.stop_mode is StopMode.KILL else "stop-"


def _launch_receipt(draft: Draft, record: Replica, receipt: Receipt) -> None:
    if record.phase is not ReplicaPhase.REQUESTED:
        return
    match receipt.outcome:
        case Outcome.ACCEPTED:
            draft.put_replica(
                replace(
                    record,
                    phase=ReplicaPhase.PENDING,
                    phase_since=draft.now,
                    url=receipt.url or record.url,
                    retry_at=None,
                    detail=receipt.detail,
                )
            )
        case Outcome.TRANSIENT:
            wait_s = max(receipt.retry_after_s, 1.0)
            draft.put_replica(replace(record, retry_at=draft.now + wait_s, detail=receipt.detail))
        case Outcome.NO_CAPACITY:
            pool = draft.pools.get(record.pool_id)
            if pool is not None:
                draft.put_pool(replace(pool, full_until=draft.now + draft.limits.full_pool_s))
            lifecycle.end(draft, record, "", receipt.detail or "its pool had no room")
        case Outcome.REJECTED:
            lifecycle.end(draft, record, "rejected", receipt.detail)


def _probe(draft: Draft, probe: Probe) -> None:
    record = draft.replicas_of(probe.model_id).get(probe.replica_id)
    if record is None or record.phase in ENDED or record.phase is ReplicaPhase.STOPPING:
        return
    match probe.verdict:
        case ProbeVerdict.READY:
            if record.phase in ON_ITS_WAY:
                if record.url is not None:  # gateways could not reach it
                    lifecycle.become_ready(draft, record)
            elif record.phase is ReplicaPhase.DRAINING and record.drain and record.drain.reason == "unhealthy":
                lifecycle.undo_drain(draft, record)
            elif record.unhealthy_since is not None:
                draft.put_replica(replace(record, unhealthy_since=None))
                draft.dirty.add(record.model_id)
        case ProbeVerdict.WRONG:
            lifecycle.give_up(draft, record, "wrong_answer", probe.detail, StopMode.KILL)
        case ProbeVerdict.LOADING if record.phase in ON_ITS_WAY:
            if record.phase is not ReplicaPhase.LOADING:
                draft.put_replica(replace(record, phase=ReplicaPhase.LOADING, phase_since=draft.now))
                draft.dirty.add(record.model_id)
        case _:
            if record.phase is ReplicaPhase.READY and record.unhealthy_since is None:
                draft.put_replica(replace(record, unhealthy_since=draft.now, detail=probe.detail))
                draft.dirty.add(record.model_id)


def _gateway(draft: Draft, report: GatewayReport) -> None:
    key = GatewaySessionKey(report.gateway_id, report.boot_id)
    known = draft.gateways.get(gateway_entity_key(key))
    if known is not None and report.sequence <= known.sequence:
        return
    if report.closed:
        draft.drop_gateway(key)
    else:
        # One that is ahead of us followed a registry that was lost since, and has seen nothing of this one yet.
        applied = report.applied_revision if report.applied_revision <= draft.control.revision else 0
        draft.put_gateway(GatewayState(key, report.sequence, applied, draft.now, dict(report.in_flight)))
    draft.dirty.update(model_id for model_id, model in draft.models.items() if model.draining)


def _pause(draft: Draft, pause: PauseChanged) -> None:
    others = tuple(known for known in draft.control.pauses if (known.scope, known.name) != (pause.scope, pause.name))
    draft.control = replace(draft.control, pauses=(*others, pause) if pause.paused else others)
    draft.dirty.update([pause.name] if pause.scope is PauseScope.MODEL and pause.name in draft.models else draft.models)


def _spec(draft: Draft, spec: SpecChanged) -> None:
    """What was changed may have been mended: its breakers are closed, so that it is tried at once."""
    before = {pool.pool_id: pool for pool in draft.control.site.pools} if draft.control.site is not None else {}
    changed = {pool.pool_id for pool in spec.site.pools if before.get(pool.pool_id) != pool}
    draft.control = replace(draft.control, site=spec.site, digest=spec.digest)
    declared = {pool.pool_id for pool in spec.site.pools}
    for pool in spec.site.pools:
        if pool.pool_id not in draft.pools:
            draft.put_pool(PoolState(pool.pool_id))
    for pool_id in sorted(draft.pools.keys() - declared):
        draft.drop_pool(pool_id)
    wanted = {model.model_id: model for model in spec.models}
    for model_id, model_spec in wanted.items():
        known = draft.models.get(model_id)
        if known is None:
            draft.put_model(ModelState(model_id, model_spec, target=model_spec.minimum))
        elif known.retired or known.spec != model_spec:
            policy_changed = known.spec.policy != model_spec.policy
            memory = {} if policy_changed else known.memory
            draft.put_model(replace(known, spec=model_spec, retired=False, memory=memory, breakers={}))
        elif changed & known.breakers.keys():
            left = {pool_id: breaker for pool_id, breaker in known.breakers.items() if pool_id not in changed}
            draft.put_model(replace(known, breakers=left))
    for model_id in sorted(draft.models.keys() - wanted.keys()):
        draft.put_model(replace(draft.models[model_id], retired=True))
    draft.dirty.update(draft.models)


def _leadership(draft: Draft) -> None:
    """Whatever the last leader wrote down but may not have carried out is tried again now.

    The time without a leader counts against nobody: gateways that could not report are not gone (they may not even
    know of a withdrawal yet), and a replica that could not be probed or listed is not overdue.
    """
    outage_s = draft.now - draft.last_now
    draft.control = replace(draft.control, led_since=draft.now)
    for gateway in list(draft.gateways.values()):
        draft.put_gateway(replace(gateway, seen_at=min(draft.now, gateway.seen_at + outage_s)))
    for model_id, model in list(draft.models.items()):
        for record in list(draft.replicas_of(model_id).values()):
            excused = record if record.phase in ENDED else lifecycle.excuse(record, outage_s)
            if record.retry_at is not None:
                excused = replace(excused, retry_at=draft.now)
            if excused != record:
                draft.put_replica(excused)
        if model.snapshot is not None:
            draft.put_model(replace(model, snapshot=replace(model.snapshot, sequence=0)))
        draft.dirty.add(model_id)
