"""Queues of slots, linked through their ``next``, and the heap of a replica's decoding sequences."""

from __future__ import annotations

from simulator.engine.compiled import inner
from simulator.engine.layout import NOBODY, Record, Records


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


# The heap: first by finish clock, then in order of arrival.


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
