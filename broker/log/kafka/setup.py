"""A site's topics made and looked at: ``tidegate topics``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from broker.log.kafka.admin import KafkaAdmin, opened
from broker.log.kafka.checkup import ClusterFacts, TopicFacts, WantedTopic, differing, topic_findings, wanted_topics
from broker.log.kafka.client import Connection
from broker.log.kafka.topics import TOPICS, Layout
from broker.model.errors import LogError
from broker.model.finding import Finding, Verdict


class Done(StrEnum):
    """What was done to a topic, or would be."""

    NOTHING = ""
    MADE = "made"
    ALTERED = "altered"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class TopicReport:
    """``found`` is None for a topic that is not there. ``findings`` are what differs still."""

    wanted: WantedTopic
    found: TopicFacts | None
    done: Done
    findings: tuple[Finding, ...]


async def checked(connection: Connection, layout: Layout) -> list[TopicReport]:
    """Every topic, as it is. Raises ``LogError``."""
    async with opened(connection) as admin:
        facts = await _asked(admin, layout)
    return _reports(layout, facts, {}, {})


async def initialised(connection: Connection, layout: Layout, *, alter: bool, dry_run: bool) -> list[TopicReport]:
    """Make what is missing, and with ``alter`` set what differs and can be set; with ``dry_run`` tell what would come
    of it. Raises ``LogError`` if the cluster cannot be asked; what it refuses is a finding."""
    async with opened(connection) as admin:
        facts = await _asked(admin, layout)
        wanted = wanted_topics(layout, facts.servers)
        missing = [topic for topic in wanted if topic.name not in facts.topics.keys() | facts.denied]
        unlike = [topic for topic in wanted if alter and topic.name in facts.topics]
        unlike = [topic for topic in unlike if differing(topic, facts.topics[topic.name])]
        refused = await admin.create(missing, dry_run=dry_run)
        if dry_run:
            facts = _as_it_would_be(facts, missing, unlike)
        else:
            for topic in unlike:
                refused |= await _altered(admin, topic, facts.topics[topic.name])
            facts = await _asked(admin, layout)
    done = {topic.name: Done.MADE for topic in missing} | {topic.name: Done.ALTERED for topic in unlike}
    return _reports(layout, facts, done, refused)


async def _asked(admin: KafkaAdmin, layout: Layout) -> ClusterFacts:
    return await admin.facts([layout.name(topic) for topic in TOPICS])


async def _altered(admin: KafkaAdmin, topic: WantedTopic, found: TopicFacts) -> dict[str, LogError]:
    """Why it was not."""
    try:
        await admin.alter(topic, found)
    except LogError as error:
        return {topic.name: error}
    return {}


def _as_it_would_be(facts: ClusterFacts, missing: Sequence[WantedTopic], unlike: Sequence[WantedTopic]) -> ClusterFacts:
    made = {topic.name: TopicFacts(topic.partitions, topic.copies, 0, 0, topic.settings) for topic in missing}
    altered = {
        topic.name: replace(found, settings={**found.settings, **differing(topic, found)})
        for topic in unlike
        for found in (facts.topics[topic.name],)
    }
    return replace(facts, topics={**facts.topics, **made, **altered})


def _reports(
    layout: Layout, facts: ClusterFacts, done: Mapping[str, Done], refused: Mapping[str, LogError]
) -> list[TopicReport]:
    reports = []
    for topic in wanted_topics(layout, facts.servers):
        findings, word = [*topic_findings(topic, facts)], done.get(topic.name, Done.NOTHING)
        if (error := refused.get(topic.name)) is not None:
            findings, word = [Finding(Verdict.MEND, "topic", str(error))], Done.REFUSED
        reports.append(TopicReport(topic, facts.topics.get(topic.name), word, tuple(findings)))
    return reports
