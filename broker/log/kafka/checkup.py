"""What of a Kafka cluster fits a site, and what must be mended before a broker relies on it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.log.kafka.topics import LED, TOPICS, Layout
from broker.model.finding import Finding, Verdict
from broker.model.units import format_count

USUAL_COPIES = 3
"""With fewer, writing stops or what was written is lost with one server."""
SLOW_TRANSACTION_S = 1.0
"""Every step is one, and the broker acts after it."""

_RELEASES = ((88, "4.1"), (80, "3.9"), (74, "3.7"))
"""The first release with each request's number. Topics have a setting that came with 3.6."""
_IN_SYNC = "min.insync.replicas"
_TUNING = ("delete.retention.ms", "min.cleanable.dirty.ratio", "segment.bytes", "segment.ms")
"""Settings that cost time or room where they differ, and nothing else."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What a cluster says of a topic. ``copies``: of the partition that has fewest; ``unled``: partitions without a
    leader; ``behind``: partitions with a copy that is not in sync. ``settings``: those in force."""

    partitions: int
    copies: int
    unled: int
    behind: int
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """``topics`` has those that exist, ``denied`` names those of which the user may not know."""

    cluster_id: str
    servers: int
    topics: Mapping[str, TopicFacts]
    denied: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic as it should be. ``name`` is its whole name."""

    name: str
    by_model: bool
    partitions: int
    copies: int
    settings: Mapping[str, str]


def wanted_topics(layout: Layout, servers: int) -> list[WantedTopic]:
    """All topics of a site, on a cluster of so many servers."""
    copies = layout.replication or min(USUAL_COPIES, servers)
    in_sync = {_IN_SYNC: _in_sync(copies)}
    return [
        WantedTopic(
            layout.name(topic.name), topic.by_model, topic.partitions(layout), copies, topic.configs(layout) | in_sync
        )
        for topic in TOPICS.values()
    ]


def _in_sync(copies: int) -> str:
    """One copy may be lost before writing stops, and what was acknowledged is on two."""
    return "2" if copies >= USUAL_COPIES else "1"


def topic_findings(wanted: WantedTopic, facts: ClusterFacts) -> Iterator[Finding]:
    """What differs, each with what mends it; nothing for a topic that is as it should be."""
    if wanted.name in facts.denied:
        words = "the user may not know of it; give it Describe, DescribeConfigs, Read and Write"
        yield Finding(Verdict.MEND, "rights", words)
    elif (found := facts.topics.get(wanted.name)) is None:
        yield Finding(Verdict.MEND, "topic", "missing; `tidegate topics init` makes it")
    else:
        yield from _partitions(wanted, found)
        yield from _copies(wanted, found)
        yield from _settings(wanted, found)


def _partitions(wanted: WantedTopic, found: TopicFacts) -> Iterator[Finding]:
    if found.partitions != wanted.partitions:
        mend = "delete the topic while no broker runs, with what it holds, and make it again by `tidegate topics init`"
        if wanted.by_model:
            mend = f"set log.partitions to {found.partitions} if all that are keyed by model have so many, or {mend}"
        yield Finding(Verdict.MEND, "partitions", f"{found.partitions}, not {wanted.partitions}; {mend}")
    if found.unled:
        some = format_count(found.unled, "partition")
        yield Finding(Verdict.MEND, "partitions", f"{some} without a leader; start the servers that hold them")
    if found.behind:
        some = format_count(found.behind, "partition")
        words = f"{some} with a copy that is not in sync; see that all servers run"
        yield Finding(Verdict.LOOK, "copies", words)


def _copies(wanted: WantedTopic, found: TopicFacts) -> Iterator[Finding]:
    if found.copies < wanted.copies:
        words = f"{found.copies}, not {wanted.copies}; kafka-reassign-partitions adds some"
        yield Finding(Verdict.LOOK, "copies", words)


def _settings(wanted: WantedTopic, found: TopicFacts) -> Iterator[Finding]:
    for name, value in differing(wanted, found).items():
        verdict = Verdict.LOOK if name in _TUNING else Verdict.MEND
        has = found.settings.get(name, "unknown to this Kafka")
        yield Finding(verdict, name, f"{has}, not {value}; `tidegate topics init --alter` sets it")


def differing(wanted: WantedTopic, found: TopicFacts) -> dict[str, str]:
    """The settings that are not as they should be, with the values that they should have."""
    settings = {**wanted.settings, _IN_SYNC: _in_sync(found.copies)}
    return {name: value for name, value in settings.items() if not _fits(name, value, found)}


def _fits(name: str, value: str, found: TopicFacts) -> bool:
    has = found.settings.get(name)
    if has is None or has == value:
        return has is not None
    if name == _IN_SYNC:
        return int(value) <= int(has) < found.copies
    enough = _ENOUGH.get(name)
    return enough is not None and enough(int(has), int(value))


def _as_large(has: int, value: int) -> bool:
    return has >= value


def _as_long(has: int, value: int) -> bool:
    """-1 is for ever."""
    return has < 0 or 0 <= value <= has


_ENOUGH: Mapping[str, Callable[[int, int], bool]] = {"max.message.bytes": _as_large, "retention.ms": _as_long}
"""Where more than what is wanted does no harm."""


def release_of(requests: Sequence[int]) -> str | None:
    """The release from which a server may be, by the numbers of the requests that it knows; None for an old one."""
    return next((release for number, release in _RELEASES if number in requests), None)


def release_finding(requests: Sequence[int], reached: str) -> Finding:
    """``reached`` is how, and as whom."""
    release = release_of(requests)
    if release is None:
        words = f"older than 3.7, which is the oldest that topics can be made on; update it ({reached})"
        return Finding(Verdict.MEND, "Kafka", words)
    return Finding(Verdict.FINE, "Kafka", f"{release} or newer, {reached}")


def servers_finding(layout: Layout, servers: int) -> Finding:
    wanted = layout.replication or USUAL_COPIES
    counted = format_count(servers, "server")
    if layout.replication is not None and servers < layout.replication:
        words = f"{counted} for log.replication {wanted}; start those that are down, add some, or ask for fewer copies"
        return Finding(Verdict.MEND, "servers", words)
    if servers < USUAL_COPIES:
        words = (
            f"{counted}: lose one, and the broker stops or has a single copy; for more than a trial have {USUAL_COPIES}"
        )
        return Finding(Verdict.LOOK, "servers", words)
    return Finding(Verdict.FINE, "servers", f"{counted} for {wanted} copies of each topic")


def topics_findings(layout: Layout, facts: ClusterFacts) -> Iterator[Finding]:
    """What differs of all topics, the same of several in one finding; or one that nothing does."""
    wanted = wanted_topics(layout, facts.servers)
    alike: dict[Finding, list[str]] = {}
    for topic in wanted:
        for finding in topic_findings(topic, facts):
            alike.setdefault(finding, []).append(topic.name)
    for finding, names in alike.items():
        yield Finding(finding.verdict, "topics", f"{', '.join(names)}: {finding.about}: {finding.words}")
    if not alike:
        yield Finding(Verdict.FINE, "topics", f"all {len(wanted)} are as they should be")


def held_back_finding(topics: Sequence[str]) -> Finding:
    """``topics``: those with a transaction that does not end."""
    if not topics:
        return Finding(Verdict.FINE, "open transactions", "none: all that was committed can be read")
    words = (
        f"what was committed to {', '.join(topics)} is held back behind a transaction that does not end, which Kafka "
        "may have forgotten when all its servers ended at once (KAFKA-20734): restart the broker that leads; whoever "
        "leads next ends it. Do not abort it by Kafka's tools, which takes back what was committed"
    )
    return Finding(Verdict.MEND, "open transactions", words)


def transaction_finding(time_s: float) -> Finding:
    words = f"{1e3 * time_s:.0f} ms for one over {len(LED)} topics"
    if time_s < SLOW_TRANSACTION_S:
        return Finding(Verdict.FINE, "transaction", words)
    return Finding(
        Verdict.LOOK, "transaction", f"{words}; each step waits for one: look at the servers' disks and at the network"
    )
