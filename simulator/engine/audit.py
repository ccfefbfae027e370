"""A fleet that can be asked whether its books add up. It serves exactly as ``EngineFleet`` does, and is slower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from simulator.engine import layout
from simulator.engine.fleet import EngineFleet
from simulator.engine.layout import NOBODY, PREFILLED, Integers, Record
from simulator.engine.profile import EngineProfile

_KEPT = ("prompt_tokens", "generation_tokens", "finished")


class AuditedFleet(EngineFleet):
    """Keeps the totals of replicas that are no more, and counts what each replica holds request by request."""

    def __init__(self, origin_at: float = 0.0) -> None:
        super().__init__(origin_at)
        self._live: set[int] = set()
        self._ended: Counter[str] = Counter()

    def start(self, profile: EngineProfile) -> int:
        replica = super().start(profile)
        self._live.add(replica)
        return replica

    def stop(self, replica: int) -> Integers:
        self._ended["dropped_tokens"] += self._generated_in_flight(replica)
        dropped = super().stop(replica)
        for name in _KEPT:
            self._ended[name] += int(self._state.replicas[name][replica])
        self._live.discard(replica)
        return dropped

    def abort(self, request: int) -> bool:
        before = self._generated_of(request)
        aborted = super().abort(request)
        self._ended["dropped_tokens"] += before if aborted else 0
        return aborted

    def totals(self) -> dict[str, int]:
        """Of all replicas that ever were: prompt tokens of requests with a first token, tokens generated, requests
        finished; and of the generated tokens those of requests that are in flight or were dropped."""
        live = sorted(self._live)
        found = {name: self._ended[name] + int(self._state.replicas[name][live].sum()) for name in _KEPT}
        in_flight = sum(self._generated_in_flight(replica) for replica in live)
        return found | {"unfinished_tokens": in_flight + self._ended["dropped_tokens"]}

    def books(self) -> Iterator[tuple[int, str, int, int]]:
        """(replica, what, as the kernel counts it, as its requests add up)."""
        slots = self._state.slots
        for r in sorted(self._live):
            replica: Record = self._state.replicas[r]
            queues = self._state.queues[r]
            mine = slots["replica"] == r
            yield r, "requests in flight", int(self._state.load[r]) // layout.LOAD, int(mine.sum())
            placed = int(queues["length"].sum() + replica["decoding"] + (replica["partial"] != NOBODY))
            yield r, "requests queued, computed or decoding", placed, int(mine.sum())
            decoding = self._decoding(r)
            context = slots["offset"][decoding] + replica["clock"]
            yield r, "tokens in the KV cache of decoding requests", int(replica["kv_tokens"]), int(context.sum())
            held = int((-(-context // replica["block_size"])).sum())
            held += sum(int(slots["blocks"][slot]) for slot in self._prefilling(r))
            yield r, "KV blocks that are held", int(replica["num_blocks"] - replica["free_blocks"]), held

    def _decoding(self, r: int) -> Integers:
        slots: Integers = self._state.decoding[r]["slot"][: self._state.replicas["decoding"][r]]
        return slots

    def _prefilling(self, r: int) -> Iterator[int]:
        """The requests whose prompt is being computed, in whole or in chunks."""
        partial = int(self._state.replicas["partial"][r])
        if partial != NOBODY:
            yield partial
        queue = self._state.queues[r][PREFILLED]
        slot = int(queue["first"])
        for _ in range(int(queue["length"])):
            yield slot
            slot = int(self._state.slots["next"][slot])

    def _generated_of(self, request: int) -> int:
        """Of one request in flight; 0 if it is not."""
        slots = self._state.slots
        places = np.flatnonzero((slots["replica"] != NOBODY) & (slots["request"] == request))
        if not len(places):
            return 0
        r = int(slots["replica"][places[0]])
        if places[0] not in self._decoding(r):
            return int(slots["generated"][places[0]])
        left = slots["finish_clock"][places[0]] - self._state.replicas["clock"][r]
        return int(slots["output_tokens"][places[0]] - left)

    def _generated_in_flight(self, r: int) -> int:
        """A decoding request's count follows from when it will end; the others keep it."""
        slots = self._state.slots
        decoding = self._decoding(r)
        left = slots["finish_clock"][decoding] - self._state.replicas["clock"][r]
        running = int((slots["output_tokens"][decoding] - left).sum())
        others = slots["replica"] == r
        others[decoding] = False
        return running + int(slots["generated"][others].sum())
