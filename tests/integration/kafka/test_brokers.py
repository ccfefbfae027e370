"""`tidegate run` with a log in Kafka: one broker leads, the other stands by, as real processes.

What happens when the leader dies or is paused is in tests/faults/kafka.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.log.kafka.client import Connection
from broker.log.kafka.topics import Layout
from cli.output import Exit
from tests.support.broker_processes import BrokerProcess, brokers, longest_gap_s, make_site
from tests.support.real_kafka import RealKafka
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

LEASE_S = 60.0
"""Far longer than a hand-over takes on a loaded machine."""


@pytest.fixture
def topics(kafka: RealKafka, kafka_cluster: str) -> tuple[Connection, Layout]:
    return Connection((kafka.bootstrap_servers,)), Layout(kafka_cluster, partitions=2)


async def test_a_rolling_restart_leaves_no_gap_in_decisions_as_long_as_the_lease(
    tmp_path: Path, topics: tuple[Connection, Layout]
) -> None:
    folder = tmp_path / "site"
    await make_site(folder, *topics, lease_s=LEASE_S)
    assert await longest_gap_s(folder, *topics) < LEASE_S


async def test_a_stand_by_says_once_who_leads_and_ends_when_it_is_told(
    tmp_path: Path, topics: tuple[Connection, Layout]
) -> None:
    folder = tmp_path / "site"
    await make_site(folder, *topics)
    with brokers() as running:
        first = BrokerProcess(folder, "first")
        running.append(first)
        await eventually(first.leads, "the first leads")
        assert first.answers()

        second = BrokerProcess(folder, "second")
        running.append(second)
        await eventually(second.stands_by, "the second stands by")
        assert not second.leads()
        assert second.ended() == Exit.OK
        assert second.said().count("standing_by") == 1
        assert f'"leader": "pid {first.process.pid} on' in second.said()
