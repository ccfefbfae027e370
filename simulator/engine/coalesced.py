"""The same engine as ``reference``, computed over runs of iterations at once.

While nothing is prefilled, admitted, preempted or finished, each iteration decodes the same sequences: it lasts a
constant longer than the one before (the KV tokens grow by one per sequence), and the blocks it takes follow from how
many sequences are at which position in their last block. Such a run of k iterations is one closed form; about three
steps per request remain. Times are whole ticks, so the results are equal to the reference's, not nearly equal.

The decode clock counts iterations. A decoding sequence is described by the clock at which it finishes and by its
offset (tokens in cache minus clock); neither changes while it decodes, so an iteration touches no sequence.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from simulator.engine.profile import EngineProfile
from simulator.engine.requests import (
    EngineCounters,
    EngineEvent,
    EngineRequest,
    Finished,
    FirstToken,
    FrontEnd,
    IterationCost,
    check_fits,
    last_tick,
    to_seconds,
)


@dataclass(slots=True, eq=False)
class _Sequence:
    """``computed``, ``blocks`` hold while it is prefilled; ``offset``, ``finish_clock`` while it decodes."""

    request: EngineRequest
    order: int
    queued_at: float
    generated: int = 0
    computed: int = 0
    prefill_target: int = 0
    blocks: int = 0
    offset: int = 0
    finish_clock: int = 0
    spell: int = 0
    preemptions: int = 0
    first_scheduled_at: float = 0.0
    first_token_at: float = 0.0


@dataclass(slots=True)
class _Run:
    """``length`` iterations from ``started_at``; the first lasts ``first`` ticks, each later one ``growth`` more."""

    started_at: int
    first: int
    growth: int
    length: int
    prefilled: list[_Sequence] = field(default_factory=list)

    def end_of(self, iterations: int) -> int:
        return self.started_at + iterations * self.first + self.growth * (iterations * (iterations - 1) // 2)

    def iterations_ended_by(self, limit: int) -> int:
        """How many iterations end at or before ``limit``: the root of a parabola, then exact."""
        gap = limit - self.started_at
        if gap < self.first:
            return 0
        half_growth = self.growth / 2
        linear = self.first - half_growth
        ended = int(2 * gap / (linear + math.sqrt(linear * linear + 4 * half_growth * gap)))
        while self.end_of(ended + 1) <= limit:
            ended += 1
        while self.end_of(ended) > limit:
            ended -= 1
        return ended

    def skip(self, iterations: int) -> None:
        self.started_at = self.end_of(iterations)
        self.first += self.growth * iterations
        self.length -= iterations


class CoalescedEngine:
    """See ``Engine`` for the contract. ``next_event_at`` is the end of the run: no request's state changes before."""

    def __init__(self, profile: EngineProfile) -> None:
        self.counters = EngineCounters()
        self._profile = profile
        self._block_size = profile.block_size
        self._cost = IterationCost(profile)
        self._front_end = FrontEnd(profile)
        self._waiting: deque[_Sequence] = deque()
        self._added = 0
        self._decoding: dict[str, _Sequence] = {}
        self._partial: _Sequence | None = None
        self._run: _Run | None = None
        self._free_at = 0
        self._free_blocks = profile.num_blocks
        self._clock = 0
        self._kv_tokens = 0
        self._finishing: list[tuple[int, int, int, _Sequence]] = []
        self._block_wanted_at = [0] * profile.block_size

    @property
    def running(self) -> int:
        prefilled = len(self._run.prefilled) if self._run is not None else 0
        return len(self._decoding) + prefilled + (self._partial is not None)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_use(self) -> float:
        """Share of the blocks that are held, 0 to 1."""
        taken_now = self._blocks_wanted() if self._run is not None else 0
        return 1 - (self._free_blocks - taken_now) / self._profile.num_blocks

    def add(self, request: EngineRequest) -> None:
        """Take a request in at ``arrival_at``, not before the last ``advance``.

        Raises ``ValueError`` if the KV cache can never hold it.
        """
        check_fits(self._profile, request)
        self._front_end.add(request)
        if self._run is not None:
            self._cut_at_next_arrival(self._run)

    def abort(self, request_id: str) -> bool:
        """Drop a request now; False if there is none (already finished is success).

        The iteration in progress lasts as long as it was going to; what was planned after it is planned anew.
        """
        sequence = self._decoding.get(request_id)
        if sequence is not None:
            self._leave_decoding(sequence)
        elif not (self._drop_prefilling(request_id) or self._drop_waiting(request_id)):
            return False
        if self._run is not None:
            self._run.length = 1
        self.counters.aborted += 1
        return True

    def next_event_at(self) -> float | None:
        at = self._run.end_of(self._run.length) if self._run is not None else self._next_start()
        return None if at is None else to_seconds(at)

    def advance(self, until: float) -> list[EngineEvent]:
        limit = last_tick(until)
        events: list[EngineEvent] = []
        while True:
            if self._run is None:
                start = self._next_start()
                if start is None or start > limit:
                    break
                self._run = self._plan(start)
            run = self._run
            ends_at = run.end_of(run.length)
            if ends_at > limit:
                ended = run.iterations_ended_by(limit) if run.length > 1 else 0
                if ended:
                    self._front_end.stream_run(len(self._decoding), ended, run.end_of(1), run.end_of(ended))
                    self._decode(ended)
                    run.skip(ended)
                break
            emitted = len(self._decoding) + len(run.prefilled)  # a run that prefills has one iteration
            self._front_end.stream_run(emitted, run.length, run.end_of(1), ends_at)
            self._decode(run.length)
            self._run = None
            self._free_at = ends_at
            self._finish(run.prefilled, to_seconds(ends_at), events)
        self._see_arrivals(limit)
        return events

    # Planning: what the iteration that starts now does, and how many like it follow.

    def _next_start(self) -> int | None:
        if self._decoding or self._waiting or self._partial is not None:
            return self._free_at
        ready_at = self._front_end.next_ready_at
        return None if ready_at is None else max(ready_at, self._free_at)

    def _see_arrivals(self, until: int) -> None:
        for ready_at, request in self._front_end.release(until):
            self._waiting.append(_Sequence(request, self._added, to_seconds(ready_at)))
            self._added += 1

    def _plan(self, start: int) -> _Run:
        self._see_arrivals(start)
        preempted = self._make_room()
        prefilled: list[_Sequence] = []
        prefill_tokens = self._continue_prefill(prefilled)
        if not preempted and self._partial is None and self._waiting:
            prefill_tokens += self._admit(start, prefill_tokens, prefilled)
        decoding = len(self._decoding)
        run = _Run(
            start,
            self._cost.ticks(prefill_tokens, decoding, self._kv_tokens),
            self._cost.per_kv_token * decoding,
            1,
            prefilled,
        )
        if not preempted and not prefill_tokens:
            run.length = self._iterations_alike()
            self._cut_at_next_arrival(run)
        return run

    def _make_room(self) -> bool:
        """Preempt the latest arrived until the others find their blocks; whether any was.

        The reference preempts while it goes through the sequences in order. As only the last is ever taken, it ends
        with the fewest taken from the end that leave enough for the rest, which is what this finds.
        """
        if self._blocks_wanted() + self._next_chunk()[1] <= self._free_blocks:
            return False
        while self._blocks_wanted() + self._next_chunk()[1] > self._free_blocks:
            if self._partial is not None:
                latest, self._partial = self._partial, None
                self._free_blocks += latest.blocks
            else:
                latest = next(reversed(self._decoding.values()))
                self._leave_decoding(latest)
            latest.preemptions += 1
            self.counters.preemptions += 1
            self._waiting.appendleft(latest)
        return True

    def _blocks_wanted(self) -> int:
        """Blocks that the decoding sequences take in the iteration at the present clock."""
        return self._block_wanted_at[self._clock % self._block_size]

    def _next_chunk(self) -> tuple[int, int]:
        """Tokens and new blocks of the next chunk of the prompt in progress, (0, 0) if there is none."""
        sequence = self._partial
        if sequence is None:
            return 0, 0
        budget = self._profile.max_num_batched_tokens - len(self._decoding)
        tokens = min(sequence.prefill_target - sequence.computed, budget)
        return tokens, self._profile.blocks_for(sequence.computed + tokens) - sequence.blocks

    def _continue_prefill(self, prefilled: list[_Sequence]) -> int:
        sequence = self._partial
        if sequence is None:
            return 0
        tokens, blocks = self._next_chunk()
        self._prefill(sequence, tokens, blocks, prefilled)
        return tokens

    def _prefill(self, sequence: _Sequence, tokens: int, blocks: int, prefilled: list[_Sequence]) -> None:
        sequence.computed += tokens
        sequence.blocks += blocks
        self._free_blocks -= blocks
        if sequence.computed == sequence.prefill_target:
            prefilled.append(sequence)
            self._partial = None
        else:
            self._partial = sequence

    def _admit(self, start: int, spent: int, prefilled: list[_Sequence]) -> int:
        profile = self._profile
        budget = profile.max_num_batched_tokens - len(self._decoding) - spent
        granted = 0
        while (
            self._waiting
            and granted < budget
            and len(self._decoding) + len(prefilled) + (self._partial is not None) < profile.max_num_seqs
        ):
            sequence = self._waiting[0]
            known_tokens = sequence.request.prompt_tokens + sequence.generated
            if profile.blocks_for(known_tokens) > self._free_blocks - self._blocks_wanted():
                break
            self._waiting.popleft()
            sequence.computed = sequence.request.cached_tokens
            sequence.prefill_target = known_tokens
            sequence.blocks = 0
            if not sequence.preemptions:
                sequence.first_scheduled_at = to_seconds(start)
            tokens = min(known_tokens - sequence.computed, budget - granted)
            self._prefill(sequence, tokens, profile.blocks_for(sequence.computed + tokens), prefilled)
            granted += tokens
        return granted

    def _iterations_alike(self) -> int:
        """Iterations until one finishes a sequence or the next finds too few blocks; at least 1."""
        finishing = self._finishing
        while finishing[0][2] != finishing[0][3].spell:
            heapq.heappop(finishing)
        length = finishing[0][0] - self._clock
        return length if self._growth(length) <= self._free_blocks else self._longest_that_fits(length)

    def _growth(self, iterations: int) -> int:
        """Blocks that the decoding sequences take in the next ``iterations``."""
        rounds, rest = divmod(iterations, self._block_size)
        first = self._clock % self._block_size
        wanted = self._block_wanted_at
        grown = rounds * len(self._decoding) + sum(wanted[first : first + rest])
        overlap = first + rest - self._block_size
        return grown + sum(wanted[:overlap]) if overlap > 0 else grown

    def _longest_that_fits(self, length: int) -> int:
        """The most iterations, fewer than ``length``, whose blocks are free (bisection: growth never falls)."""
        fits, too_long = 1, length
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._growth(middle) <= self._free_blocks:
                fits = middle
            else:
                too_long = middle
        return fits

    def _cut_at_next_arrival(self, run: _Run) -> None:
        """End ``run`` with the iteration in progress when the next request reaches the scheduler.

        Not if others wait already: they could not be admitted, so it cannot be before them.
        """
        ready_at = self._front_end.next_ready_at
        if run.length > 1 and ready_at is not None and not self._waiting:
            run.length = min(run.length, run.iterations_ended_by(ready_at - 1) + 1)

    # Carrying out what was planned.

    def _decode(self, iterations: int) -> None:
        decoding = len(self._decoding)
        self._free_blocks -= self._growth(iterations)
        self._kv_tokens += decoding * iterations
        self._clock += iterations
        self.counters.generation_tokens += decoding * iterations

    def _finish(self, prefilled: list[_Sequence], at: float, events: list[EngineEvent]) -> None:
        finishing = self._finishing
        while finishing and finishing[0][0] <= self._clock:
            _, _, spell, sequence = heapq.heappop(finishing)
            if spell == sequence.spell:
                self._leave_decoding(sequence)
                events.append(self._finished(sequence, at))
        for sequence in prefilled:
            sequence.generated += 1
            self.counters.generation_tokens += 1
            if sequence.generated == 1:
                sequence.first_token_at = at
                self.counters.prompt_tokens += sequence.request.prompt_tokens
                self.counters.cached_tokens += sequence.request.cached_tokens
                events.append(FirstToken(sequence.request.request_id, at))
            if sequence.generated == sequence.request.output_tokens:
                self._free_blocks += sequence.blocks
                events.append(self._finished(sequence, at))
            else:
                self._enter_decoding(sequence)

    def _finished(self, sequence: _Sequence, at: float) -> Finished:
        self.counters.finished += 1
        return Finished(
            sequence.request.request_id,
            at,
            sequence.queued_at,
            sequence.first_scheduled_at,
            sequence.first_token_at,
            sequence.preemptions,
        )

    def _enter_decoding(self, sequence: _Sequence) -> None:
        sequence.offset = sequence.computed - self._clock
        sequence.finish_clock = self._clock + sequence.request.output_tokens - sequence.generated
        self._decoding[sequence.request.request_id] = sequence
        self._kv_tokens += sequence.computed
        self._block_wanted_at[-sequence.offset % self._block_size] += 1
        heapq.heappush(self._finishing, (sequence.finish_clock, sequence.order, sequence.spell, sequence))

    def _leave_decoding(self, sequence: _Sequence) -> None:
        """Take a sequence out, with its blocks: finished, preempted or aborted."""
        context = sequence.offset + self._clock
        del self._decoding[sequence.request.request_id]
        sequence.generated = sequence.request.output_tokens - (sequence.finish_clock - self._clock)
        sequence.spell += 1
        self._kv_tokens -= context
        self._block_wanted_at[-sequence.offset % self._block_size] -= 1
        self._free_blocks += self._profile.blocks_for(context)

    def _drop_prefilling(self, request_id: str) -> bool:
        prefilled = self._run.prefilled if self._run is not None else []
        for sequence in prefilled:
            if sequence.request.request_id == request_id:
                prefilled.remove(sequence)
                self._free_blocks += sequence.blocks
                return True
        if self._partial is not None and self._partial.request.request_id == request_id:
            self._free_blocks += self._partial.blocks
            self._partial = None
            return True
        return False

    def _drop_waiting(self, request_id: str) -> bool:
        for sequence in self._waiting:
            if sequence.request.request_id == request_id:
                self._waiting.remove(sequence)
                return True
        return self._front_end.remove(request_id)
