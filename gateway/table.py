"""Where requests may go: the endpoint records of the broker's registry beside what this gateway itself knows.

Pure: time is an argument. Records come as snapshots and single changes, each with the registry's revision; every
change has a revision of its own. Changes may come twice or in any order: the newest record of an endpoint wins, and
``applied_revision`` moves only as far as nothing is missing, because the broker stops a draining engine as soon as
all gateways claim to have applied the withdrawal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from broker.model.api import EndpointsSnapshot
from broker.model.replica import EndpointRecord, ReplicaPhase


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """One endpoint's new record (ready, draining or gone), the registry's step to ``revision``."""

    revision: int
    endpoint: EndpointRecord


class _Entry:
    """One endpoint. ``last_chosen`` is a count of choices, not a time, so that ties break the same in every run."""

    __slots__ = ("healthy", "in_flight", "last_chosen", "record")

    def __init__(self, record: EndpointRecord) -> None:
        self.record = record
        self.in_flight = 0
        self.healthy = True
        self.last_chosen = 0


class RoutingTable:
    """Endpoints by model, with their open requests and health as seen from here.

    ``expected_models`` are known before the registry says which models are declared: their requests are held rather
    than refused.
    """

    def __init__(self, expected_models: Iterable[str] = ()) -> None:
        self.applied_revision = 0
        self.populated = False
        self._models: dict[str, dict[str, _Entry]] = {model_id: {} for model_id in expected_models}
        self._declared: frozenset[str] | None = None
        self._entries: dict[str, _Entry] = {}
        self._ahead: set[int] = set()
        self._choices = 0

    @property
    def has_gap(self) -> bool:
        """Whether a change was applied while an earlier one is missing: time for a new snapshot."""
        return bool(self._ahead)

    def replace(self, snapshot: EndpointsSnapshot) -> None:
        """Take over a snapshot. One of a lower revision than ours is a registry that began anew: it replaces all.

        Otherwise records that are newer than the snapshot (changes that overtook it) stay, and no others: a registry
        that began anew may have come past our revision while we did not hear it, with older ones of all its endpoints.
        """
        began_anew = snapshot.revision < self.applied_revision
        if began_anew:
            self._ahead.clear()
        listed = {record.endpoint_id for record in snapshot.endpoints}
        kept = {
            name
            for name, entry in self._entries.items()
            if entry.record.revision > snapshot.revision and not began_anew
        }
        for name, entry in self._entries.items():
            if name not in listed and name not in kept:
                entry.record = replace(entry.record, phase=ReplicaPhase.GONE, revision=snapshot.revision)
        for record in snapshot.endpoints:
            if record.endpoint_id not in kept:
                self._put(record, always=True)
        self.populated = True
        self._declared = None if snapshot.models is None else frozenset(snapshot.models)
        self._advance(snapshot.revision)

    def apply(self, change: RegistryChange) -> None:
        """Take over one change. Repeated and outdated ones have no effect."""
        if change.revision < self.applied_revision:
            return
        self._put(change.endpoint)
        if change.revision > self.applied_revision:
            self._ahead.add(change.revision)
            self._advance(self.applied_revision)

    def choose(
        self, model_id: str, capability: str, now: float, *, tried: Collection[str] = ()
    ) -> EndpointRecord | None:
        """The ready endpoint with the fewest open requests, among equals the one least recently chosen; counts the
        request as open there, to be given back with ``release``. None if there is none beside those ``tried``."""
        best: _Entry | None = None
        for entry in self._models.get(model_id, {}).values():
            if not _serves(entry, capability, now) or entry.record.endpoint_id in tried:
                continue
            if best is None or _rank(entry) < _rank(best):
                best = entry
        if best is None:
            return None
        self._choices += 1
        best.last_chosen = self._choices
        best.in_flight += 1
        return best.record

    def release(self, endpoint_id: str) -> bool:
        """One request less at an endpoint; True if it was the last one of an endpoint that is being withdrawn."""
        entry = self._entries[endpoint_id]
        entry.in_flight -= 1
        emptied = entry.in_flight == 0 and entry.record.phase is not ReplicaPhase.READY
        self._forget_if_over(entry)
        return emptied

    def mark(self, endpoint_id: str, *, healthy: bool) -> bool:
        """Note what this gateway saw of an endpoint; True if that is news."""
        entry = self._entries.get(endpoint_id)
        if entry is None or entry.healthy is healthy:
            return False
        entry.healthy = healthy
        return True

    def records(self) -> list[EndpointRecord]:
        """The endpoints that are published: ready or draining."""
        return [entry.record for entry in self._entries.values() if entry.record.phase is not ReplicaPhase.GONE]

    def unhealthy(self) -> list[EndpointRecord]:
        """Published endpoints that failed when this gateway last tried them."""
        return [record for record in self.records() if not self._entries[record.endpoint_id].healthy]

    def in_flight(self) -> dict[str, int]:
        """Open requests by endpoint, where there are any; withdrawn endpoints stay until their last one ended."""
        return {endpoint_id: entry.in_flight for endpoint_id, entry in self._entries.items() if entry.in_flight}

    def models(self) -> list[str]:
        """Every model that a request may name."""
        return sorted(filter(self.knows, self._models.keys() | (self._declared or ())))

    def knows(self, model_id: str) -> bool:
        """Whether the model is declared or has an endpoint. Of a registry that does not say which models are declared,
        every one expected or ever published: one without endpoints at present may get one again."""
        if self._declared is None:
            return model_id in self._models
        return model_id in self._declared or any(
            entry.record.phase is not ReplicaPhase.GONE for entry in self._models.get(model_id, {}).values()
        )

    def lacks_capability(self, model_id: str, capability: str) -> bool:
        """Whether the model is published, and no endpoint of it can do what is asked."""
        records = [entry.record for entry in self._models.get(model_id, {}).values()]
        return bool(records) and not any(capability in record.capabilities for record in records)

    def _put(self, record: EndpointRecord, *, always: bool = False) -> None:
        entry = self._entries.get(record.endpoint_id)
        if entry is None:
            entry = self._entries[record.endpoint_id] = _Entry(record)
            self._models.setdefault(record.model_id, {})[record.endpoint_id] = entry
        elif always or record.revision > entry.record.revision:
            entry.record = record

    def _advance(self, revision: int) -> None:
        while revision + 1 in self._ahead:
            revision += 1
        self.applied_revision = revision
        self._ahead = {ahead for ahead in self._ahead if ahead > revision}
        for entry in list(self._entries.values()):
            self._forget_if_over(entry)

    def _forget_if_over(self, entry: _Entry) -> None:
        """A tombstone is kept until every older change of its endpoint would be refused as outdated."""
        record = entry.record
        if record.phase is ReplicaPhase.GONE and entry.in_flight == 0 and record.revision < self.applied_revision:
            del self._entries[record.endpoint_id]
            del self._models[record.model_id][record.endpoint_id]


def _serves(entry: _Entry, capability: str, now: float) -> bool:
    record = entry.record
    return (
        record.phase is ReplicaPhase.READY
        and entry.healthy
        and (record.not_after is None or now < record.not_after)
        and capability in record.capabilities
    )


def _rank(entry: _Entry) -> tuple[int, int, str]:
    return entry.in_flight, entry.last_chosen, entry.record.endpoint_id
