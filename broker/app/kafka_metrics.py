"""What ``GET /metrics`` shows beside the rest where the log is in Kafka."""

from __future__ import annotations

from collections.abc import Iterator

from broker.log.kafka.log import KafkaLog
from broker.log.kafka.outbox import Outbox
from broker.log.kafka.standing import GroupWatch
from broker.model.ports import Log
from broker.prometheus_text import Family, single


def kafka_families(log: Log, outbox: Outbox, watch: GroupWatch, scrapers_silent_s: float | None) -> Iterator[Family]:
    """What is not known is left out."""
    if isinstance(log, KafkaLog) and (leading := log.leading()) is not None:
        age_s = leading.commit_age_s
        yield single("tidegate_log_commit_age_seconds", "Time since the last confirmed transaction began.", age_s)
        yield single("tidegate_log_epoch", "Terms of leadership so far.", leading.lease.epoch)
        told = "Leaders so far that were followed by another before they had let their lease go."
        yield single("tidegate_log_depositions_total", told, leading.lease.depositions)
    yield single("tidegate_measurements_waiting", "Measurements that Kafka has not confirmed yet.", outbox.waiting)
    yield single("tidegate_measurements_dropped_total", "Measurements given up unwritten.", outbox.dropped)
    told = "Messages that nobody could read, since this broker leads."
    yield single("tidegate_dead_letters_total", told, watch.dead_letters)
    yield Family(
        "tidegate_group_rebalances_total",
        "Times that a group's partitions were found shared otherwise than before, since this broker leads.",
        [("", {"group": group}, count) for group, count in sorted(watch.rebalances.items())],
    )
    if scrapers_silent_s is not None:
        yield single("tidegate_scrapers_silent_seconds", "Time since any scraper was heard.", scrapers_silent_s)
    if (standing := watch.latest) is None:
        return
    yield Family(
        "tidegate_group_members",
        "Processes in a group.",
        [("", {"group": group}, count) for group, count in sorted(standing.members.items())],
    )
    yield Family(
        "tidegate_consumer_lag_messages",
        "Messages that workers have still to read.",
        [("", {"topic": topic}, lag) for topic, lag in sorted(standing.lag.items())],
    )
