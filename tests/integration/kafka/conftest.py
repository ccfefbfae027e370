"""A site whose log is in a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.log.kafka.client import Connection
from broker.log.kafka.log import KafkaLog
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import Layout
from tests.integration.kafka.sites import write_site
from tests.support.real_kafka import RealKafka, why_not


@pytest.fixture
async def log(kafka: RealKafka, kafka_cluster: str, tmp_path: Path) -> KafkaLog:
    """Of the site in ``tmp_path``, its topics made."""
    layout = Layout(kafka_cluster, partitions=2)
    connection = Connection((kafka.bootstrap_servers,))
    await initialised(connection, layout, alter=False, dry_run=False)
    write_site(tmp_path, "hpc", bootstrap_servers=kafka.bootstrap_servers, topic_prefix=kafka_cluster, partitions=2)
    return KafkaLog(connection, layout)


@pytest.fixture(scope="module")
def secured() -> Iterator[RealKafka]:
    """One with listeners that want a password, and with TLS."""
    if (reason := why_not(secured=True)) is not None:
        pytest.skip(reason)
    with RealKafka(secured=True) as kafka:
        yield kafka
