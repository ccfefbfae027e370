"""What the iteration that starts now does, and how many like it follow."""

from __future__ import annotations

import math

from simulator.engine.compiled import inner
from simulator.engine.kernel.blocks import (
    blocks_for,
    blocks_wanted,
    enter_prefix,
    fill_prefix,
    give_blocks_up,
    growth_over,
    leave_decoding,
)
from simulator.engine.kernel.queues import heap_remove, pop_first, push_first, push_last
from simulator.engine.layout import FRONT_END, NEVER, NOBODY, PREFILLED, WAITING, Integers, Record, Records, State

# The run in progress.


@inner
def end_of(replica: Record, iterations: int) -> int:
    """The tick at which so many iterations of the run in progress have ended."""
    end: int = (
        replica.run_started_at
        + iterations * replica.run_first
        + replica.run_growth * ((iterations * (iterations - 1)) >> 1)
    )
    return end


@inner
def iterations_ended_by(replica: Record, limit: int) -> int:
    """How many iterations of the run end at or before ``limit``, which its end is not: the root of a parabola, then
    exact."""
    gap = limit - replica.run_started_at
    if gap < replica.run_first:
        return 0
    half_growth = 0.5 * replica.run_growth
    linear = replica.run_first - half_growth
    ended = int(2.0 * gap / (linear + math.sqrt(linear * linear + 4.0 * half_growth * gap)))
    while end_of(replica, ended + 1) <= limit:
        ended += 1
    while end_of(replica, ended) > limit:
        ended -= 1
    return ended


@inner
def cut_at_next_arrival(replica: Record, queues: Records, slots: Records, now: int) -> None:
    """End the run with the iteration in progress when the next request reaches the scheduler.

    Not if others wait already: they could not be admitted, so it cannot be before them. The iteration that began at
    tick ``now`` goes on without a request that came to the scheduler at that very tick, but not before.
    """
    front_end = queues[FRONT_END]
    if replica.run_length <= 1 or front_end.length == 0 or queues[WAITING].length > 0:
        return
    before = max(slots[front_end.first].queued_at - 1, now)
    if end_of(replica, replica.run_length) > before:
        replica.run_length = min(replica.run_length, iterations_ended_by(replica, before) + 1)


# The next iteration.


@inner
def next_start(replica: Record, queues: Records, slots: Records) -> int:
    """When the next iteration starts if none is in progress; ``NEVER`` if there is nothing to do."""
    if replica.decoding > 0 or replica.partial != NOBODY:
        return int(replica.free_at)
    upcoming = queues[WAITING] if queues[WAITING].length > 0 else queues[FRONT_END]
    if upcoming.length == 0:
        return NEVER
    queued_at = int(slots[upcoming.first].queued_at)
    return int(replica.free_at) if queued_at <= replica.free_at else queued_at + int(replica.wakeup_latency)


@inner
def see_arrivals(queues: Records, slots: Records, until: int) -> None:
    """Let the scheduler see what the front end has passed on by ``until``."""
    front_end = queues[FRONT_END]
    while front_end.length > 0 and slots[front_end.first].queued_at <= until:
        push_last(queues[WAITING], slots, pop_first(front_end, slots))


@inner
def plan(state: State, r: int, start: int) -> None:
    replica, queues, slots = state.replicas[r], state.queues[r], state.slots
    block_wanted = state.block_wanted[r]
    see_arrivals(queues, slots, start)
    preempted = make_room(state, r)
    prefill_tokens = 0
    if replica.partial != NOBODY:
        slot = replica.partial
        prefill_tokens, blocks = next_chunk(replica, slots, replica.decoding)
        prefill(state, r, slot, prefill_tokens, blocks)
    if not preempted and replica.partial == NOBODY and queues[WAITING].length > 0:
        prefill_tokens += admit(state, r, start, prefill_tokens)
    replica.run_started_at = start
    replica.run_first = (
        replica.base
        + replica.per_prefill_token * prefill_tokens
        + replica.per_decode_sequence * replica.decoding
        + replica.per_kv_token * replica.kv_tokens
    )
    replica.run_growth = replica.per_kv_token * replica.decoding
    replica.run_length = 1
    if not preempted and prefill_tokens == 0:
        replica.run_length = iterations_alike(replica, state.decoding[r], block_wanted)
        cut_at_next_arrival(replica, queues, slots, start)


@inner
def make_room(state: State, r: int) -> bool:
    """Preempt the latest arrived until the others find their blocks; whether any was.

    The reference preempts while it goes through the sequences in order. As only the last is ever taken, it ends
    with the fewest taken from the end that leave enough for the rest, which is what this finds.
    """
    replica, slots = state.replicas[r], state.slots
    preempted = False
    while True:
        wanted = blocks_wanted(replica, state.block_wanted[r])
        if replica.partial != NOBODY:
            wanted += next_chunk(replica, slots, replica.decoding)[1]
        if wanted <= replica.free_blocks:
            return preempted
        preempt_latest(state, r)
        preempted = True


@inner
def preempt_latest(state: State, r: int) -> None:
    replica, slots, heap = state.replicas[r], state.slots, state.decoding[r]
    slot = replica.partial
    if slot != NOBODY:
        replica.partial = NOBODY
        give_blocks_up(state, replica, slots[slot], slots[slot].blocks)
    else:
        latest = 0
        for index in range(1, replica.decoding):
            if slots[heap[index].slot].order > slots[heap[latest].slot].order:
                latest = index
        slot = heap[latest].slot
        heap_remove(heap, slots, replica.decoding, latest)
        leave_decoding(state, r, slot)
    slots[slot].preemptions += 1
    replica.preemptions += 1
    push_first(state.queues[r][WAITING], slots, slot)


@inner
def next_chunk(replica: Record, slots: Records, decoding: int) -> tuple[int, int]:
    """Tokens and new blocks of the next chunk of the prompt in progress, beside ``decoding`` sequences."""
    sequence = slots[replica.partial]
    tokens = min(sequence.prefill_target - sequence.computed, replica.max_num_batched_tokens - decoding)
    return tokens, blocks_for(replica, sequence.computed + tokens) - sequence.blocks


@inner
def prefill(state: State, r: int, slot: int, tokens: int, blocks: int) -> None:
    replica, sequence = state.replicas[r], state.slots[slot]
    sequence.computed += tokens
    sequence.blocks += blocks
    replica.free_blocks -= blocks
    fill_prefix(state, replica, sequence, sequence.computed)
    if sequence.computed == sequence.prefill_target:
        push_last(state.queues[r][PREFILLED], state.slots, slot)
        replica.partial = NOBODY
    else:
        replica.partial = slot


@inner
def admit(state: State, r: int, start: int, spent: int) -> int:
    """Admit waiting sequences in order, while the rules allow; how many tokens of them are computed."""
    replica, queues, slots = state.replicas[r], state.queues[r], state.slots
    wanted = blocks_wanted(replica, state.block_wanted[r])
    budget = replica.max_num_batched_tokens - replica.decoding - spent
    room = replica.max_num_seqs - replica.decoding - queues[PREFILLED].length
    granted = 0
    while queues[WAITING].length > 0 and granted < budget and room > 0:
        slot = queues[WAITING].first
        sequence = slots[slot]
        known_tokens = sequence.prompt_tokens + sequence.generated
        free_blocks = replica.free_blocks - wanted
        if blocks_for(replica, known_tokens) > free_blocks:
            break
        pop_first(queues[WAITING], slots)
        sequence.cached_tokens = enter_prefix(state, replica, sequence, known_tokens, free_blocks)
        sequence.computed = sequence.cached_tokens
        sequence.prefill_target = known_tokens
        sequence.blocks = 0
        if sequence.preemptions == 0:
            sequence.first_scheduled_at = start
        tokens = min(known_tokens - sequence.computed, budget - granted)
        prefill(state, r, slot, tokens, blocks_for(replica, sequence.computed + tokens))
        granted += tokens
        room -= 1
    return granted


@inner
def iterations_alike(replica: Record, heap: Records, block_wanted: Integers) -> int:
    """Iterations until one finishes a sequence or the next finds too few blocks; at least 1."""
    length: int = heap[0].finish_clock - replica.clock
    most = (length // replica.block_size + 1) * replica.decoding
    if most <= replica.free_blocks or growth_over(replica, block_wanted, length) <= replica.free_blocks:
        return length
    fits, too_long = 1, length
    while too_long - fits > 1:
        middle = (fits + too_long) >> 1
        if growth_over(replica, block_wanted, middle) <= replica.free_blocks:
            fits = middle
        else:
            too_long = middle
    return fits
