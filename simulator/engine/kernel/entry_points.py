"""What Python calls, with the state as a plain tuple: numba takes 40 us to look at a named one."""

from __future__ import annotations

from simulator.engine.compiled import entry_point
from simulator.engine.kernel.routing import choose, drop, fits, receive, refuse
from simulator.engine.kernel.running import advance
from simulator.engine.layout import NOBODY, Packed, Records, State


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
        asked_for = (r == NOBODY or sequence.replica == r) and (request == NOBODY or sequence.request == request)
        if sequence.replica != NOBODY and asked_for:
            drop(state, slot)
            dropped += 1
    return dropped
