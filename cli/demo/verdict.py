"""Whether the demo did what it promises. Each broken promise is one sentence; none means success."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.control.allocate import SCALE_IN
from broker.control.lifecycle import EXPIRY
from broker.control.replay import replay
from broker.log.sqlite import SqliteLog
from cli.demo.load import LoadPlayer
from policies.registry import build
from simulator.report.summary import RunSummary

LEAST_STREAMS_AT_DRAIN = 20


@dataclass(frozen=True, slots=True)
class DrainSeen:
    """One drain: why and when it began (seconds of the run), and how many streams were open then."""

    replica_id: str
    reason: str
    began_s: float
    open_streams: int
    in_flight_at_stop: int


def drains_seen(replicas: Sequence[dict[str, Any]], player: LoadPlayer) -> list[DrainSeen]:
    seen = []
    for replica in replicas:
        if (drain := replica["drain"]) is not None:
            began_s = drain["began_at"] - player.began_at
            open_streams = player.open_at(began_s)
            seen.append(
                DrainSeen(replica["replica_id"], drain["reason"], began_s, open_streams, replica["in_flight_at_stop"])
            )
    return sorted(seen, key=lambda drain: drain.began_s)


def problems_of(
    summary: RunSummary, drains: Sequence[DrainSeen], orphans: int, *, open_at_drain: bool, renews: bool
) -> Iterator[str]:
    """``open_at_drain``: the load was shaped so that a drain for scale-in must begin under many streams. ``renews``: it
    lasted so long that a replica must have been succeeded."""
    counts = summary.requests
    if not counts.sent:
        yield "no request was sent"
    for name in ("failed", "cut", "rejected", "unfinished"):
        if number := getattr(counts, name):
            yield f"{number} requests {name}"
    changes = [decision for decision in summary.decisions if decision.target != decision.before]
    if not any(decision.target > decision.before for decision in changes) or summary.peak_ready < 2:
        yield "it did not scale out"
    scale_in = [drain for drain in drains if drain.reason == SCALE_IN]
    if not scale_in:
        yield "it did not scale in"
    if renews and not any(drain.reason == EXPIRY for drain in drains):
        yield "no replica was succeeded before its wall time"
    if any(drain.in_flight_at_stop for drain in drains):
        yield "a drained replica was stopped with requests in flight (invariant 1)"
    most = max((drain.open_streams for drain in scale_in), default=0)
    if open_at_drain and scale_in and most < LEAST_STREAMS_AT_DRAIN:
        yield f"no drain began under {LEAST_STREAMS_AT_DRAIN} open streams (the most were {most})"
    if orphans:
        yield f"{orphans} replicas were left that no record names (invariant 4)"


async def replay_problem(path: str) -> tuple[str | None, int]:
    """(what a replay of the recorded observations found different, steps replayed)."""
    log = SqliteLog(path)
    steps = 0
    try:
        async for replayed in replay(log, build):
            steps += 1
            if not replayed.same:
                return f"step {replayed.record.number} decides otherwise when replayed (invariant 8)", steps
    finally:
        await log.close()
    return None, steps
