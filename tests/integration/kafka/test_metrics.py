"""What a broker's `/metrics` tells of its Kafka, of workers and of what nobody could read."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker.log.kafka.client import Connection, started
from broker.log.kafka.topics import Layout
from tests.integration.kafka.sites import worker
from tests.support.broker_processes import MODEL, BrokerProcess, brokers, make_site
from tests.support.real_kafka import RealKafka
from tests.support.shared_data import REPOSITORY
from tests.support.waiting import eventually, until_answered

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BAD = 7
OF_KAFKA = ("tidegate_log_epoch", "tidegate_log_c", "tidegate_log_d", "tidegate_group", "tidegate_consumer",
            "tidegate_measurements", "tidegate_dead", "tidegate_scrapers")  # fmt: skip
RULES = REPOSITORY / "deploy" / "prometheus" / "kafka.rules.yaml"

Figures = dict[tuple[str, str], float]
"""By the metric's name and its label's value, which is empty where there is no label."""


def figures(broker: BrokerProcess, folder: Path) -> Figures:
    token = (folder / "secrets" / "read").read_text().strip()
    answer = httpx.get(f"{broker.address}/metrics", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert answer.status_code == 200
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if len(sample.labels) < 2
    }


async def until(broker: BrokerProcess, folder: Path, wanted: Figures) -> Figures:
    """All figures, once these are among them."""
    found: Figures = {}

    async def asked() -> Figures:
        nonlocal found
        found = await asyncio.to_thread(figures, broker, folder)
        return found

    await until_answered(asked, lambda found: wanted.items() <= found.items(), f"{wanted}", limit_s=60.0)
    return found


async def test_a_broker_tells_of_its_log_of_those_who_read_and_of_what_nobody_could(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    connection, layout, folder = Connection((kafka.bootstrap_servers,)), Layout(kafka_cluster, 2), tmp_path / "site"
    await make_site(folder, connection, layout)
    with (folder / "site.yaml").open("a") as site:
        site.write("scrape: {by: scrapers}\n")
    with brokers() as running:
        first = BrokerProcess(folder, "first")
        running.append(first)
        await eventually(first.leads, "the first leads")
        found = await until(first, folder, {("tidegate_group_members", "workers"): 0.0})
        assert found["tidegate_log_epoch", ""] == 1.0
        assert found["tidegate_log_depositions_total", ""] == 0.0
        assert 0.0 <= found["tidegate_log_commit_age_seconds", ""] < 60.0
        async with started(connection, connection.producer()) as producer:
            for _ in range(BAD):
                await producer.send_and_wait(layout.name("requests"), b"{", key=MODEL.encode())
        await until(first, folder, {("tidegate_consumer_lag_messages", "requests"): BAD})

        second = BrokerProcess(folder, "second")
        running.append(second)
        await eventually(second.stands_by, "the second stands by")
        await until(first, folder, {("tidegate_group_members", "brokers"): 2.0})
        first.ended(signal.SIGKILL)
        await eventually(second.leads, "the second leads")
        with worker(folder):
            await until(second, folder, {("tidegate_group_members", "workers"): 1.0})
            async with started(connection, connection.producer()) as producer:
                for _ in range(BAD):
                    await producer.send_and_wait(layout.name("requests"), b"{", key=MODEL.encode())
            found = await until(
                second, folder,
                {("tidegate_dead_letters_total", ""): BAD, ("tidegate_consumer_lag_messages", "requests"): 0.0},
            )  # fmt: skip
        assert (found["tidegate_log_epoch", ""], found["tidegate_log_depositions_total", ""]) == (2.0, 1.0)
        assert found["tidegate_group_rebalances_total", "workers"] >= 1.0
        assert {name for name, _ in found if name.startswith(OF_KAFKA)} == documented()


def documented() -> set[str]:
    page = (REPOSITORY / "docs" / "kafka.md").read_text()
    return set(re.findall(r"^\| `(tidegate_\w+)", page, re.MULTILINE))


def test_each_alert_is_of_metrics_that_are_documented() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    expressions = [rule["expr"] for rule in group["rules"]]
    assert all(set(re.findall(r"tidegate_\w+", expression)) <= documented() for expression in expressions)
    assert all(re.search(r"tidegate_\w+", expression) for expression in expressions)
