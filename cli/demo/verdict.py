"""Whether the demo did what it promises. Each broken promise is one sentence; none means success."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.control.replay import replay
from broker.log.sqlite import SqliteLog
from cli.demo.load import LoadPlayer
from policies.registry import build
from simulator.report.summary import RunSummary

LEAST_STREAMS_AT_DRAIN = 20


@dataclass(frozen=True, slots=True)
class DrainSeen:
    """One drain: when it began (seconds of the run), and how many streams were open then."""

    replica_id: str
    began_s: float
    open_streams: int
    in_flight_at_stop: int


def drains_seen(replicas: Sequence[dict[str, Any]], player: LoadPlayer) -> list[DrainSeen]:
    seen = []
    for replica in replicas:
        if replica["drain"] is not None and replica["drain"]["reason"] == "scale_in":
            began_s = replica["drain"]["began_at"] - player.began_at
            seen.append(
                DrainSeen(replica["replica_id"], began_s, player.open_at(began_s), replica["in_flight_at_stop"])
            )
    return sorted(seen, key=lambda drain: drain.began_s)


def problems_of(
    summary: RunSummary, drains: Sequence[DrainSeen], orphans: int, *, open_at_drain: bool
) -> Iterator[str]:
    """``open_at_drain``: the load was shaped so that a drain must begin under many streams."""
    counts = summary.requests
    if not counts.sent:
        yield "no request was sent"
    for name in ("failed", "cut", "rejected", "unfinished"):
        if number := getattr(counts, name):
            yield f"{number} requests {name}"
    changes = [decision for decision in summary.decisions if decision.target != decision.before]
    if not any(decision.target > decision.before for decision in changes) or summary.peak_ready < 2:
        yield "it did not scale out"
    if not drains:
        yield "it did not scale in"
    if any(drain.in_flight_at_stop for drain in drains):
        yield "a drained replica was stopped with requests in flight (invariant 1)"
    most = max((drain.open_streams for drain in drains), default=0)
    if open_at_drain and drains and most < LEAST_STREAMS_AT_DRAIN:
        yield f"no drain began under {LEAST_STREAMS_AT_DRAIN} open streams (the most were {most})"
    if orphans:
        yield f"{orphans} replica processes were left that no record names (invariant 4)"


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
