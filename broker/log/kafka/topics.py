"""The topics of one cluster, as data: what each carries, how it is cut and how long it is kept.

What the broker writes carries the step's time as its timestamp, and the broker itself forgets it, as it trims a file:
Kafka's own retention would go by its nodes' clocks and knows nothing of what a replay needs. What others write too is
stamped and forgotten by Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.units import format_duration

DEFAULT_PARTITIONS = 8
DEFAULT_MESSAGE_BYTES = 2**20
LEAST_MESSAGE_BYTES = 2**16

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.type": "CreateTime"}
_ANY_TIME = {"message.timestamp.after.max.ms": "9223372036854775807"}
"""Unless told so, Kafka refuses what is an hour ahead of its own clock; the broker's clock is the one that counts."""
_LATEST = {
    "cleanup.policy": "compact",
    # A broker reads all of it at its start: what is superseded must not pile up.
    "min.cleanable.dirty.ratio": "0.2",
    "segment.bytes": str(32 * 2**20),
    "segment.ms": str(_HOUR_MS),
    "delete.retention.ms": str(_DAY_MS),
}
_STAMPED = {"message.timestamp.type": "LogAppendTime"}
"""How old it is goes by the cluster's clock, not by that of whoever wrote it."""
_TOLD = _LATEST | _STAMPED
_A_WEEK = {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS)} | _STAMPED
_AN_HOUR = {"cleanup.policy": "delete", "retention.ms": str(_HOUR_MS), "segment.ms": str(_HOUR_MS)} | _STAMPED


@dataclass(frozen=True, slots=True)
class Layout:
    """What a site decides of its topics. ``replication``: copies of each, None for three, or as many as
    there are servers."""

    prefix: str
    partitions: int = DEFAULT_PARTITIONS
    replication: int | None = None
    message_bytes: int = DEFAULT_MESSAGE_BYTES

    def name(self, topic: str) -> str:
        """The full name of one of ``TOPICS``, or of another that records are appended to."""
        return f"{self.prefix}.{topic}"

    @property
    def control_group(self) -> str:
        """The consumer group of topic ``control``: the owner of its one partition leads."""
        return f"{self.prefix}.control"

    @property
    def workers_group(self) -> str:
        """The consumer group of the workers."""
        return f"{self.prefix}.workers"

    @property
    def transactional_id(self) -> str:
        """One for the cluster: whoever opens a producer with it deposes the one before."""
        return f"{self.prefix}.broker"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. ``by_model``: as many partitions as the site says, keyed by model; else one, which keeps the order of
    steps. ``key`` and ``carries`` are words for people."""

    name: str
    carries: str
    key: str
    settings: Mapping[str, str] = field(default_factory=dict)
    by_model: bool = False

    def partitions(self, layout: Layout) -> int:
        return layout.partitions if self.by_model else 1

    def configs(self, layout: Layout) -> dict[str, str]:
        """Kafka's settings of the topic, by their names."""
        return {**self.settings, "max.message.bytes": str(layout.message_bytes)}

    @property
    def compacted(self) -> bool:
        return self.settings["cleanup.policy"] == "compact"


TOPICS: Mapping[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("signals", "samples of replicas' metrics, from the scrapers", "model", _A_WEEK, by_model=True),
        Topic("requests", "summaries of requests, from the gateways", "model", _A_WEEK, by_model=True),
        Topic("gateway-sessions", "what a gateway has applied and has open, from itself", "gateway", _AN_HOUR),
        Topic("window-state", "what is settled of each window, from workers", "model", _TOLD, by_model=True),
        Topic("model-snapshots", "the latest snapshot of each model, from workers", "model", _TOLD, by_model=True),
        Topic("scrapers", "that a scraper lives, from itself", "scraper", _AN_HOUR),
        Topic("observations", "steps, whole: what the broker saw and made of it", "step", _FOR_EVER | _ANY_TIME),
        Topic("checkpoints", "whole states to replay from", "step", _FOR_EVER | _ANY_TIME),
        Topic("state", "each entity of the state after the last step", "kind/id", _LATEST | _ANY_TIME),
        Topic("decisions", "every decision with its reason", "model", _FOR_EVER | _ANY_TIME),
        Topic("endpoints", "the registry: each endpoint, a tombstone once it is gone", "endpoint", _LATEST | _ANY_TIME),
        Topic("lease", "who leads, since which epoch, up to which step", "lease", _LATEST | _ANY_TIME),
        Topic("control", "nothing that is kept: whoever owns its partition leads", "", _A_WEEK),
        Topic("usage", "what was used, for accounting", "model", _FOR_EVER | _ANY_TIME),
        Topic("dead-letters", "messages that nobody could read, with the reason", "", _FOR_EVER | _ANY_TIME),
    )
}
"""By the name that follows the site's prefix."""

RECORDS = ("signals", "requests", "usage", "dead-letters")
"""Topics that records are appended to, outside the steps."""

KEPT_BY_LEADER = ("observations", "checkpoints", "state", "decisions", "endpoints", "lease")
"""Topics in which whatever a broker did not write is not meant for it."""

_OF_OTHERS = ("signals", "requests", "gateway-sessions", "window-state", "model-snapshots", "scrapers")
LED = tuple(name for name in TOPICS if name not in _OF_OTHERS)
"""Topics that the broker itself cannot do without."""


def markdown_table(layout: Layout) -> str:
    """The topics as ``docs/kafka.md`` shows them."""
    rows = ["| topic | key | partitions | kept | carries |", "|---|---|---|---|---|"]
    for topic in TOPICS.values():
        partitions = "`partitions`" if topic.by_model else "1"
        rows.append(f"| `{layout.name(topic.name)}` | {topic.key} | {partitions} | {_kept(topic)} | {topic.carries} |")
    return "\n".join(rows) + "\n"


def _kept(topic: Topic) -> str:
    if topic.compacted:
        return "the latest of each key"
    retention_ms = int(topic.settings["retention.ms"])
    return "until the broker trims it" if retention_ms < 0 else format_duration(retention_ms / 1e3)
