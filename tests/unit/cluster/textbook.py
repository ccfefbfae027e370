"""EASY backfill as the textbook has it (Feitelson & Weil 1998): equal nodes that are counted, one reservation for the
head of the queue, and a shadow time. Written for reading, to compare the model with."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextbookJob:
    submitted_at: float
    nodes: int
    limit_s: float
    run_s: float


def start_times(jobs: Sequence[TextbookJob], nodes: int) -> list[float]:
    """When each job starts; ``jobs`` by submission, none larger than the machine."""
    starts: dict[int, float] = {}
    waiting: list[int] = []
    running: list[int] = []
    ends: list[tuple[float, int]] = []
    free, arrived = nodes, 0
    while arrived < len(jobs) or ends:
        now = min(jobs[arrived].submitted_at if arrived < len(jobs) else math.inf, ends[0][0] if ends else math.inf)
        while ends and ends[0][0] <= now:
            _, job = heapq.heappop(ends)
            free += jobs[job].nodes
            running.remove(job)
        while arrived < len(jobs) and jobs[arrived].submitted_at <= now:
            waiting.append(arrived)
            arrived += 1
        shadow_at: float | None = None
        extra = 0
        for job in list(waiting):
            size, limit_s = jobs[job].nodes, jobs[job].limit_s
            if shadow_at is None and size > free:
                shadow_at, extra = _shadow(size, free, [(starts[r] + jobs[r].limit_s, jobs[r].nodes) for r in running])
                continue
            if size > free:
                continue
            if shadow_at is not None and now + limit_s > shadow_at:
                if size > extra:
                    continue
                extra -= size
            starts[job] = now
            free -= size
            waiting.remove(job)
            running.append(job)
            heapq.heappush(ends, (now + min(jobs[job].run_s, limit_s), job))
    return [starts[job] for job in range(len(jobs))]


def _shadow(size: int, free: int, running: list[tuple[float, int]]) -> tuple[float, int]:
    """When the head will fit by the others' limits, and how many nodes it leaves then."""
    shadow_at = math.inf
    will_be_free = free
    for ends_at, nodes in sorted(running):
        if will_be_free >= size and ends_at > shadow_at:
            break
        will_be_free += nodes
        shadow_at = ends_at
    return shadow_at, will_be_free - size
