"""The offline optimum of the right-sizing problem that lazy capacity provisioning (LCP) is measured against. Pure.

One pool of equal servers, each costing 1 a step while it runs and ``start_steps`` for each start; in step t at least
``needed[t]`` must run. With the demand as a hard floor the k-th server is needed exactly where ``needed`` >= k,
whatever the others do, and each server's own optimum is plain: between two needs it stays up if the gap costs no more
than a start. That is the optimum of the convex problem of arXiv 1807.05112 for costs that are linear above the floor,
and it takes time proportional to the sum of all servers' needs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def offline_optimum(needed: Counts, start_steps: int) -> Counts:
    """Servers running in each step at the least cost; none runs before it is first needed, or after it last is."""
    running = np.zeros(len(needed), dtype=np.int64)
    for level in range(1, int(needed.max(initial=0)) + 1):
        for begin, end in stretches(needed >= level, longest_gap=start_steps):
            running[begin:end] += 1
    return running


def cost_steps(running: Counts, start_steps: int) -> int:
    """What a plan costs: its server-steps, and ``start_steps`` for every start (the first ones included)."""
    starts = np.maximum(0, np.diff(running, prepend=0)).sum()
    return int(running.sum() + start_steps * starts)


def stretches(needed: NDArray[np.bool_], *, longest_gap: int) -> list[tuple[int, int]]:
    """Where ``needed`` holds, as half-open stretches of steps; gaps up to ``longest_gap`` are bridged."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], needed, [False])).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return []
    parts = begins[1:] - ends[:-1] > longest_gap
    firsts = begins[np.concatenate(([True], parts))]
    lasts = ends[np.concatenate((parts, [True]))]
    return [(int(begin), int(end)) for begin, end in zip(firsts, lasts, strict=True)]
