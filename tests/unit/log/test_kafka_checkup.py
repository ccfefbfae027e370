"""What of a Kafka cluster fits a site, and what is said of what does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from broker.log.kafka.checkup import (
    ClusterFacts,
    TopicFacts,
    WantedTopic,
    differing,
    held_back_finding,
    release_finding,
    servers_finding,
    topic_findings,
    topics_findings,
    transaction_finding,
    wanted_topics,
)
from broker.log.kafka.topics import TOPICS, Layout
from broker.model.finding import Verdict

LAYOUT = Layout("tidegate.hpc")


def wanted(name: str, servers: int = 3) -> WantedTopic:
    return next(topic for topic in wanted_topics(LAYOUT, servers) if topic.name == LAYOUT.name(name))


def as_wanted(topic: WantedTopic) -> TopicFacts:
    return TopicFacts(topic.partitions, topic.copies, 0, 0, topic.settings)


def cluster(topics: Mapping[str, TopicFacts], servers: int = 3) -> ClusterFacts:
    return ClusterFacts("id", servers, topics)


@pytest.mark.parametrize(("servers", "copies", "in_sync"), [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (9, 3, "2")])
def test_topics_have_three_copies_or_as_many_as_there_are_servers(servers: int, copies: int, in_sync: str) -> None:
    found = wanted_topics(LAYOUT, servers)
    assert {(topic.copies, topic.settings["min.insync.replicas"]) for topic in found} == {(copies, in_sync)}
    assert [topic.name for topic in found] == [f"tidegate.hpc.{name}" for name in TOPICS]


def test_a_site_decides_on_copies_partitions_and_the_size_of_messages() -> None:
    found = wanted_topics(Layout("tide", partitions=24, replication=5, message_bytes=2**22), servers=9)
    assert {topic.copies for topic in found} == {5}
    assert {topic.settings["max.message.bytes"] for topic in found} == {str(2**22)}
    assert {topic.partitions for topic in found if topic.by_model} == {24}
    assert {topic.partitions for topic in found if not topic.by_model} == {1}


def test_topics_as_they_should_be_are_told_in_one_line() -> None:
    topics = {topic.name: as_wanted(topic) for topic in wanted_topics(LAYOUT, 3)}
    (finding,) = topics_findings(LAYOUT, cluster(topics))
    assert (finding.verdict, finding.words) == (Verdict.FINE, f"all {len(TOPICS)} are as they should be")


def test_what_several_topics_lack_is_told_once() -> None:
    topics = {topic.name: as_wanted(topic) for topic in wanted_topics(LAYOUT, 3)}
    for name in ("state", "lease"):
        topics.pop(LAYOUT.name(name))
    (finding,) = topics_findings(LAYOUT, cluster(topics))
    words = "tidegate.hpc.state, tidegate.hpc.lease: topic: missing; `tidegate topics init` makes it"
    assert (finding.verdict, finding.words) == (Verdict.MEND, words)


DIFFERENT: dict[str, tuple[str, dict[str, int], dict[str, str], tuple[Verdict, str, str]]] = {
    "too few partitions of a topic keyed by model": (
        "signals",
        {"partitions": 3},
        {},
        (Verdict.MEND, "partitions", "3, not 8; set log.partitions to 3 if"),
    ),
    "too many partitions of a topic that keeps an order": (
        "state",
        {"partitions": 3},
        {},
        (Verdict.MEND, "partitions", "3, not 1; delete the topic while no broker runs"),
    ),
    "a partition without a leader": (
        "signals",
        {"unled": 2},
        {},
        (Verdict.MEND, "partitions", "2 partitions without a leader; start the servers"),
    ),
    "a copy that is behind": ("signals", {"behind": 1}, {}, (Verdict.LOOK, "copies", "1 partition with a copy")),
    "fewer copies": (
        "state",
        {"copies": 2},
        {"min.insync.replicas": "1"},
        (Verdict.LOOK, "copies", "2, not 3; kafka-reassign-partitions"),
    ),
    "a compacted topic that is not": (
        "state",
        {},
        {"cleanup.policy": "delete"},
        (Verdict.MEND, "cleanup.policy", "delete, not compact; `tidegate topics init --alter` sets it"),
    ),
    "what Kafka forgets": ("decisions", {}, {"retention.ms": "604800000"}, (Verdict.MEND, "retention.ms", "not -1")),
    "a retention that is shorter": ("signals", {}, {"retention.ms": "1000"}, (Verdict.MEND, "retention.ms", "1000")),
    "a limit that is lower": ("state", {}, {"max.message.bytes": "1000"}, (Verdict.MEND, "max.message.bytes", "1000")),
    "an acknowledgement by one server only": (
        "state",
        {},
        {"min.insync.replicas": "1"},
        (Verdict.MEND, "min.insync.replicas", "1, not 2"),
    ),
    "an acknowledgement by all servers, so that none may be lost": (
        "state",
        {},
        {"min.insync.replicas": "3"},
        (Verdict.MEND, "min.insync.replicas", "3, not 2"),
    ),
    "segments that are larger": (
        "state",
        {},
        {"segment.bytes": "1073741824"},
        (Verdict.LOOK, "segment.bytes", "1073741824, not 33554432"),
    ),
}


@pytest.mark.parametrize(("name", "facts", "settings", "expected"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_differs_is_told_with_what_mends_it(
    name: str, facts: dict[str, int], settings: dict[str, str], expected: tuple[Verdict, str, str]
) -> None:
    topic = wanted(name)
    found = replace(as_wanted(topic), **facts, settings={**topic.settings, **settings})
    (finding,) = topic_findings(topic, cluster({topic.name: found}))
    verdict, about, words = expected
    assert (finding.verdict, finding.about) == (verdict, about)
    assert words in finding.words


MORE_THAN_WANTED: dict[str, tuple[str, dict[str, str]]] = {
    "a retention that is longer": ("signals", {"retention.ms": "9000000000"}),
    "a retention without end": ("signals", {"retention.ms": "-1"}),
    "a limit that is higher": ("signals", {"max.message.bytes": "9000000"}),
}


@pytest.mark.parametrize(("name", "settings"), MORE_THAN_WANTED.values(), ids=MORE_THAN_WANTED.keys())
def test_more_than_what_is_wanted_is_fine(name: str, settings: dict[str, str]) -> None:
    topic = wanted(name)
    found = replace(as_wanted(topic), settings={**topic.settings, **settings})
    assert not [*topic_findings(topic, cluster({topic.name: found}))]


def test_two_of_five_copies_or_three_must_be_in_sync() -> None:
    topic = wanted("state")
    for in_sync, differs in (("1", True), ("2", False), ("4", False), ("5", True)):
        found = TopicFacts(1, 5, 0, 0, {**topic.settings, "min.insync.replicas": in_sync})
        assert bool(differing(topic, found)) is differs


def test_a_setting_that_this_kafka_does_not_know_is_told() -> None:
    topic = wanted("decisions")
    known = {name: value for name, value in topic.settings.items() if name != "message.timestamp.after.max.ms"}
    (finding,) = topic_findings(topic, cluster({topic.name: replace(as_wanted(topic), settings=known)}))
    assert finding.words.startswith("unknown to this Kafka, not 9223372036854775807")


def test_a_topic_that_the_user_may_not_see_is_not_told_as_missing() -> None:
    topic = wanted("state")
    facts = replace(cluster({}), denied=frozenset({topic.name}))
    (finding,) = topic_findings(topic, facts)
    assert (finding.verdict, finding.about) == (Verdict.MEND, "rights")


@pytest.mark.parametrize(
    ("replication", "servers", "verdict"),
    [
        (None, 3, Verdict.FINE),
        (None, 1, Verdict.LOOK),
        (3, 2, Verdict.MEND),
        (1, 1, Verdict.LOOK),
        (5, 6, Verdict.FINE),
    ],
)
def test_there_must_be_a_server_for_each_copy(replication: int | None, servers: int, verdict: Verdict) -> None:
    assert servers_finding(Layout("tide", replication=replication), servers).verdict is verdict


@pytest.mark.parametrize(
    ("requests", "words"), [([0, 60], "older than 3.7"), ([74, 80], "3.9 or"), ([90, 88], "4.1 or")]
)
def test_a_release_is_known_by_the_requests_that_it_takes(requests: list[int], words: str) -> None:
    assert release_finding(requests, "as nobody").words.startswith(words)


def test_a_slow_transaction_is_told() -> None:
    assert transaction_finding(0.02).verdict is Verdict.FINE
    assert transaction_finding(2.0).verdict is Verdict.LOOK


def test_topics_that_a_transaction_holds_back_are_named() -> None:
    assert held_back_finding([]).verdict is Verdict.FINE
    held_back = held_back_finding(["hpc.state", "hpc.lease"])
    assert held_back.verdict is Verdict.MEND
    assert "hpc.state, hpc.lease" in held_back.words
