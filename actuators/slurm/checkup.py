"""What of a Slurm pool fits its cluster, and what must be mended before jobs are submitted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from actuators.slurm.client import PartitionFacts, SiteFacts
from actuators.slurm.job import LIVING, JobRecord
from actuators.slurm.marks import mark_of_job
from actuators.slurm.options import SlurmOptions, options_of
from broker.model.addresses import is_loopback
from broker.model.finding import Finding, Verdict, clock_finding
from broker.model.spec import PoolSpec
from broker.model.units import clock_time, format_duration

TOKEN_LIFE_S = 600.0
"""One that lives for less is asked for again every few minutes, and there is little time to notice that none comes."""


def listing_finding(jobs: Sequence[JobRecord], cluster: str, pool_id: str, took_s: float) -> Finding:
    """``jobs`` are all of our user that a listing shows, ended ones and those of other pools too."""
    marks = [mark_of_job(job) for job in jobs if job.state in LIVING]
    ours = sum(mark is not None and (mark.cluster, mark.pool_id) == (cluster, pool_id) for mark in marks)
    words = f"{ours} living jobs of this pool among {len(jobs)} that Slurm lists for our user, in {took_s:.2f} s"
    return Finding(Verdict.FINE, "listing", words)


def findings(pool: PoolSpec, facts: SiteFacts, now: float) -> Iterator[Finding]:
    """What the cluster's own word says of a pool. Raises ``ConfigError`` for options that nobody should have let by."""
    options = options_of(pool)
    yield Finding(Verdict.FINE, "Slurm", f"{facts.release} by {facts.transport}, as {facts.user}")
    if facts.token_life_s is not None:
        yield _token(facts.token_life_s)
    yield _clock(facts.clock_skew_s)
    if facts.accounted is not None:
        yield _accounting(facts.accounted)
    partition = facts.partition(options.partition)
    if partition is None:
        words = f"there is no {options.partition}; known are {facts.partition_names}"
        yield Finding(Verdict.MEND, "partition", words)
        return
    yield _partition(partition)
    yield _wall_time(options, partition)
    yield _gpus(pool.gpus, options.gpus_per_node, partition)
    yield from _allowed("account", options.account, partition.accounts)
    yield from _allowed("qos", options.qos, partition.qos)
    yield from _maintenance(facts, partition, now)
    yield _way_to_broker(options)


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


def _accounting(kept: tuple[str, ...]) -> Finding:
    """Comments are how our jobs are told from others there."""
    if "job_comment" in kept:
        return Finding(Verdict.FINE, "accounting", "it keeps jobs' comments, by which ours are known")
    words = "it keeps no comments, so a job that ended while no broker ran is told as vanished; have slurm.conf say"
    return Finding(Verdict.LOOK, "accounting", f"{words} AccountingStoreFlags=job_comment")


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


def _gpus(asked: int, per_node: int | None, partition: PartitionFacts) -> Finding:
    """By Slurm's count, or else by the pool's own word on its nodes."""
    there = partition.gpus
    if there is None and per_node is not None:
        there = partition.nodes * per_node
    if there is None:
        words = f"nobody says how many {partition.name} has: give the pool gpus_per_node, and {asked} can be checked"
        return Finding(Verdict.LOOK, "gpus", words)
    if asked <= there:
        return Finding(Verdict.FINE, "gpus", f"{asked} are within the partition's {there}")
    words = f"{asked} are more than the partition's {there}: jobs for the others would wait for ever"
    return Finding(Verdict.LOOK, "gpus", f"{words}; write {there} or fewer")


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
