"""``tidegate doctor kafka`` on a real Kafka: one that fits, and ones that refuse, each in words of what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewTopic

from broker.clock import SystemClock
from broker.log.kafka.client import Connection, started
from broker.log.kafka.probe import examined
from broker.log.kafka.setup import initialised
from broker.log.kafka.topics import TOPICS, Layout
from cli.output import Exit
from tests.integration.kafka.sites import (
    DELETE,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    GROUP,
    READ,
    TOPIC,
    TRANSACTIONAL_ID,
    WRITE,
    allow,
    found,
    make,
    told,
    write_site,
)  # fmt: skip
from tests.support.ports import free_port
from tests.support.real_kafka import GUEST, GUEST_PASSWORD, PASSWORD, USER, Listener, RealKafka

pytestmark = pytest.mark.integration


def made_topics(kafka: RealKafka, folder: Path, cluster: str) -> None:
    write_site(folder, cluster, bootstrap_servers=kafka.bootstrap_servers, partitions=1)
    assert told(folder, "topics", "init")[0] == Exit.OK


def test_a_kafka_that_fits_has_nothing_to_mend(kafka: RealKafka, kafka_cluster: str, tmp_path: Path) -> None:
    made_topics(kafka, tmp_path, kafka_cluster)
    status, findings = found(tmp_path)
    assert status == Exit.OK
    assert {about: verdict for about, (verdict, _) in findings.items()} == {
        "Kafka": "fine", "TLS": "fine", "servers": "look", "topics": "fine", "brokers": "fine", "rights": "fine",
        "open transactions": "fine", "clock": "fine", "transaction": "fine", "message size": "fine",
    }  # fmt: skip
    assert findings["brokers"][1] == "none runs"


def test_missing_topics_are_told_and_rights_are_not_tried_without_them(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    write_site(tmp_path, kafka_cluster, bootstrap_servers=kafka.bootstrap_servers)
    status, findings = found(tmp_path)
    assert (status, findings["topics"][0], findings["rights"][0]) == (Exit.FAILED, "mend", "look")
    names = [f"tidegate.{kafka_cluster}.{name}" for name in TOPICS]
    assert findings["topics"][1].startswith(f"{', '.join(names)}: topic: missing")


def test_messages_that_a_topic_does_not_take_are_told(kafka: RealKafka, kafka_cluster: str, tmp_path: Path) -> None:
    made_topics(kafka, tmp_path, kafka_cluster)
    servers = kafka.bootstrap_servers
    write_site(tmp_path, kafka_cluster, bootstrap_servers=servers, partitions=1, message_size="2MiB")
    status, findings = found(tmp_path)
    assert (status, findings["message size"][0]) == (Exit.FAILED, "mend")
    assert "max.message.bytes: 1048576, not 2097152" in findings["topics"][1]


def test_a_clock_that_messages_do_not_tell_is_told_as_unknown(
    kafka: RealKafka, kafka_cluster: str, tmp_path: Path
) -> None:
    make(kafka, NewTopic(f"tidegate.{kafka_cluster}.control", 1, 1))
    write_site(tmp_path, kafka_cluster, bootstrap_servers=kafka.bootstrap_servers, partitions=1)
    assert told(tmp_path, "topics", "init")[0] == Exit.FAILED
    status, findings = found(tmp_path)
    assert (status, findings["clock"][0]) == (Exit.FAILED, "look")
    assert "message.timestamp.type: CreateTime, not LogAppendTime" in findings["topics"][1]


async def test_a_leader_is_named_and_not_disturbed(kafka: RealKafka, kafka_cluster: str) -> None:
    connection, layout = Connection((kafka.bootstrap_servers,), client_id="login1"), Layout(kafka_cluster)
    await initialised(connection, layout, alter=False, dry_run=False)
    control = layout.name("control")
    producer = connection.producer(transactional_id=layout.transactional_id)
    member = connection.consumer(control, group_id=layout.control_group)
    async with started(connection, member), started(connection, producer):
        while not member.assignment():
            await member.getmany(timeout_ms=100)
        async with producer.transaction():
            await producer.send_and_wait(control, b"leads", key=b"leader")
            findings = {finding.about: finding for finding in await examined(connection, layout, SystemClock())}
    assert findings["brokers"].words == "login1 on 127.0.0.1"
    assert {finding.verdict.value for finding in findings.values()} == {"fine", "look"}


SASL = {"user": USER, "mechanism": "SCRAM-SHA-512"}
REFUSED: dict[str, tuple[Listener, dict[str, Any], str, str]] = {
    "a wrong password": (Listener.SASL, {"sasl": SASL}, "wrong", "refuses user 'tidegate'"),
    "a wrong password in the clear": (Listener.SASL, {"sasl": SASL | {"mechanism": "PLAIN"}}, "wrong", "refuses user"),
    "a user that nobody knows": (Listener.SASL, {"sasl": SASL | {"user": "nobody"}}, PASSWORD, "refuses user 'nobody'"),
    "no user where one is asked for": (Listener.SASL, {}, "", "something else there than PLAINTEXT"),
    "a user where none is asked for": (Listener.PLAINTEXT, {"sasl": SASL}, PASSWORD, "refuses user"),
    "no TLS where there is": (Listener.SASL_TLS, {"sasl": SASL}, PASSWORD, "something else there than SASL_PLAINTEXT"),
    "TLS where there is none": (Listener.PLAINTEXT, {"tls": {}}, "", "something else there than SSL"),
    "an authority that nobody trusts": (Listener.TLS, {"tls": {}}, "", "log.tls.ca_file"),
}


@pytest.mark.parametrize(("listener", "log", "password", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_kafka_that_refuses_us_is_a_finding_with_what_to_change(
    secured: RealKafka, tmp_path: Path, listener: Listener, log: dict[str, Any], password: str, words: str
) -> None:
    write_site(tmp_path, "hpc", bootstrap_servers=secured.servers(listener), **log)
    status, findings = found(tmp_path, password=password)
    assert (status, list(findings), findings["Kafka"][0]) == (Exit.FAILED, ["Kafka"], "mend")
    assert words in findings["Kafka"][1]


def test_a_kafka_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    write_site(tmp_path, "hpc", bootstrap_servers=f"127.0.0.1:{free_port()}")
    status, findings = found(tmp_path)
    assert (status, list(findings)) == (Exit.FAILED, ["Kafka"])
    assert "does not answer" in findings["Kafka"][1]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_over_tls_fits(secured: RealKafka, kafka_cluster: str, tmp_path: Path, mechanism: str) -> None:
    made_topics(secured, tmp_path, kafka_cluster)
    tls, sasl = {"ca_file": str(secured.authority)}, SASL | {"mechanism": mechanism}
    servers = secured.servers(Listener.SASL_TLS)
    write_site(tmp_path, kafka_cluster, bootstrap_servers=servers, partitions=1, tls=tls, sasl=sasl)
    status, findings = found(tmp_path, password=PASSWORD)
    assert (status, findings["TLS"][0], findings["rights"][0]) == (Exit.OK, "fine", "fine"), findings
    assert f"as {USER} ({mechanism})" in findings["Kafka"][1]


def test_rights_that_a_user_lacks_are_named(secured: RealKafka, kafka_cluster: str, tmp_path: Path) -> None:
    made_topics(secured, tmp_path, kafka_cluster)
    prefix, guest = f"tidegate.{kafka_cluster}", {"user": GUEST, "mechanism": "SCRAM-SHA-256"}
    write_site(tmp_path, kafka_cluster, bootstrap_servers=secured.servers(Listener.SASL), partitions=1, sasl=guest)

    def rights(about: str) -> str:
        status, findings = found(tmp_path, password=GUEST_PASSWORD)
        assert (status, findings[about][0]) == (Exit.FAILED, "mend"), findings
        return findings[about][1]

    assert "may not know of it; give it Describe" in rights("topics")
    allow(secured, TOPIC, f"{prefix}.", DESCRIBE, DESCRIBE_CONFIGS)
    assert "group" in rights("brokers")
    assert "transactional id" in rights("transaction")
    allow(secured, TRANSACTIONAL_ID, f"{prefix}.", WRITE)
    allow(secured, GROUP, f"{prefix}.", DESCRIBE)
    allow(secured, TOPIC, f"{prefix}.state", WRITE, READ)
    for lacking in ("Write", "Read", "Delete"):
        assert f"{lacking} on {prefix}.observations, " in rights("rights")
    assert f"{prefix}.state" not in rights("rights")
    allow(secured, TOPIC, f"{prefix}.", WRITE, READ, DELETE)
    assert rights("rights") == f"give the user Read on the group {prefix}.control"
    allow(secured, GROUP, f"{prefix}.", READ)
    status, findings = found(tmp_path, password=GUEST_PASSWORD)
    assert (status, findings["rights"][0]) == (Exit.OK, "fine"), findings
