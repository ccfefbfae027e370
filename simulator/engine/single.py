"""One engine of the compiled kernel behind the ``Engine`` contract: requests by name, events one by one."""

from __future__ import annotations

from simulator.engine.fleet import NO_GROUP, EngineFleet
from simulator.engine.layout import NOBODY, PREFILLED, WAITING
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import (
    EngineCounters,
    EngineEvent,
    EngineRequest,
    Finished,
    FirstToken,
    check_fits,
)
from simulator.engine.ticks import TICKS_PER_S, to_seconds


class CompiledEngine:
    """See ``Engine`` for the contract. ``next_event_at`` is the end of the run: no request's state changes before.

    ``origin_at`` is near the first event, see ``EngineFleet``.
    """

    def __init__(self, profile: EngineProfile, origin_at: float = 0.0) -> None:
        self._profile = profile
        self._fleet = EngineFleet(origin_at)
        self._index = self._fleet.start(profile)
        self._replica, self._queues, self._block_wanted = self._fleet.records(self._index)
        self._added = 0
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    @property
    def counters(self) -> EngineCounters:
        return self._fleet.counters(self._index)

    @property
    def running(self) -> int:
        replica = self._replica
        return int(replica["decoding"] + self._queues[PREFILLED]["length"] + (replica["partial"] != NOBODY))

    @property
    def waiting(self) -> int:
        return int(self._queues[WAITING]["length"])

    @property
    def kv_use(self) -> float:
        """Share of the blocks that are held, 0 to 1."""
        replica = self._replica
        wanted = self._block_wanted[replica["phase"]] if replica["run_length"] else 0
        return float(1 - (replica["free_blocks"] - wanted) / replica["num_blocks"])

    def add(self, request: EngineRequest) -> None:
        """Take a request in at ``arrival_at``, not before the last ``advance``.

        Raises ``ValueError`` if the KV cache can never hold it.
        """
        check_fits(self._profile, request)
        number = self._added
        self._added += 1
        self._names[number] = request.request_id
        self._numbers[request.request_id] = number
        self._fleet.add(
            self._index,
            request.arrival_at,
            request.prompt_tokens,
            request.output_tokens,
            number,
            cached_tokens=request.cached_tokens,
            group=NO_GROUP if request.prefix_group is None else request.prefix_group,
            prefix_tokens=request.prefix_tokens,
        )

    def abort(self, request_id: str) -> bool:
        """Drop a request now; False if there is none (already finished is success)."""
        number = self._numbers.get(request_id)
        if number is None or not self._fleet.abort(number):
            return False
        self._forget(number)
        return True

    def _forget(self, number: int) -> str:
        name = self._names.pop(number)
        del self._numbers[name]
        return name

    def next_event_at(self) -> float | None:
        return self._fleet.changes_at(self._index)

    def advance(self, until: float) -> list[EngineEvent]:
        self._fleet.advance(self._index, until)
        first_tokens, completions = self._fleet.take_few()
        if not (first_tokens or completions):
            return []
        told: list[tuple[int, int, EngineEvent]] = []
        for number, _, at, order in first_tokens:
            told.append((at, order, FirstToken(self._names[number], self._seconds(at))))
        for number, _, _, queued, scheduled, first, at, preemptions, cached, _, order in completions:
            finished = Finished(
                self._forget(number),
                self._seconds(at),
                self._seconds(queued),
                self._seconds(scheduled),
                self._seconds(first),
                preemptions,
                cached,
            )
            told.append((at, order, finished))
        told.sort(key=_by_time_and_arrival)
        return [event for _, _, event in told]

    def _seconds(self, ticks: int) -> float:
        return to_seconds(ticks + self._fleet.origin_s * TICKS_PER_S)


def _by_time_and_arrival(told: tuple[int, int, EngineEvent]) -> tuple[int, int]:
    return told[:2]
