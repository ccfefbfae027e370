"""The gateway in simulated time: follows the registry, has the fleet route, reports like the real one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.model.observation import GatewayReport
from broker.model.replica import EndpointRecord, ReplicaPhase
from broker.model.signals import RequestSummary
from simulator.engine.fleet import EngineFleet
from simulator.engine.profile import EngineProfile
from simulator.engine.routing import Routing
from simulator.ledger import ABANDONED, CUT, REJECTED, Ledger, Rows
from simulator.shared_prefixes import SharedPrefixes
from simulator.tally import Tally

_NAME, _BOOT = "simulated", "0"
_NOWHERE = -1


class FrontDoor:
    """One simulated gateway for all models, each of which is a pool of the fleet.

    All that is read is as of the last ``catch_up``. Endpoints are tried in order of name: among equals the first that
    was never chosen takes a request. ``cached_share``: see ``SharedPrefixes``.
    """

    def __init__(
        self, model_ids: Iterable[str], fleet: EngineFleet, ledger: Ledger, *,
        routing: Routing = Routing.LEAST_LOADED, cached_share: float = 0.0,
    ) -> None:  # fmt: skip
        self._pools = {model_id: pool for pool, model_id in enumerate(model_ids)}
        self.fleet = self._fleet = fleet
        self._ledger = ledger
        self._routing = routing
        self._shared = SharedPrefixes(cached_share)
        self._cached_before = 0
        self._published: list[set[str]] = [set() for _ in self._pools]
        self._places: dict[str, int] = {}
        self._leaving: set[str] = set()
        self._held: list[list[int]] = [[] for _ in self._pools]
        self._tally = Tally(len(self._pools), ledger)
        self._caught_up_at = -np.inf
        self._revision = 0
        self._sequence = 0
        for pool in self._pools.values():
            self._fleet.route(pool, ())

    # -- requests

    @property
    def arrived(self) -> int:
        return self._tally.total_arrived

    @property
    def open_requests(self) -> int:
        return int(self._tally.open.sum())

    @property
    def model_ids(self) -> tuple[str, ...]:
        return tuple(self._pools)

    def pool_of(self, model_id: str) -> int:
        """The number by which ledger and fleet know a model."""
        return self._pools[model_id]

    def expect(self, rows: Rows, prefix_group: Any, prefix_tokens: Any) -> None:
        """Requests of the ledger that will arrive, each at its time, and the prefixes that they share."""
        self._shared.note(rows, prefix_group, prefix_tokens)
        self._submit(rows, self._ledger.arrival_at[rows])

    def _submit(self, rows: Rows, at: Any) -> None:
        if len(rows):
            ledger = self._ledger
            prompts = ledger.prompt_tokens[rows]
            self._fleet.submit(
                np.broadcast_to(at, rows.shape), prompts, ledger.output_tokens[rows], rows,
                pool=ledger.model[rows], **self._shared.of(rows, prompts),
            )  # fmt: skip

    def _send_again(self, rows: Rows, now: float) -> None:
        """Requests that had arrived before are routed now."""
        self._submit(rows, now)
        self._caught_up_at = -np.inf

    def catch_up(self, now: float) -> None:
        """Let everything up to and including ``now`` happen, arrivals first."""
        if now <= self._caught_up_at:
            return
        self._caught_up_at = now
        self._fleet.run_until(now)
        tally = self._tally
        arrived = self._ledger.arrived_by(now)
        if arrived > tally.total_arrived:
            tally.arrive(arrived)
        elif not tally.open.any():
            return
        tally.take(*self._fleet.take_told(), self._fleet.origin_s)
        if self._fleet.refused:
            self._take_refusals()

    def _take_refusals(self) -> None:
        told = self._fleet.take_refusals()
        no_endpoint = told.replica == _NOWHERE
        for row in told.request[no_endpoint].tolist():
            self._held[self._ledger.model[row]].append(row)
        self._tally.close(told.request[~no_endpoint], told.at[~no_endpoint], REJECTED)

    def abandon(self, rows: Rows, now: float) -> None:
        """Their clients leave at ``now``, to which it has caught up."""
        for row in rows.tolist():
            if not self._fleet.abort(row):
                self._held[self._ledger.model[row]].remove(row)
        self._tally.close(rows, now, ABANDONED)

    # -- endpoints

    def admit(self, name: str, profile: EngineProfile) -> None:
        """A replica takes connections from now on, if it is published; others refuse them."""
        if name not in self._places:
            self._places[name] = self._fleet.start(profile)

    def places(self) -> Mapping[str, int]:
        """Where in the fleet each replica is that takes, or took, connections."""
        return self._places

    def routed(self) -> dict[str, tuple[str, ...]]:
        """The replicas, by model, that the next request may go to: as the fleet has it, which routes."""
        names = {place: name for name, place in self._places.items()}
        return {
            model_id: tuple(names[place] for place in self._fleet.endpoints(pool))
            for model_id, pool in self._pools.items()
        }

    def in_flight(self) -> dict[str, int]:
        """Requests in flight, of the replicas that have any."""
        counts = self._fleet.in_flight().tolist()
        return {name: counts[place] for name, place in self._places.items() if counts[place]}

    def place(self, name: str) -> int | None:
        """Where in the fleet a replica is; None if it never took a connection."""
        return self._places.get(name)

    def apply(self, records: Iterable[EndpointRecord], now: float) -> None:
        """Take changes of the registry at ``now``, to which it has caught up; requests held for want of an endpoint are
        routed."""
        for record in records:
            self._revision = max(self._revision, record.revision)
            pool = self._pools[record.model_id]
            name = record.endpoint_id
            if record.phase is ReplicaPhase.READY:
                self._published[pool].add(name)
            else:
                self._published[pool].discard(name)
            self._route(pool)
            if record.phase is ReplicaPhase.READY:
                held, self._held[pool] = self._held[pool], []
                self._send_again(np.array(held, np.int64), now)

    def _route(self, pool: int) -> None:
        taking = sorted(self._published[pool] & (self._places.keys() - self._leaving))
        self._fleet.route(pool, [self._places[name] for name in taking], self._routing)

    def empties_at(self, name: str) -> float | None:
        """For a replica that has requests in flight and gets no more: a time before which it still has some."""
        if self._is_routed(name) or not self.is_busy(name):
            return None
        return self._fleet.changes_at(self._places[name])

    def _is_routed(self, name: str) -> bool:
        return name not in self._leaving and any(name in published for published in self._published)

    def is_busy(self, name: str) -> bool:
        """Whether a replica has requests in flight."""
        return name in self._places and self._requests_at(name) > 0

    def refuse_connections(self, name: str) -> None:
        """A replica was told to exit: what is sent to it goes elsewhere."""
        if name in self._places:
            self._leaving.add(name)
            self._route_where_published(name)

    def _requests_at(self, name: str) -> int:
        return int(self._fleet.in_flight()[self._places[name]])

    def _route_where_published(self, name: str) -> None:
        for pool, published in enumerate(self._published):
            if name in published:
                self._route(pool)

    def gone(self, name: str, now: float) -> int:
        """A replica has exited at ``now``, to which it has caught up. Streams that had begun are cut, requests without
        a token are routed again. How many were cut."""
        if name not in self._places:
            return 0
        place = self._places.pop(name)
        self._cached_before += self._fleet.counters(place).cached_tokens
        self._leaving.discard(name)
        self._route_where_published(name)
        rows = self._fleet.stop(place)
        begun = ~np.isnan(self._ledger.first_token_at[rows])
        self._tally.close(rows[begun], now, CUT)
        self._send_again(rows[~begun], now)
        return int(begun.sum())

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens, of requests that got a first token, that replicas found in their caches."""
        now = self._fleet.total("cached_tokens")
        return self._cached_before + sum(int(now[place]) for place in self._places.values())

    @property
    def shared_tokens(self) -> NDArray[np.integer[Any]] | None:
        """See ``Outcomes``, of all rows."""
        return self._shared.at_most(self._ledger.prompt_tokens[: len(self._ledger)])

    # -- what it tells

    def report(self, now: float) -> GatewayReport:
        """The session's heartbeat: what was applied, what is in flight."""
        self._sequence += 1
        return GatewayReport(_NAME, _BOOT, self._sequence, self._revision, now, now, self.in_flight())

    def summaries(self, now: float, interval_s: float) -> list[RequestSummary]:
        """One summary for each model, and a new interval."""
        self._sequence += 1
        tally = self._tally
        tally.look(now)
        queue_age, first_token, inter_token, prompt, output = tally.take_sketches()
        arrived, finished, failed = tally.arrived.tolist(), tally.finished.tolist(), tally.failed.tolist()
        waiting, open_requests, oldest = tally.waiting.tolist(), tally.open.tolist(), tally.oldest.tolist()
        tally.begin_anew()
        return [
            RequestSummary(
                model_id=model_id,
                gateway_id=_NAME,
                boot_id=_BOOT,
                sequence=self._sequence,
                observed_at=now,
                received_at=now,
                interval_s=interval_s,
                arrived=arrived[pool],
                finished=finished[pool],
                failed=failed[pool],
                held=len(self._held[pool]),
                in_flight=open_requests[pool],
                waiting=waiting[pool],
                oldest_waiting_since=oldest[pool] if waiting[pool] else None,
                queue_age=queue_age[pool],
                time_to_first_token=first_token[pool],
                inter_token=inter_token[pool],
                prompt_tokens=prompt[pool],
                output_tokens=output[pool],
            )
            for model_id, pool in self._pools.items()
        ]
