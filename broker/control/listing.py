"""Which listings of a pool are worth an observation: those that say something new, and a regular sign of life."""

from __future__ import annotations

from broker.model.observation import PoolSnapshot

POOL_INTERVAL_S = 0.5
_PHASE_S = 0.2
_STAGGER_S = 0.01

_SIGN_OF_LIFE_S = 5.0


def first_listing_at(opened_at: float, index: int) -> float:
    """When the ``index``-th pool is listed first; then it is every ``POOL_INTERVAL_S``. Off the instants of snapshots
    and of other pools: what falls on one instant has no order that every driver must agree on."""
    return opened_at + _PHASE_S + index * _STAGGER_S


class ListingFilter:
    """Keeps one pool's last told listing. Pure; the driver says what was listed and passes on what is worth it."""

    def __init__(self) -> None:
        self._told: PoolSnapshot | None = None

    def worth_telling(self, listing: PoolSnapshot) -> bool:
        """True for the first listing, for any that differs, and every five seconds."""
        told = self._told
        if (
            told is not None
            and _content(told) == _content(listing)
            and listing.received_at - told.received_at < _SIGN_OF_LIFE_S
        ):
            return False
        self._told = listing
        return True


def _content(listing: PoolSnapshot) -> tuple[object, ...]:
    return listing.known, listing.replicas, listing.gpus_total, listing.error
