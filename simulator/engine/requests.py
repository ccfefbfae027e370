"""What goes into an engine, and what comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from simulator.engine.profile import EngineProfile
from simulator.engine.ticks import TICKS_PER_S, to_ticks


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request, with the answer's length, which only the engine may know beforehand.

    ``cached_tokens`` of the prompt are known to need no computing (prefix cache). Where the trace says who shares,
    the first ``prefix_tokens`` of the prompt also stood in an earlier request of ``prefix_group``, or in the answer to
    it, and the engine finds out what of them it still holds. Either way they are held in the KV cache like all others.
    Raises ``ValueError`` for lengths that no request has.
    """

    request_id: str
    arrival_at: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    prefix_group: int | None = None
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(f"request {self.request_id}: prompt and output have at least one token each")
        if not 0 <= self.cached_tokens < self.prompt_tokens:
            raise ValueError(f"request {self.request_id}: at least one prompt token is computed, never cached")
        if not 0 <= self.prefix_tokens <= self.prompt_tokens:
            raise ValueError(f"request {self.request_id}: the shared prefix is a part of the prompt")


@dataclass(frozen=True, slots=True)
class FirstToken:
    request_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A request's last token, with the times that vLLM's histograms are made of.

    ``queued_at`` is when the scheduler first saw it, after the front end. ``cached_tokens`` is what the prefix cache
    saved when it was last admitted.
    """

    request_id: str
    at: float
    queued_at: float
    first_scheduled_at: float
    first_token_at: float
    preemptions: int
    cached_tokens: int


EngineEvent = FirstToken | Finished


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration that ended: ``emitted`` are the requests that got one token each, in batch order."""

    started_at: float
    ended_at: float
    prefill_tokens: int
    emitted: tuple[str, ...]
    events: tuple[EngineEvent, ...]


@dataclass(slots=True)
class EngineCounters:
    """Totals since the engine began. A prompt counts when its first token comes out, once."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0


class Engine(Protocol):
    """One engine in time that the caller keeps: ``advance`` to the present before each other call.

    All that is read is the state at the last ``advance(until)``: the iterations that ended by then are done, the one
    in progress has its batch and its blocks.

    At one tick the order is: iterations end and their tokens come out, then the next begin where there is work, then
    come arrivals and aborts in the order in which they are told. A request that reaches the scheduler at the very
    tick at which an iteration begins is in it if the front end held it back until then, and waits for the next if it
    arrives only now; of two that arrive together at an idle engine without a front end the first begins alone.
    """

    @property
    def counters(self) -> EngineCounters: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_use(self) -> float: ...
    def add(self, request: EngineRequest) -> None: ...
    def abort(self, request_id: str) -> bool: ...
    def next_event_at(self) -> float | None: ...
    def advance(self, until: float) -> list[EngineEvent]: ...


class FrontEnd:
    """The API server before the scheduler: one thing after the other, ``front_end_s`` for each request and
    ``front_end_s_per_token`` for each token that goes out.

    vLLM's gauges do not see the requests in here. A token's time is its iteration's end: that it takes its turn here
    delays requests, not the token.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self._per_request = round(profile.front_end_s * TICKS_PER_S)
        self._per_token = round(profile.front_end_s_per_token * TICKS_PER_S)
        self._free_at = 0
        self._queue: deque[tuple[int, EngineRequest]] = deque()

    def add(self, request: EngineRequest) -> int:
        """Take ``request`` in; the tick at which the scheduler will see it."""
        self._free_at = max(self._free_at, to_ticks(request.arrival_at)) + self._per_request
        self._queue.append((self._free_at, request))
        return self._free_at

    def stream(self, tokens: int, at: int) -> None:
        """Take in the ``tokens`` of an iteration that ended at tick ``at``, behind what is here already."""
        self._free_at = max(self._free_at, at) + self._per_token * tokens

    @property
    def next_ready_at(self) -> int | None:
        return self._queue[0][0] if self._queue else None

    def release(self, until: int) -> Iterator[tuple[int, EngineRequest]]:
        """Requests that the scheduler sees by ``until``, each with the tick since when it does."""
        while self._queue and self._queue[0][0] <= until:
            yield self._queue.popleft()

    def remove(self, request_id: str) -> bool:
        """Forget a request; the time its place took is not given back."""
        for entry in self._queue:
            if entry[1].request_id == request_id:
                self._queue.remove(entry)
                return True
        return False


class IterationCost:
    """A profile's coefficients in ticks."""

    __slots__ = ("base", "per_decode_sequence", "per_kv_token", "per_prefill_token")

    def __init__(self, profile: EngineProfile) -> None:
        self.base = round(profile.base_s * TICKS_PER_S)
        self.per_prefill_token = round(profile.s_per_prefill_token * TICKS_PER_S)
        self.per_decode_sequence = round(profile.s_per_decode_sequence * TICKS_PER_S)
        self.per_kv_token = round(profile.s_per_kv_token * TICKS_PER_S)

    def ticks(self, prefill_tokens: int, decode_sequences: int, kv_tokens: int) -> int:
        return (
            self.base
            + self.per_prefill_token * prefill_tokens
            + self.per_decode_sequence * decode_sequences
            + self.per_kv_token * kv_tokens
        )


def check_fits(profile: EngineProfile, request: EngineRequest) -> None:
    """Raises ``ValueError`` for a request that the whole KV cache could not hold: it would wait for ever."""
    tokens = request.prompt_tokens + request.output_tokens
    if tokens > profile.kv_capacity_tokens:
        raise ValueError(
            f"request {request.request_id} needs {tokens} tokens of KV cache, {profile.name} has "
            f"{profile.kv_capacity_tokens} in all"
        )
