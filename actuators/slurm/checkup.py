"""What of a Slurm pool fits its cluster, and what must be mended before jobs are submitted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from actuators.slurm.client import PartitionFacts, SiteFacts
from actuators.slurm.options import SlurmOptions, options_of
from broker.model.addresses import is_loopback
from broker.model.spec import PoolSpec
from broker.model.units import clock_time, format_duration

SKEW_WORTH_TELLING_S = 2.0
SKEW_THAT_HARMS_S = 30.0
"""A job's end is Slurm's time, a drain's deadline the broker's: the margin between both is some two minutes."""


TOKEN_LIFE_S = 600.0
"""One that lives for less is asked for again every few minutes, and there is little time to notice that none comes."""


class Verdict(StrEnum):
    FINE = "fine"
    LOOK = "look"
    MEND = "mend"


@dataclass(frozen=True, slots=True)
class Finding:
    """``about`` is what was looked at, ``words`` what was found and, unless it is fine, what to change."""

    verdict: Verdict
    about: str
    words: str


def findings(pool: PoolSpec, facts: SiteFacts, now: float) -> Iterator[Finding]:
    """What the cluster's own word says of a pool. Raises ``ConfigError`` for options that nobody should have let by."""
    options = options_of(pool)
    yield Finding(Verdict.FINE, "Slurm", f"{facts.release} by {facts.transport}, as {facts.user}")
    if facts.token_life_s is not None:
        yield _token(facts.token_life_s)
    yield _clock(facts.clock_skew_s)
    partition = facts.partition(options.partition)
    if partition is None:
        words = f"there is no {options.partition}; known are {facts.partition_names}"
        yield Finding(Verdict.MEND, "partition", words)
        return
    yield _partition(partition)
    yield _wall_time(options, partition)
    yield from _allowed("account", options.account, partition.accounts)
    yield from _allowed("qos", options.qos, partition.qos)
    yield from _maintenance(facts, partition, now)
    yield _way_to_broker(options)


def clock_finding(about: str, whose: str, skew_s: float) -> Finding:
    """``skew_s`` is how far that clock is ahead of ours."""
    if abs(skew_s) < SKEW_WORTH_TELLING_S:
        return Finding(Verdict.FINE, about, f"{abs(skew_s):.1f} s apart")
    verdict = Verdict.MEND if abs(skew_s) >= SKEW_THAT_HARMS_S else Verdict.LOOK
    ahead = "ahead of" if skew_s > 0 else "behind"
    return Finding(verdict, about, f"{whose} is {abs(skew_s):.0f} s {ahead} ours; let both keep time (NTP)")


def _clock(skew_s: float | None) -> Finding:
    if skew_s is None:
        return Finding(Verdict.LOOK, "clock", "this transport does not tell Slurm's; see that both keep time (NTP)")
    return clock_finding("clock", "Slurm's", skew_s)


def _token(life_s: float) -> Finding:
    words = f"each lives {format_duration(round(life_s))} and is renewed before its end"
    if life_s >= TOKEN_LIFE_S:
        return Finding(Verdict.FINE, "token", words)
    longer = f"let what makes them ask for {format_duration(TOKEN_LIFE_S)} or more (scontrol token lifespan=...)"
    return Finding(Verdict.LOOK, "token", f"{words}; {longer}")


def _partition(partition: PartitionFacts) -> Finding:
    if not partition.up:
        return Finding(Verdict.MEND, "partition", f"{partition.name} is down; its jobs wait until it is up")
    return Finding(Verdict.FINE, "partition", f"{partition.name} is up, with {partition.nodes} nodes")


def _wall_time(options: SlurmOptions, partition: PartitionFacts) -> Finding:
    asked, most_s = format_duration(options.time_limit_s), partition.max_time_s
    if most_s is None or options.time_limit_s <= most_s:
        return Finding(Verdict.FINE, "time_limit", f"{asked} is within the partition's")
    words = f"{asked} is over the partition's {format_duration(most_s)}, which jobs ask for instead; write that"
    return Finding(Verdict.LOOK, "time_limit", words)


def _allowed(field: str, named: str | None, allowed: tuple[str, ...]) -> Iterator[Finding]:
    if not allowed:
        return
    if named is None:
        yield Finding(Verdict.LOOK, field, f"the partition takes {', '.join(allowed)} only, and the pool names none")
    elif named not in allowed:
        yield Finding(Verdict.MEND, field, f"the partition does not take {named}; it takes {', '.join(allowed)}")
    else:
        yield Finding(Verdict.FINE, field, f"the partition takes {named}")


def _maintenance(facts: SiteFacts, partition: PartitionFacts, now: float) -> Iterator[Finding]:
    for reservation in sorted(facts.reservations, key=lambda known: known.start_at):
        if reservation.maintenance and reservation.end_at > now and reservation.partition in (None, partition.name):
            from_to = f"from {clock_time(reservation.start_at)} to {clock_time(reservation.end_at)}"
            begins_in = format_duration(round(max(0.0, reservation.start_at - now)))
            words = f"{reservation.name} takes {len(reservation.nodes)} nodes {from_to}, which begins in {begins_in}"
            yield Finding(Verdict.LOOK, "maintenance", words)


def _way_to_broker(options: SlurmOptions) -> Finding:
    host = urlsplit(options.job.broker_url).hostname or ""
    if is_loopback(host):
        words = f"{options.job.broker_url} is reached from this machine alone; name it as nodes reach it"
        return Finding(Verdict.LOOK, "job.broker_url", words)
    return Finding(Verdict.FINE, "job.broker_url", options.job.broker_url)
