"""A log in Kafka as ``site.yaml`` says it: servers, topics, TLS, and a password that is never in the file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.app.kafka import kafka_connection
from broker.app.settings import SiteSettings, lint, load_secrets, load_site
from broker.app.settings.kafka import KafkaLog
from broker.log.kafka.client import Sasl, Tls
from broker.log.kafka.topics import Layout
from broker.model.errors import ConfigError, ConfigErrors
from tests.unit.settings.files import SITE, refusal, written


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_KAFKA_PASSWORD", raising=False)


def site_with(folder: Path, log: str) -> SiteSettings:
    return load_site(site_file(folder, log))


def site_file(folder: Path, log: str) -> Path:
    return written(folder, SITE + f"    log: {{kind: kafka, {log}}}\n")


def log_of(site: SiteSettings) -> KafkaLog:
    assert isinstance(site.log, KafkaLog)
    return site.log


@pytest.mark.parametrize(
    ("servers", "read"),
    [
        pytest.param("one:9092", ["one:9092"], id="one"),
        pytest.param("'one:9093, two:9094'", ["one:9093", "two:9094"], id="several as text"),
        pytest.param("[one:9093, two]", ["one:9093", "two:9092"], id="a list, and Kafka's port"),
        pytest.param("'[::1]:9093'", ["[::1]:9093"], id="an address of IPv6"),
        pytest.param("'[::1]'", ["[::1]:9092"], id="one without a port"),
    ],
)
def test_servers_are_text_or_a_list(tmp_path: Path, servers: str, read: list[str]) -> None:
    assert log_of(site_with(tmp_path, f"bootstrap_servers: {servers}")).bootstrap_servers == read


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        pytest.param("retention: 1d", "log.bootstrap_servers: this field is missing", id="no servers"),
        pytest.param("bootstrap_servers: []", "names no servers; write kafka1:9092,kafka2:9092", id="an empty list"),
        pytest.param("bootstrap_servers: 'http://one:9092'", "is no server; write HOST:PORT", id="an address of HTTP"),
        pytest.param("bootstrap_servers: 'one:port'", "is no server; write HOST:PORT", id="a port that is none"),
        pytest.param("bootstrap_servers: '::1'", "is no server; write HOST:PORT", id="an address without brackets"),
        pytest.param("bootstrap_servers: a, tls: {key_file: k}", "log.tls.key_file: is a key without", id="a lone key"),
        pytest.param(
            "bootstrap_servers: a, sasl: {user: ''}", "log.sasl.user: String should have at least 1", id="nobody"
        ),
        pytest.param(
            "bootstrap_servers: a, session: 5s",
            "log.session: '5s' is too little",
            id="a session that Kafka does not grant",
        ),
        pytest.param("bootstrap_servers: a, message_size: 1kB", "the least is 64KiB", id="messages of no size"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, log: str, problem: str) -> None:
    (told,) = refusal(load_site, site_file(tmp_path, log))
    assert problem in told


def test_topics_are_named_after_the_cluster_or_as_the_site_says(tmp_path: Path) -> None:
    assert log_of(site_with(tmp_path, "bootstrap_servers: a")).layout("demo") == Layout("tidegate.demo")
    other = site_with(tmp_path, "bootstrap_servers: a, topic_prefix: x, partitions: 3, replication: 2")
    assert log_of(other).layout("demo") == Layout("x", partitions=3, replication=2)


def test_the_password_comes_from_its_file_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_with(tmp_path, "bootstrap_servers: a, tls: {ca_file: ca}, sasl: {user: u, password_file: word}")
    (tmp_path / "word").write_text("from the file\n")
    connection = kafka_connection(log_of(site), load_secrets(site))
    assert connection.sasl == Sasl("SCRAM-SHA-512", "u", "from the file")
    assert connection.tls == Tls(tmp_path / "ca")
    assert connection.protocol == "SASL_SSL"
    assert "from the file" not in repr(connection)
    monkeypatch.setenv("TIDEGATE_KAFKA_PASSWORD", "short")
    connection = kafka_connection(log_of(site), load_secrets(site))
    assert connection.sasl == Sasl("SCRAM-SHA-512", "u", "short")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "word: log.sasl.password_file: there is no such file; write the password", id="gone"),
        pytest.param("\n", "word: log.sasl.password_file: is empty", id="empty"),
    ],
)
def test_a_password_that_cannot_be_read_is_told(tmp_path: Path, content: str | None, problem: str) -> None:
    site = site_with(tmp_path, "bootstrap_servers: a, sasl: {user: u, password_file: word}")
    if content is not None:
        (tmp_path / "word").write_text(content)
    with pytest.raises(ConfigErrors, match=re.escape(problem)):
        load_secrets(site)


def test_a_user_without_a_password_is_told(tmp_path: Path) -> None:
    site = site_with(tmp_path, "bootstrap_servers: a, sasl: {user: u}")
    with pytest.raises(ConfigError, match=r"log\.sasl\.password_file: no password for user 'u': set TIDEGATE_KAFKA"):
        kafka_connection(log_of(site), load_secrets(site))


@pytest.mark.parametrize(("tls", "warned"), [("", True), (", tls: {}", False)])
def test_a_password_in_the_clear_is_warned_of(tmp_path: Path, tls: str, warned: bool) -> None:
    file = site_file(tmp_path, f"bootstrap_servers: a, sasl: {{user: u, mechanism: PLAIN}}{tls}")
    told = lint(file)
    assert any("travels in the clear" in str(one) for one in told.warnings) is warned


def test_without_the_extra_it_is_said_how_to_install_it() -> None:
    code = "import sys; sys.modules['aiokafka'] = None; import broker.app.kafka"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: log.kind: a log in Kafka needs aiokafka: pip install 'tidegate[kafka]'" in ended.stderr
