"""``tidegate topics``, ``dead-letters`` and ``doctor kafka`` where there is nothing to ask, or nobody to ask as."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.output import Exit
from tests.support.command_line import tidegate

COMMANDS = ["topics init", "topics check", "doctor kafka", "dead-letters list", "dead-letters retry --all"]
SITE = "cluster: hpc\npools: {{here: {{kind: local, gpus: 1}}}}\nlog: {log}\n"
UNUSABLE: dict[str, tuple[str, str]] = {
    "a log that is a file": ("{kind: sqlite}", "the site keeps its log in sqlite, not in kafka (docs/kafka.md)"),
    "a user without a password": (
        "{kind: kafka, bootstrap_servers: k1, sasl: {user: tide}}",
        "log.sasl.password_file: no password for user 'tide': set TIDEGATE_KAFKA_PASSWORD",
    ),
    "an authority that is no certificate": (
        "{kind: kafka, bootstrap_servers: k1, tls: {ca_file: site.yaml}}",
        "log.tls: the certificates of Kafka",
    ),
}


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("kafka", "name its servers"),
        ("redis", "'redis' is neither file nor kafka"),
        ("kafka=k1:port", "'k1:port' is no server"),
    ],
    ids=["no servers", "another kind", "no port"],
)
def test_a_demo_whose_log_cannot_be_is_a_usage_error(log: str, words: str) -> None:
    result = tidegate("demo", "--log", log, environment={"TIDEGATE_KAFKA_SERVERS": ""})
    assert (result.exit_code, words in result.stderr.replace("\n", " ")) == (Exit.USAGE, True), result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("log", "words"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_site_that_cannot_be_used_is_a_usage_error(tmp_path: Path, command: str, log: str, words: str) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE.format(log=log))
    result = tidegate(*command.split(), "--json", "--site", site, environment={"TIDEGATE_KAFKA_PASSWORD": ""})
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert words in result.stderr


MISUSED = {
    "a time that is none": (
        "list --since yesterday",
        "--since: 'yesterday' is neither a time (2026-11-22T07:00) nor how",
    ),
    "a topic without measurements": (
        "list --topic state",
        "--topic: 'state' is none of signals, requests, gateway-sessions",
    ),
    "no letters": ("retry", "name the letters to put back by their numbers, or say --all"),
    "some letters and all": ("retry 7 --all", "name the letters to put back by their numbers, or say --all"),
    "a choice among named letters": ("retry 7 --since 2h", "--topic and --since choose among --all"),
}


@pytest.mark.parametrize(("words", "problem"), MISUSED.values(), ids=MISUSED.keys())
def test_dead_letters_that_nobody_can_mean_are_a_usage_error(tmp_path: Path, words: str, problem: str) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE.format(log="{kind: kafka, bootstrap_servers: k1}"))
    result = tidegate("dead-letters", *words.split(), "--json", "--site", site)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert problem in result.stderr


def test_a_replay_from_no_time_at_all_is_a_usage_error(tmp_path: Path) -> None:
    result = tidegate("replay-log", "--from", "yesterday", "--log", tmp_path / "log.sqlite")
    assert (result.exit_code, "--from: 'yesterday' is neither a time" in result.stderr) == (Exit.USAGE, True)
