"""Carrying out what was planned, up to the tick at which somebody looks."""

from __future__ import annotations

from simulator.engine.compiled import called, inner
from simulator.engine.kernel.blocks import enter_decoding, give_blocks_up, growth_over, leave_decoding
from simulator.engine.kernel.planning import end_of, iterations_ended_by, next_start, plan, see_arrivals
from simulator.engine.kernel.queues import heap_remove, pop_first
from simulator.engine.layout import LOAD, NOBODY, PREFILLED, Integers, Record, State


@inner
def advance(state: State, r: int, limit: int) -> None:
    """Leave replica ``r`` as it is at tick ``limit``: what ends by then has ended, what begins by then has begun."""
    end_runs(state, r, limit)
    skip_ended(state, r, limit)
    see_arrivals(state.queues[r], state.slots, limit)


@called
def end_runs(state: State, r: int, limit: int) -> None:
    """Carry out and plan runs until the one in progress ends after ``limit``: requests are as they are then, and
    ``changes_at`` is known. The run in progress is still told from its start."""
    replica, queues, slots = state.replicas[r], state.queues[r], state.slots
    while True:
        if replica.run_length == 0:
            start = next_start(replica, queues, slots)
            if start > limit:
                state.changes_at[r] = start
                return
            plan(state, r, start)
        length = replica.run_length
        ends_at = end_of(replica, length)
        if ends_at > limit:
            state.changes_at[r] = ends_at
            return
        decode(replica, state.block_wanted[r], length)
        replica.busy += ends_at - replica.run_started_at
        replica.run_length = 0
        replica.free_at = ends_at
        finish(state, r, ends_at, length)


@inner
def skip_ended(state: State, r: int, limit: int) -> None:
    """Count the iterations of the run in progress that have ended by ``limit``, and go on with the rest."""
    replica = state.replicas[r]
    if replica.run_length <= 1:
        return
    ended = iterations_ended_by(replica, limit)
    if ended == 0:
        return
    ended_at = end_of(replica, ended)
    decode(replica, state.block_wanted[r], ended)
    stream(replica, ended, replica.decoding, ended_at)
    replica.busy += ended_at - replica.run_started_at
    replica.run_started_at = ended_at
    replica.run_first += replica.run_growth * ended
    replica.run_length -= ended


@inner
def decode(replica: Record, block_wanted: Integers, iterations: int) -> None:
    tokens = replica.decoding * iterations
    replica.free_blocks -= growth_over(replica, block_wanted, iterations)
    replica.kv_tokens += tokens
    replica.clock += iterations
    replica.phase = (replica.phase + iterations) % replica.block_size
    replica.generation_tokens += tokens


@inner
def stream(replica: Record, iterations: int, tokens: int, ended_at: int) -> None:
    """Let the tokens of the run's next ``iterations``, ``tokens`` each, through the front end.

    Each iteration's wait for those before it and for its own end: ``free = max(free, end) + work``. The ends draw
    apart with time, so that of all ``end + work of what follows`` the first or the last is the largest.
    """
    work = replica.front_end_per_token * tokens
    if work == 0:
        return
    first_end = replica.run_started_at + replica.run_first
    replica.front_end_free_at = max(
        max(replica.front_end_free_at, first_end) + iterations * work,
        ended_at + work,
    )


@inner
def finish(state: State, r: int, at: int, iterations: int) -> None:
    """The run's last iteration ends: tokens come out, sequences that have all theirs leave."""
    replica, slots, heap = state.replicas[r], state.slots, state.decoding[r]
    prefilled = state.queues[r][PREFILLED]
    stream(replica, iterations, replica.decoding + prefilled.length, at)
    while replica.decoding > 0 and heap[0].finish_clock <= replica.clock:
        slot = heap[0].slot
        heap_remove(heap, slots, replica.decoding, 0)
        leave_decoding(state, r, slot)
        complete(state, r, slot, at)
    replica.generation_tokens += prefilled.length
    while prefilled.length > 0:
        slot = pop_first(prefilled, slots)
        sequence = slots[slot]
        sequence.generated += 1
        if sequence.generated == 1:
            tell_first_token(state, r, slot, at)
        if sequence.generated == sequence.output_tokens:
            give_blocks_up(state, replica, sequence, sequence.blocks)
            complete(state, r, slot, at)
        else:
            enter_decoding(state, r, slot)


@inner
def tell_first_token(state: State, r: int, slot: int, at: int) -> None:
    replica, sequence, fleet = state.replicas[r], state.slots[slot], state.fleet[0]
    sequence.first_token_at = at
    replica.prompt_tokens += sequence.prompt_tokens
    replica.cached_tokens += sequence.cached_tokens
    told = state.first_tokens[fleet.first_tokens]
    fleet.first_tokens += 1
    told.request = sequence.request
    told.replica = r
    told.at = at
    told.order = sequence.order


@inner
def complete(state: State, r: int, slot: int, at: int) -> None:
    replica, sequence, fleet = state.replicas[r], state.slots[slot], state.fleet[0]
    replica.finished += 1
    told = state.completions[fleet.completions]
    fleet.completions += 1
    told.request = sequence.request
    told.replica = r
    told.arrival_at = sequence.arrival_at
    told.queued_at = sequence.queued_at
    told.first_scheduled_at = sequence.first_scheduled_at
    told.first_token_at = sequence.first_token_at
    told.at = at
    told.preemptions = sequence.preemptions
    told.cached_tokens = sequence.cached_tokens
    told.output_tokens = sequence.output_tokens
    told.order = sequence.order
    release_slot(state, r, slot)


@inner
def release_slot(state: State, r: int, slot: int) -> None:
    fleet = state.fleet[0]
    state.slots[slot].replica = NOBODY
    state.slots[slot].next = fleet.free_slot
    fleet.free_slot = slot
    fleet.in_flight -= 1
    state.load[r] -= LOAD
