"""``tidegate topics`` on a real Kafka: what is missing is made, what differs is told, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from broker.log.kafka.topics import TOPICS
from cli.output import Exit
from tests.integration.kafka.sites import asked, make, told, write_site
from tests.support.command_line import tidegate
from tests.support.ports import free_port
from tests.support.real_kafka import RealKafka

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(kafka: RealKafka, kafka_cluster: str, tmp_path: Path) -> Path:
    """Of a site whose topics are not there yet."""
    write_site(tmp_path, kafka_cluster, bootstrap_servers=kafka.bootstrap_servers, partitions=2)
    return tmp_path


def setting(kafka: RealKafka, topic: str, name: str) -> str:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    (answer,) = asked(kafka, lambda admin: admin.describe_configs([resource]))
    (found,) = answer.to_object()["resources"]
    return next(str(entry["config_value"]) for entry in found["config_entries"] if entry["config_names"] == name)


def topics(folder: Path, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    status, document = told(folder, "topics", *words)
    return status, {topic["topic"].rpartition(".")[2]: topic for topic in document["topics"]}


def words_of(topic: dict[str, Any]) -> str:
    return "; ".join(f"{finding['verdict']} {finding['about']}: {finding['words']}" for finding in topic["findings"])


def test_what_is_missing_is_told_then_made_and_then_is_as_it_should_be(folder: Path) -> None:
    status, found = topics(folder, "check")
    assert (status, found.keys()) == (Exit.FAILED, TOPICS.keys())
    assert {words_of(topic) for topic in found.values()} == {"mend topic: missing; `tidegate topics init` makes it"}
    status, found = topics(folder, "init")
    assert (status, {topic["done"] for topic in found.values()}) == (Exit.OK, {"made"})
    assert {name: topic["partitions"] for name, topic in found.items() if TOPICS[name].by_model} == {
        "signals": 2, "requests": 2, "window-state": 2, "model-snapshots": 2,
    }  # fmt: skip
    status, found = topics(folder, "check")
    assert (status, {topic["verdict"] for topic in found.values()}) == (Exit.OK, {"fine"})
    status, found = topics(folder, "init")
    assert (status, {topic["done"] for topic in found.values()}) == (Exit.OK, {""})


def test_a_dry_run_tells_what_would_be_made_and_makes_nothing(folder: Path) -> None:
    status, found = topics(folder, "init", "--dry-run")
    assert (status, {(topic["done"], topic["verdict"]) for topic in found.values()}) == (Exit.OK, {("made", "fine")})
    _, found = topics(folder, "check")
    assert {topic["partitions"] for topic in found.values()} == {None}


def test_settings_that_differ_are_left_unless_they_are_to_be_altered(
    kafka: RealKafka, kafka_cluster: str, folder: Path
) -> None:
    others = {"cleanup.policy": "delete", "segment.bytes": "1048576", "compression.type": "zstd"}
    make(kafka, NewTopic(f"tidegate.{kafka_cluster}.state", 1, 1, topic_configs=others))
    status, found = topics(folder, "init")
    assert (status, found["state"]["done"], found["state"]["verdict"]) == (Exit.FAILED, "", "mend")
    assert "mend cleanup.policy: delete, not compact; `tidegate topics init --alter`" in words_of(found["state"])
    assert "look segment.bytes: 1048576, not 33554432" in words_of(found["state"])
    status, found = topics(folder, "init", "--alter", "--dry-run")
    assert (status, found["state"]["done"], found["state"]["verdict"]) == (Exit.OK, "altered", "fine")
    assert topics(folder, "check")[0] == Exit.FAILED
    status, found = topics(folder, "init", "--alter")
    assert (status, found["state"]["done"], found["state"]["verdict"]) == (Exit.OK, "altered", "fine")
    assert setting(kafka, f"tidegate.{kafka_cluster}.state", "compression.type") == "zstd"


def test_a_topic_with_wrong_partitions_is_named_with_what_mends_it_and_never_changed(
    kafka: RealKafka, kafka_cluster: str, folder: Path
) -> None:
    names = [f"tidegate.{kafka_cluster}.{name}" for name in ("signals", "control")]
    make(kafka, *(NewTopic(name, 5, 1) for name in names))
    status, found = topics(folder, "init", "--alter")
    assert status == Exit.FAILED
    assert "5, not 2; set log.partitions to 5 if all" in words_of(found["signals"])
    assert "5, not 1; delete the topic while no broker runs" in words_of(found["control"])
    assert (found["signals"]["partitions"], found["state"]["done"]) == (5, "made")


def test_more_copies_than_servers_are_refused_with_kafkas_reason(folder: Path) -> None:
    status, found = topics(folder, "init", "--replication", "2")
    assert (status, {topic["done"] for topic in found.values()}) == (Exit.FAILED, {"refused"})
    assert "only 1 broker(s) are registered" in words_of(found["state"])


def test_people_get_a_table_that_names_what_to_do(folder: Path) -> None:
    result = tidegate("topics", "check", "--site", folder / "site.yaml")
    assert result.exit_code == Exit.FAILED
    assert "`tidegate topics init` makes it" in result.output


def test_a_kafka_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    write_site(tmp_path, "hpc", bootstrap_servers=f"127.0.0.1:{free_port()}")
    for command in ("check", "init"):
        result = tidegate("topics", command, "--site", tmp_path / "site.yaml")
        assert (result.exit_code, result.stdout) == (Exit.FAILED, "")
        assert "does not answer" in result.stderr
        assert "log.bootstrap_servers" in result.stderr
