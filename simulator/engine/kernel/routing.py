"""Requests that come, by way of a router, and requests that are dropped."""

from __future__ import annotations

from simulator.engine.compiled import inner
from simulator.engine.kernel.blocks import find_prefix, give_blocks_up, leave_decoding
from simulator.engine.kernel.planning import cut_at_next_arrival, end_of, next_start
from simulator.engine.kernel.queues import heap_remove, push_last, unlink
from simulator.engine.kernel.running import end_runs, release_slot, skip_ended
from simulator.engine.layout import (
    FRONT_END,
    LOAD,
    NEVER,
    NOBODY,
    PREFILLED,
    PREFIX_AFFINE,
    ROUND_ROBIN,
    WAITING,
    Integers,
    Record,
    State,
)


@inner
def choose(state: State, arrival: Record) -> int:
    """The endpoint that takes a request; ``NOBODY`` if its pool has none."""
    pool = state.pools[arrival.pool]
    if pool.endpoints == 0:
        return NOBODY
    endpoints = state.endpoints[arrival.pool]
    if pool.rule == ROUND_ROBIN:
        pool.cursor += 1
        return int(endpoints[(pool.cursor - 1) % pool.endpoints])
    chosen = least_loaded(state, endpoints, pool.endpoints, arrival.at)
    if pool.rule == PREFIX_AFFINE and arrival.group != NOBODY:
        group = state.groups[arrival.group]
        least = state.load[chosen] // LOAD
        most = least + max(pool.slack, least // 2)
        for index in range(pool.endpoints):
            if endpoints[index] == group.affine and state.load[group.affine] // LOAD <= most:
                chosen = int(group.affine)
        group.affine = chosen
    state.fleet[0].routed += 1
    state.load[chosen] = state.load[chosen] // LOAD * LOAD + state.fleet[0].routed
    return chosen


@inner
def least_loaded(state: State, endpoints: Integers, count: int, at: int) -> int:
    """The fewest requests in flight at tick ``at``, the least recently chosen among equals."""
    best, least = NOBODY, NEVER
    for index in range(count):
        r = int(endpoints[index])
        if state.changes_at[r] <= at:
            end_runs(state, r, at)
        if state.load[r] < least:
            best, least = r, state.load[r]
    return best


@inner
def receive(state: State, r: int, arrival: Record) -> None:
    """A request reaches the front end of replica ``r``, which is advanced to its arrival."""
    replica, queues, slots, fleet = state.replicas[r], state.queues[r], state.slots, state.fleet[0]
    end_runs(state, r, arrival.at)
    if replica.front_end_per_token > 0:
        skip_ended(state, r, arrival.at)
    slot = fleet.free_slot
    sequence = slots[slot]
    fleet.free_slot = sequence.next
    fleet.in_flight += 1
    replica.front_end_free_at = max(replica.front_end_free_at, arrival.at) + replica.front_end_per_request
    sequence.request = arrival.request
    sequence.replica = r
    sequence.order = replica.received
    sequence.arrival_at = arrival.at
    sequence.queued_at = replica.front_end_free_at
    sequence.prompt_tokens = arrival.prompt_tokens
    sequence.output_tokens = arrival.output_tokens
    sequence.given_cached_tokens = arrival.cached_tokens
    sequence.prefix_tokens = arrival.prefix_tokens
    sequence.prefix = NOBODY if arrival.group == NOBODY else find_prefix(state, r, arrival.group)
    sequence.generated = 0
    sequence.preemptions = 0
    replica.received += 1
    state.load[r] += LOAD
    push_last(queues[FRONT_END], slots, slot)
    if replica.run_length > 0:
        cut_at_next_arrival(replica, queues, slots, arrival.at)
        state.changes_at[r] = end_of(replica, replica.run_length)
    else:
        state.changes_at[r] = next_start(replica, queues, slots)


@inner
def fits(replica: Record, arrival: Record) -> bool:
    """Whether the whole KV cache could hold a request: it would wait for ever otherwise."""
    return bool(arrival.prompt_tokens + arrival.output_tokens <= replica.num_blocks * replica.block_size)


@inner
def refuse(state: State, r: int, arrival: Record) -> None:
    fleet = state.fleet[0]
    told = state.refusals[fleet.refusals]
    fleet.refusals += 1
    told.request = arrival.request
    told.replica = r
    told.at = arrival.at


@inner
def drop(state: State, slot: int) -> None:
    """A request in flight is dropped, at the tick to which its replica was advanced last."""
    r = state.slots[slot].replica
    replica, queues, slots, heap = state.replicas[r], state.queues[r], state.slots, state.decoding[r]
    sequence = slots[slot]
    if replica.partial == slot:
        replica.partial = NOBODY
        give_blocks_up(state, replica, sequence, sequence.blocks)
    elif unlink(queues[PREFILLED], slots, slot):
        give_blocks_up(state, replica, sequence, sequence.blocks)
    elif not (unlink(queues[WAITING], slots, slot) or unlink(queues[FRONT_END], slots, slot)):
        index = 0
        while heap[index].slot != slot:
            index += 1
        heap_remove(heap, slots, replica.decoding, index)
        if replica.run_length > 0 and sequence.phase == replica.phase:
            # It has taken the block for the iteration in progress already, which decode() will not count any more.
            replica.freed_blocks += 1
        leave_decoding(state, r, slot)
    if replica.run_length > 0:
        replica.run_length = 1
        state.changes_at[r] = end_of(replica, 1)
    else:
        state.changes_at[r] = next_start(replica, queues, slots)
    replica.aborted += 1
    release_slot(state, r, slot)
