"""Whether the demo did what it promises. Each broken promise is one sentence; none means success."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.control.allocate import SCALE_IN
from broker.control.lifecycle import EXPIRY, STOPPED_BY_POOL
from broker.control.replay import replay
from broker.model.ports import Log
from broker.model.units import format_count
from cli.demo.load import LoadPlayer
from policies.registry import build
from simulator.report.summary import RunSummary

LEAST_STREAMS_AT_DRAIN = 20
_REASONS = {
    SCALE_IN: "it was needed no more",
    EXPIRY: "its wall time was near",
    STOPPED_BY_POOL: "Slurm gave it notice",
}


@dataclass(frozen=True, slots=True)
class DrainSeen:
    """One drain: why and when it began (seconds of the run), and how many streams were open then. ``successor`` is what
    was started in its place, empty where nothing was."""

    replica_id: str
    reason: str
    began_s: float
    open_streams: int
    in_flight_at_stop: int
    successor: str = ""

    @property
    def words(self) -> str:
        why = _REASONS.get(self.reason, self.reason.replace("_", " "))
        succeeded = f", succeeded by {self.successor}" if self.successor else ""
        return (
            f"Drain of {self.replica_id} ({why}{succeeded}) began at {self.began_s:.1f} s under {self.open_streams} open "
            f"streams; {self.in_flight_at_stop} were in flight when it was stopped."
        )


def drains_seen(replicas: Sequence[dict[str, Any]], player: LoadPlayer) -> list[DrainSeen]:
    seen, successors = [], successors_of(replicas)
    for replica in replicas:
        if (drain := replica["drain"]) is not None:
            began_s = drain["began_at"] - player.began_at
            name, cut = replica["replica_id"], replica["in_flight_at_stop"]
            open_streams = player.open_at(began_s)
            seen.append(DrainSeen(name, drain["reason"], began_s, open_streams, cut, successors.get(name, "")))
    return sorted(seen, key=lambda drain: drain.began_s)


def successors_of(replicas: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By the id of each whose pool was to end it: the first that was asked for since then, each for one only."""
    asked_for = sorted(replicas, key=lambda replica: float(replica["requested_at"]))
    found: dict[str, str] = {}
    expiring = [replica for replica in replicas if replica["expiring_since"] is not None]
    for replica in sorted(expiring, key=lambda replica: float(replica["expiring_since"])):
        later = (other["replica_id"] for other in asked_for if other["requested_at"] >= replica["expiring_since"])
        successor = next((name for name in later if name not in found.values()), "")
        if successor:
            found[replica["replica_id"]] = successor
    return found


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
            yield f"{format_count(number, 'request')} {name}"
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
        yield (
            f"no drain began under {LEAST_STREAMS_AT_DRAIN} open streams (the most were {most}), so that the run shows "
            "little; on a machine that is busy otherwise it may come too late: try again"
        )
    if orphans:
        yield f"{format_count(orphans, 'replica')} left that no record names (invariant 4)"


async def replay_problem(log: Log) -> tuple[str | None, int]:
    """(what a replay of the recorded observations found different, steps replayed)."""
    steps = 0
    async for replayed in replay(log, build):
        steps += 1
        if not replayed.same:
            return f"step {replayed.record.number} decides otherwise when replayed (invariant 8)", steps
    return None, steps
