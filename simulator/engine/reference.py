"""The definition of the engine: one iteration after the other, one sequence after the other.

After vLLM's V1 scheduler. Each iteration is made up at its start, of what the scheduler knows then:

1. The running sequences, in order of arrival, get their next tokens: a decoding one a single token, one whose prompt
   is not done the next chunk of it, all within ``max_num_batched_tokens``. A sequence that finds no block for its
   tokens takes the blocks of the latest arrived, which is preempted: it loses what was computed and goes back to the
   head of the queue (recompute). That may be the sequence itself.
2. Unless something was preempted, waiting sequences are admitted in order while ``max_num_seqs``, the token budget
   and the blocks allow. The whole of what is to be computed must fit into the free blocks, not only its first chunk
   (vLLM's ``scheduler_reserve_full_isl``, on by default). What the prefix cache holds of the prompt is not computed
   again, but takes blocks of its own.

The iterations of an engine that has something to do follow each other at once. One that has not sleeps, and begins
``wakeup_latency_s`` after the scheduler's queue got a request; what else gets there meanwhile is in that iteration.

When the iteration ends each sequence whose known tokens are all computed gets one token more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from simulator.engine.prefix_cache import PrefixCache
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import (
    EngineCounters,
    EngineEvent,
    EngineRequest,
    Finished,
    FirstToken,
    FrontEnd,
    Iteration,
    IterationCost,
    check_fits,
)
from simulator.engine.ticks import END_OF_TIME, TICKS_PER_S, last_tick, to_seconds


@dataclass(slots=True, eq=False)
class _Sequence:
    request: EngineRequest
    queued_at: int
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    cached: int = 0
    prefill_target: int = 0
    scheduled: int = 0
    preemptions: int = 0
    first_scheduled_at: float = 0.0
    first_token_at: float = 0.0

    @property
    def known_tokens(self) -> int:
        return self.request.prompt_tokens + self.generated

    @property
    def decoding(self) -> bool:
        return self.computed >= self.prefill_target


@dataclass(slots=True)
class _Batch:
    started_at: int
    ends_at: int = 0
    prefill_tokens: int = 0
    sequences: list[_Sequence] = field(default_factory=list)


class ReferenceEngine:
    """See ``Engine`` for the contract; ``iterations`` gives the tokens one by one as well."""

    def __init__(self, profile: EngineProfile) -> None:
        self.counters = EngineCounters()
        self._profile = profile
        self._cost = IterationCost(profile)
        self._front_end = FrontEnd(profile)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._free_blocks = profile.num_blocks
        self._prefixes = PrefixCache(profile.block_size)
        self._batch: _Batch | None = None
        self._wakeup_latency = round(profile.wakeup_latency_s * TICKS_PER_S)
        self._free_at = -END_OF_TIME

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_use(self) -> float:
        """Share of the blocks that are held, 0 to 1."""
        return 1 - self._free_blocks / self._profile.num_blocks

    def add(self, request: EngineRequest) -> None:
        """Take a request in at ``arrival_at``, not before the last ``advance``.

        Raises ``ValueError`` if the KV cache can never hold it.
        """
        check_fits(self._profile, request)
        self._front_end.add(request)

    def abort(self, request_id: str) -> bool:
        """Drop a request now; False if there is none (already finished is success).

        The iteration in progress lasts as long as it was going to.
        """
        for sequence in self._running:
            if sequence.request.request_id == request_id:
                self._running.remove(sequence)
                self._leave(sequence)
                if self._batch is not None and sequence in self._batch.sequences:
                    self._batch.sequences.remove(sequence)
                break
        else:
            for sequence in self._waiting:
                if sequence.request.request_id == request_id:
                    self._waiting.remove(sequence)
                    break
            else:
                if not self._front_end.remove(request_id):
                    return False
        self.counters.aborted += 1
        return True

    def next_event_at(self) -> float | None:
        """When the iteration in progress ends, or the next one starts; None if there is nothing to do."""
        at = self._batch.ends_at if self._batch is not None else self._next_start()
        return None if at is None else to_seconds(at)

    def advance(self, until: float) -> list[EngineEvent]:
        return [event for iteration in self.iterations(until) for event in iteration.events]

    def iterations(self, until: float) -> list[Iteration]:
        """Advance to ``until``; every iteration that ended by then."""
        limit = last_tick(until)
        ended = []
        while True:
            if self._batch is None:
                start = self._next_start()
                if start is None or start > limit:
                    break
                self._batch = self._schedule(start)
            if self._batch.ends_at > limit:
                break
            ended.append(self._finish(self._batch))
            self._free_at = self._batch.ends_at
            self._batch = None
        self._see_arrivals(limit)
        return ended

    def _next_start(self) -> int | None:
        if self._running:
            return self._free_at
        queued_at = self._waiting[0].queued_at if self._waiting else self._front_end.next_ready_at
        if queued_at is None:
            return None
        return self._free_at if queued_at <= self._free_at else queued_at + self._wakeup_latency

    def _see_arrivals(self, until: int) -> None:
        for ready_at, request in self._front_end.release(until):
            self._waiting.append(_Sequence(request, ready_at))

    def _schedule(self, start: int) -> _Batch:
        self._see_arrivals(start)
        batch = _Batch(start)
        if not self._schedule_running(batch):
            self._admit(batch)
        decoding = [sequence for sequence in batch.sequences if sequence.decoding]
        kv_tokens = sum(sequence.computed for sequence in decoding)
        batch.ends_at = start + self._cost.ticks(batch.prefill_tokens, len(decoding), kv_tokens)
        return batch

    def _schedule_running(self, batch: _Batch) -> bool:
        """Give each running sequence its tokens, in order; whether any had to be preempted."""
        budget = self._profile.max_num_batched_tokens
        preempted = False
        position = 0
        while position < len(self._running):
            sequence = self._running[position]
            tokens = min(sequence.known_tokens - sequence.computed, budget)
            while not self._take_blocks(sequence, tokens):
                latest = self._running.pop()
                self._preempt(latest)
                preempted = True
                if latest is sequence:
                    return preempted
            self._put_into(batch, sequence, tokens)
            budget -= tokens
            position += 1
        return preempted

    def _admit(self, batch: _Batch) -> None:
        budget = self._profile.max_num_batched_tokens - sum(sequence.scheduled for sequence in batch.sequences)
        while self._waiting and budget > 0 and len(self._running) < self._profile.max_num_seqs:
            sequence = self._waiting[0]
            if self._profile.blocks_for(sequence.known_tokens) > self._free_blocks:
                return
            self._running.append(self._waiting.popleft())
            sequence.cached = sequence.computed = self._prefixes.enter(
                sequence.request, sequence.known_tokens, self._free_blocks
            )
            sequence.prefill_target = sequence.known_tokens
            if not sequence.preemptions:
                sequence.first_scheduled_at = to_seconds(batch.started_at)
            tokens = min(sequence.prefill_target - sequence.computed, budget)
            self._take_blocks(sequence, tokens)
            self._put_into(batch, sequence, tokens)
            budget -= tokens

    def _put_into(self, batch: _Batch, sequence: _Sequence, tokens: int) -> None:
        sequence.scheduled = tokens
        batch.sequences.append(sequence)
        if not sequence.decoding:
            batch.prefill_tokens += tokens
            self._prefixes.fill(sequence.request, sequence.computed + tokens)

    def _take_blocks(self, sequence: _Sequence, tokens: int) -> bool:
        needed = self._profile.blocks_for(sequence.computed + tokens) - sequence.blocks
        if needed > self._free_blocks:
            return False
        sequence.blocks += needed
        self._free_blocks -= needed
        return True

    def _leave(self, sequence: _Sequence) -> None:
        """Give back what a sequence holds: finished, preempted or aborted."""
        self._free_blocks += sequence.blocks
        self._prefixes.leave(sequence.request, sequence.blocks, sequence.computed)
        sequence.blocks = 0

    def _preempt(self, sequence: _Sequence) -> None:
        self._leave(sequence)
        sequence.computed = 0
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self._waiting.appendleft(sequence)

    def _finish(self, batch: _Batch) -> Iteration:
        ended_at = to_seconds(batch.ends_at)
        emitted = []
        events: list[EngineEvent] = []
        for sequence in batch.sequences:
            sequence.computed += sequence.scheduled
            if sequence.computed == sequence.known_tokens:
                emitted.append(sequence.request.request_id)
                events.extend(self._emit(sequence, ended_at))
        self._front_end.stream(len(emitted), batch.ends_at)
        return Iteration(to_seconds(batch.started_at), ended_at, batch.prefill_tokens, tuple(emitted), tuple(events))

    def _emit(self, sequence: _Sequence, at: float) -> list[EngineEvent]:
        request = sequence.request
        events: list[EngineEvent] = []
        sequence.generated += 1
        self.counters.generation_tokens += 1
        if sequence.generated == 1:
            sequence.first_token_at = at
            self.counters.prompt_tokens += request.prompt_tokens
            self.counters.cached_tokens += sequence.cached
            events.append(FirstToken(request.request_id, at))
        if sequence.generated == request.output_tokens:
            self._running.remove(sequence)
            self._leave(sequence)
            self.counters.finished += 1
            events.append(
                Finished(
                    request.request_id,
                    at,
                    to_seconds(sequence.queued_at),
                    sequence.first_scheduled_at,
                    sequence.first_token_at,
                    sequence.preemptions,
                    sequence.cached,
                )
            )
        return events
