"""Which listings of a pool are worth an observation, and what of them: what is new, and a regular sign of life.

A listing of a large pool says 10,000 times what is on record. Written down whole, twice a second while anything
changes, it took longer than all else that the broker does, and whatever was urgent waited for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from broker.model.making import copy_with
from broker.model.observation import PoolSnapshot
from broker.model.replica import ENDED, ObservedReplica, Replica, ReplicaPhase
from broker.model.spec import Mode, SiteSpec
from broker.model.state import BrokerState, ModelState

POOL_INTERVAL_S = 0.5
_PHASE_S = 0.2
_STAGGER_S = 0.01

_SIGN_OF_LIFE_S = 5.0

_EXITING = ENDED | {ReplicaPhase.STOPPING}
_ACCEPTED = frozenset(ReplicaPhase) - ENDED - {ReplicaPhase.REQUESTED}
_RUNS = _ACCEPTED - {ReplicaPhase.PENDING}
_SEEN_AS: dict[ReplicaPhase, frozenset[ReplicaPhase]] = {
    ReplicaPhase.PENDING: _ACCEPTED,
    ReplicaPhase.STARTING: _RUNS,
    ReplicaPhase.LOADING: _RUNS,
    ReplicaPhase.READY: _RUNS,
    ReplicaPhase.STOPPING: frozenset({ReplicaPhase.STOPPING, ReplicaPhase.DRAINING}),
}
"""Phase in a listing -> the phases on record to which it adds nothing."""


def first_listing_at(opened_at: float, index: int) -> float:
    """When the ``index``-th pool is listed first; then it is every ``POOL_INTERVAL_S``. Off the instants of snapshots
    and of other pools: what falls on one instant has no order that every driver must agree on."""
    return opened_at + _PHASE_S + index * _STAGGER_S


def adds_nothing(observed: ObservedReplica, record: Replica) -> bool:
    """Whether a listing says of a replica that has not ended what is on record of it."""
    return (
        record.phase in _SEEN_AS.get(observed.phase, ENDED)
        and record.missing_since is None
        and (observed.url is None or observed.url == record.url)
        and (observed.not_after is None or observed.not_after == record.not_after)
        and observed.runs_as in ("", record.runs_as)
        and (observed.phase is not ReplicaPhase.PENDING or not waits_for_another_reason(observed, record))
        and (not observed.warned or record.expiring_since is not None or record.phase is not ReplicaPhase.READY)
    )


def waits_for_another_reason(observed: ObservedReplica, record: Replica) -> bool:
    """Whether its pool says why it waits, and that is not on record."""
    waits = observed.phase is ReplicaPhase.PENDING and record.phase in (ReplicaPhase.REQUESTED, ReplicaPhase.PENDING)
    return waits and observed.detail not in ("", record.detail)


def lives_again(observed: ObservedReplica, record: Replica, observed_at: float) -> bool:
    """Whether what has ended on record is seen running: it was given up too early, and must not live on."""
    return observed.phase not in _EXITING and observed_at >= record.phase_since


def may_be_missed(record: Replica, listing: PoolSnapshot) -> bool:
    """Whether it says anything that this listing does not show ``record``: it must have been there before."""
    return (
        record.pool_id == listing.pool_id
        and record.phase not in ENDED
        and record.phase is not ReplicaPhase.REQUESTED
        and record.phase_since <= listing.observed_at
    )


def new_rows(
    models: Mapping[str, ModelState], replicas_of: Callable[[str], Mapping[str, Replica]], listing: PoolSnapshot,
    *, adopts: bool = True,
) -> list[ObservedReplica]:  # fmt: skip
    """The rows that are not on record as shown. ``adopts``: what has no record would get one."""
    rows: list[ObservedReplica] = []
    records, model_id = replicas_of(""), ""
    for observed in listing.replicas:
        if observed.model_id != model_id:
            records, model_id = replicas_of(observed.model_id), observed.model_id
        record = records.get(observed.replica_id)
        if record is None:
            new = adopts and (observed.phase not in ENDED or _name_is_free(models, observed))
        elif record.phase in ENDED:
            new = lives_again(observed, record, listing.observed_at)
        else:
            new = not adds_nothing(observed, record)
        if new:
            rows.append(observed)
    return rows


def _name_is_free(models: Mapping[str, ModelState], ended: ObservedReplica) -> bool:
    """Whether a replica yet to be made would be called as one that has ended: records were lost since. Its actuator
    would hold the new one for the old."""
    model = models.get(ended.model_id)
    return model is not None and ended.generation >= model.next_generation


def news_of(state: BrokerState, listing: PoolSnapshot) -> PoolSnapshot:
    """``listing`` without what is on record already. Pure; a step makes of it what it would make of the whole."""
    if not listing.known:
        return listing
    site = state.control.site
    adopts = site is None or site.mode is not Mode.OBSERVE
    rows = new_rows(state.models, state.replicas_of, listing, adopts=adopts)
    listed = {observed.replica_id for observed in listing.replicas}
    missing = [
        replica_id
        for replicas in state.replicas.values()
        if not replicas.keys() <= listed
        for replica_id, record in replicas.items()
        if replica_id not in listed and may_be_missed(record, listing)
    ]
    return replace(listing, replicas=tuple(rows), missing=tuple(sorted(missing)))


class ListingFilter:
    """Keeps one pool's last listing. Pure; the driver says what was listed and passes on what comes back."""

    def __init__(self) -> None:
        self._last: PoolSnapshot | None = None
        self._news: PoolSnapshot | None = None
        self._told_at = 0.0
        self._records: Mapping[str, Mapping[str, Replica]] | None = None
        self._site: SiteSpec | None = None

    def worth_telling(self, listing: PoolSnapshot, state: BrokerState) -> PoolSnapshot | None:
        """What of ``listing`` is worth an observation: always of the first, then news, and every five seconds that
        there are none. ``state`` may be a step behind: what is told twice does no harm, and what was missed is told
        with the next sign of life."""
        last, before = self._last, self._news
        self._last = listing
        alive = before is not None and listing.received_at - self._told_at < _SIGN_OF_LIFE_S
        same = last is not None and _content(last) == _content(listing)
        if alive and same:
            return None
        self._news = news = self._compared(listing, state, same)
        if alive and before is not None and (_content(before) == _content(news) or _only_less(before, news)):
            return None
        self._told_at = listing.received_at
        return news

    def _compared(self, listing: PoolSnapshot, state: BrokerState, same: bool) -> PoolSnapshot:
        """``news_of``. There is no news if there was none when the same was shown, and the records are the same. A
        state shares what did not change, and to look through a thousand of them costs as much as some steps."""
        before, site = self._news, state.control.site
        same = same and state.replicas is self._records and site is self._site
        if same and before is not None and not before.replicas and not before.missing:
            return copy_with(before, observed_at=listing.observed_at, received_at=listing.received_at)
        # What was seen before the phase on record began may be news once it is seen again.
        settled = listing.observed_at >= state.control.last_now
        self._records, self._site = (state.replicas, site) if settled else (None, None)
        return news_of(state, listing)


def _only_less(before: PoolSnapshot, news: PoolSnapshot) -> bool:
    """Whether nothing is new but that the last news is on record by now."""
    return not news.replicas and not news.missing and _about_pool(before) == _about_pool(news)


def _about_pool(listing: PoolSnapshot) -> tuple[object, ...]:
    return listing.known, listing.gpus_total, listing.error


def _content(listing: PoolSnapshot) -> tuple[object, ...]:
    return listing.replicas, listing.missing, *_about_pool(listing)
