"""The KV cache: the blocks that sequences take and give up, and what stays of shared prefixes (see
``prefix_cache``)."""

from __future__ import annotations

from simulator.engine.compiled import inner
from simulator.engine.kernel.queues import heap_push
from simulator.engine.layout import NOBODY, Integers, Record, State


@inner
def blocks_for(replica: Record, tokens: int) -> int:
    blocks: int = (tokens + replica.block_size - 1) // replica.block_size
    return blocks


@inner
def blocks_wanted(replica: Record, block_wanted: Integers) -> int:
    """Blocks that the decoding sequences take in the iteration at the present clock."""
    wanted: int = block_wanted[replica.phase]
    return wanted


@inner
def growth_over(replica: Record, block_wanted: Integers, iterations: int) -> int:
    """Blocks that the decoding sequences take in the next ``iterations``."""
    block_size = replica.block_size
    rounds = iterations // block_size
    growth: int = rounds * replica.decoding
    phase = replica.phase
    for _ in range(iterations - rounds * block_size):
        growth += block_wanted[phase]
        phase += 1
        if phase == block_size:
            phase = 0
    return growth


@inner
def give_blocks_up(state: State, replica: Record, sequence: Record, blocks: int) -> None:
    """``PrefixCache.leave``."""
    replica.free_blocks += blocks
    replica.freed_blocks += blocks
    if sequence.prefix != NOBODY:
        prefix = state.prefixes[sequence.prefix]
        prefix.users -= 1
        prefix.freed_before = replica.freed_blocks


@inner
def enter_decoding(state: State, r: int, slot: int) -> None:
    replica, sequence = state.replicas[r], state.slots[slot]
    sequence.offset = sequence.computed - replica.clock
    sequence.finish_clock = replica.clock + sequence.output_tokens - sequence.generated
    heap_push(state.decoding[r], state.slots, replica.decoding, slot)
    replica.decoding += 1
    replica.kv_tokens += sequence.computed
    sequence.phase = -sequence.offset % replica.block_size
    state.block_wanted[r, sequence.phase] += 1


@inner
def leave_decoding(state: State, r: int, slot: int) -> None:
    """A sequence that is out of the heap already gives up its blocks: finished, preempted or aborted."""
    replica, sequence = state.replicas[r], state.slots[slot]
    context = sequence.offset + replica.clock
    sequence.generated = sequence.output_tokens - (sequence.finish_clock - replica.clock)
    replica.decoding -= 1
    replica.kv_tokens -= context
    state.block_wanted[r, sequence.phase] -= 1
    fill_prefix(state, replica, sequence, context)
    give_blocks_up(state, replica, sequence, blocks_for(replica, context))


# Shared prefixes.


@inner
def find_prefix(state: State, r: int, group: int) -> int:
    """The index of what replica ``r`` holds of the group's prefix; made if there is nothing.

    What an ended replica held is taken over: there are never more than the replicas that the group was ever on.
    """
    started = state.replicas[r].started
    index = state.groups[group].first
    while index != NOBODY:
        prefix = state.prefixes[index]
        if prefix.replica == r:
            if prefix.started != started:
                prefix.started = started
                prefix.blocks = 0
                prefix.users = 0
            return int(index)
        index = prefix.next
    index = state.fleet[0].prefixes
    state.fleet[0].prefixes += 1
    prefix = state.prefixes[index]
    prefix.replica = r
    prefix.started = started
    prefix.blocks = 0
    prefix.users = 0
    prefix.freed_before = 0
    prefix.next = state.groups[group].first
    state.groups[group].first = index
    return int(index)


@inner
def enter_prefix(state: State, replica: Record, sequence: Record, known_tokens: int, free_blocks: int) -> int:
    """``PrefixCache.enter``."""
    if sequence.prefix == NOBODY:
        return int(sequence.given_cached_tokens)
    prefix = state.prefixes[sequence.prefix]
    if prefix.users == 0:
        prefix.blocks = max(0, min(prefix.blocks, free_blocks - (replica.freed_blocks - prefix.freed_before)))
    prefix.users += 1
    shared_blocks = min(sequence.prefix_tokens, known_tokens - 1) // replica.block_size
    return int(max(sequence.given_cached_tokens, min(prefix.blocks, shared_blocks) * replica.block_size))


@inner
def fill_prefix(state: State, replica: Record, sequence: Record, computed_tokens: int) -> None:
    """``PrefixCache.fill``."""
    if sequence.prefix != NOBODY:
        prefix = state.prefixes[sequence.prefix]
        prefix.blocks = max(prefix.blocks, computed_tokens // replica.block_size)
