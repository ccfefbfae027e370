"""What `/metrics` tells of a log in Kafka before Kafka has told anything."""

from __future__ import annotations

from broker.app.kafka_metrics import kafka_families
from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.outbox import Outbox
from broker.log.kafka.standing import GroupWatch, Standing
from broker.log.kafka.topics import Layout
from broker.model.signals import MetricSample

NOWHERE, LAYOUT = Connection(("127.0.0.1:1",)), Layout("test")


def test_what_is_not_known_is_left_out_rather_than_told_as_nothing() -> None:
    outbox, watch = Outbox(NOWHERE, LAYOUT, kept=1), GroupWatch(NOWHERE, LAYOUT)
    for number in range(3):
        outbox.send(MetricSample("chat", f"replica-{number}", 1.0, 1.0))
    told = {
        family.name: [value for _, _, value in family.samples]
        for family in kafka_families(KafkaLog(NOWHERE, LAYOUT), outbox, watch, None)
    }
    assert told == {
        "tidegate_measurements_waiting": [1],
        "tidegate_measurements_dropped_total": [2],
        "tidegate_dead_letters_total": [0],
        "tidegate_group_rebalances_total": [],
    }
    watch.latest = Standing({"signals": 0}, {"workers": 0})
    names = {family.name for family in kafka_families(KafkaLog(NOWHERE, LAYOUT), outbox, watch, 1.5)}
    assert names - told.keys() == {
        "tidegate_group_members", "tidegate_consumer_lag_messages", "tidegate_scrapers_silent_seconds",
    }  # fmt: skip
