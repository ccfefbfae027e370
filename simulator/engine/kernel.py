"""The engine of ``reference``, compiled, computed over runs of iterations at once, for a whole fleet of replicas.

While nothing is prefilled, admitted, preempted or finished, each iteration decodes the same sequences: it lasts a
constant longer than the one before (the KV tokens grow by one per sequence), and the blocks it takes follow from how
many sequences are at which position in their last block. Such a run of k iterations is one closed form; about three
runs per request remain. Times are whole ticks, so the results are equal to the reference's, not nearly equal.

A replica's decode clock counts its iterations. A decoding sequence is described by the clock at which it finishes and
by its offset (tokens in cache minus clock); neither changes while it decodes, so an iteration touches no sequence.

Replicas are advanced one by one, only when somebody looks: ``advance(state, r, limit)`` leaves replica ``r`` as it is
at ``limit``, never later, so that what routing reads are the loads of that instant and not of an iteration's end that
is still to come. Until ``changes_at`` nothing ends, and nobody need look.

All of it is one module because numba would not see that its copy on disk is stale if a function elsewhere changed.
"""

from __future__ import annotations

import math

from simulator.engine.compiled import called, entry_point, inner
from simulator.engine.layout import FRONT_END, LOAD, PREFILLED, WAITING, Integers, Packed, Record, Records, State

NOBODY = -1
NEVER = 2**63 - 1
LEAST_LOADED, ROUND_ROBIN, PREFIX_AFFINE = 0, 1, 2

# -- queues of slots, linked through their ``next``


@inner
def push_last(queue: Record, slots: Records, slot: int) -> None:
    slots[slot].next = NOBODY
    if queue.length == 0:
        queue.first = slot
    else:
        slots[queue.last].next = slot
    queue.last = slot
    queue.length += 1


@inner
def push_first(queue: Record, slots: Records, slot: int) -> None:
    if queue.length == 0:
        queue.last = slot
    slots[slot].next = queue.first
    queue.first = slot
    queue.length += 1


@inner
def pop_first(queue: Record, slots: Records) -> int:
    slot: int = queue.first
    queue.first = slots[slot].next
    queue.length -= 1
    return slot


@inner
def unlink(queue: Record, slots: Records, wanted: int) -> bool:
    """Take one slot out, wherever it is; False if it is not in this queue."""
    before = NOBODY
    slot = queue.first
    for _ in range(queue.length):
        if slot == wanted:
            if before == NOBODY:
                queue.first = slots[slot].next
            else:
                slots[before].next = slots[slot].next
            if queue.last == slot:
                queue.last = before
            queue.length -= 1
            return True
        before = slot
        slot = slots[slot].next
    return False


# -- the heap of decoding sequences: first by finish clock, then in order of arrival


@inner
def finishes_before(slots: Records, a: Record, b: Record) -> bool:
    if a.finish_clock != b.finish_clock:
        return bool(a.finish_clock < b.finish_clock)
    return bool(slots[a.slot].order < slots[b.slot].order)


@inner
def move(heap: Records, source: int, target: int) -> None:
    heap[target].finish_clock = heap[source].finish_clock
    heap[target].slot = heap[source].slot


@inner
def heap_push(heap: Records, slots: Records, size: int, slot: int) -> None:
    """Put ``slot`` into a heap of ``size``; the entry behind the last is the one on its way to its place."""
    heap[size].finish_clock = slots[slot].finish_clock
    heap[size].slot = slot
    sift_up(heap, slots, size)


@inner
def sift_up(heap: Records, slots: Records, index: int) -> None:
    finish_clock, slot = heap[index].finish_clock, heap[index].slot
    order = slots[slot].order
    while index > 0:
        parent = (index - 1) >> 1
        above = heap[parent]
        if above.finish_clock < finish_clock:
            break
        if above.finish_clock == finish_clock and slots[above.slot].order < order:
            break
        move(heap, parent, index)
        index = parent
    heap[index].finish_clock = finish_clock
    heap[index].slot = slot


@inner
def heap_remove(heap: Records, slots: Records, size: int, index: int) -> None:
    """Take the entry at ``index`` out of a heap of ``size``: the last fills the gap, from the bottom up."""
    last = size - 1
    while True:
        child = 2 * index + 1
        if child >= last:
            break
        if child + 1 < last and finishes_before(slots, heap[child + 1], heap[child]):
            child += 1
        move(heap, child, index)
        index = child
    if index != last:
        move(heap, last, index)
        sift_up(heap, slots, index)


# -- runs of iterations


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
def cut_at_next_arrival(replica: Record, queues: Records, slots: Records) -> None:
    """End the run with the iteration in progress when the next request reaches the scheduler.

    Not if others wait already: they could not be admitted, so it cannot be before them.
    """
    front_end = queues[FRONT_END]
    if replica.run_length <= 1 or front_end.length == 0 or queues[WAITING].length > 0:
        return
    before = slots[front_end.first].queued_at - 1
    if end_of(replica, replica.run_length) > before:
        replica.run_length = min(replica.run_length, iterations_ended_by(replica, before) + 1)


# -- the KV cache


@inner
def blocks_for(replica: Record, tokens: int) -> int:
    blocks: int = (tokens + replica.block_size - 1) // replica.block_size
    return blocks


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
def blocks_wanted(replica: Record, block_wanted: Integers) -> int:
    """Blocks that the decoding sequences take in the iteration at the present clock."""
    wanted: int = block_wanted[replica.phase]
    return wanted


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
def fill_prefix(state: State, replica: Record, sequence: Record) -> None:
    """``PrefixCache.fill``."""
    if sequence.prefix != NOBODY:
        prefix = state.prefixes[sequence.prefix]
        filled = min(sequence.prefix_tokens, sequence.computed) // replica.block_size
        prefix.blocks = max(prefix.blocks, filled)


@inner
def give_blocks_up(state: State, replica: Record, sequence: Record, blocks: int) -> None:
    """``PrefixCache.leave``."""
    replica.free_blocks += blocks
    replica.freed_blocks += blocks
    if sequence.prefix != NOBODY:
        prefix = state.prefixes[sequence.prefix]
        prefix.users -= 1
        prefix.freed_before = replica.freed_blocks


# -- planning: what the iteration that starts now does, and how many like it follow


@inner
def next_start(replica: Record, queues: Records, slots: Records) -> int:
    """When the next iteration starts if none is in progress; ``NEVER`` if there is nothing to do."""
    if replica.decoding > 0 or queues[WAITING].length > 0 or replica.partial != NOBODY:
        return int(replica.free_at)
    front_end = queues[FRONT_END]
    if front_end.length == 0:
        return NEVER
    return int(max(slots[front_end.first].queued_at, replica.free_at))


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
        cut_at_next_arrival(replica, queues, slots)


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
    fill_prefix(state, replica, sequence)
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


# -- carrying out what was planned


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
    give_blocks_up(state, replica, sequence, blocks_for(replica, context))


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


# -- arrivals, aborts, routing


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
        cut_at_next_arrival(replica, queues, slots)
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
        most = state.load[chosen] // LOAD + pool.slack
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


# -- what Python calls, with the state as a plain tuple: numba takes 40 us to look at a named one


@entry_point
def run(packed: Packed, arrivals: Records, receiver: int, first: int, end: int, until: int) -> None:
    """Let the arrivals come, in order, at replica ``receiver`` (``NOBODY``: at an endpoint of their pool); then advance
    the replicas from ``first`` to before ``end``.

    One entry point for both, as each would compile nearly all of the kernel once more.
    """
    state = State(*packed)
    for index in range(len(arrivals)):
        arrival = arrivals[index]
        r = receiver if receiver != NOBODY else choose(state, arrival)
        if r != NOBODY and fits(state.replicas[r], arrival):
            receive(state, r, arrival)
        else:
            refuse(state, r, arrival)
    for r in range(first, end):
        advance(state, r, until)


@entry_point
def drop_in_flight(packed: Packed, r: int, request: int) -> int:
    """Drop what is in flight on replica ``r`` (``NOBODY``: any) with the number ``request`` (``NOBODY``: whatever), as
    of the tick that its replica has reached; how many were dropped."""
    state = State(*packed)
    dropped = 0
    for slot in range(len(state.slots)):
        sequence = state.slots[slot]
        if sequence.replica != NOBODY and r in (NOBODY, sequence.replica) and request in (NOBODY, sequence.request):
            drop(state, slot)
            dropped += 1
    return dropped
