"""Commands that talk to a broker: where they look for it, what they send, how they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.log.sqlite import SqliteLog
from broker.model.replica import ReplicaPhase
from cli.output import Exit, local_time
from tests.support.builders import replica, step_record
from tests.support.command_line import CLEAN, CannedBroker, tidegate

NOBODY = "http://127.0.0.1:1"
ORDERS = [
    ["scale", "chat", "2", "--for", "1h", "--because", "x"], ["hold", "chat"], ["hold", "chat", "--release"],
    ["pause", "all"], ["resume", "model", "chat"],
]  # fmt: skip
QUESTIONS = [["explain", "chat"], ["decisions"], ["models"], ["endpoints"], ["replicas"]]
ids = " ".join


@pytest.fixture
def broker() -> Iterator[CannedBroker]:
    with CannedBroker().running() as running:
        yield running


def site(folder: Path, broker: CannedBroker | None = None, **lines: str) -> Path:
    port = broker.url.rpartition(":")[2] if broker is not None else "0"
    (folder / "secrets").mkdir()
    for name in ("read", "operate"):
        (folder / "secrets" / name).write_text(f"{name}-token-of-the-site\n")
    path = folder / "site.yaml"
    path.write_text(
        "cluster: test\n"
        "pools: {local: {kind: local, gpus: 1, log_dir: logs}}\n"
        f"api: {{port: {port}, read_token_file: secrets/read, operate_token_file: secrets/operate}}\n"
    )
    return path


@pytest.mark.parametrize("words", ORDERS + QUESTIONS, ids=ids)
class TestFailing:
    """Every command in the commonest cases; in the rest one that orders and one that asks, which go the same way."""

    def test_a_broker_that_does_not_answer_is_told(self, words: list[str]) -> None:
        result = tidegate(*words, "--broker", NOBODY)
        assert result.exit_code == Exit.UNREACHABLE
        assert f"no broker answers at {NOBODY}" in result.output
        assert "tidegate run" in result.output

    def test_a_wrong_token_is_told(self, words: list[str], broker: CannedBroker) -> None:
        broker.status, broker.body = 401, {"error": {"code": "unauthorized", "message": "this token is none"}}
        result = tidegate(*words, "--broker", broker.url)
        assert result.exit_code == Exit.REFUSED
        assert "this token is none" in result.output
        assert "--token" in result.output


@pytest.mark.parametrize("words", [ORDERS[0], QUESTIONS[2]], ids=ids)
class TestFailingOtherwise:
    def test_a_refusal_is_told_with_its_words(self, words: list[str], broker: CannedBroker) -> None:
        broker.status, broker.body = 404, {"error": {"code": "no_such_model", "message": "known are: [chat], embed"}}
        result = tidegate(*words, "--broker", broker.url)
        assert result.exit_code == Exit.REFUSED
        assert "known are: [chat], embed" in result.output

    def test_a_broker_whose_log_fails(self, words: list[str], broker: CannedBroker) -> None:
        broker.status, broker.body = 503, {"error": {"code": "log", "message": "the disk is full"}}
        result = tidegate(*words, "--broker", broker.url)
        assert (result.exit_code, "the disk is full" in result.output) == (Exit.FAILED, True)

    @pytest.mark.parametrize("status", [200, 404, 500])
    @pytest.mark.parametrize("raw", [b"<html>", b"", b"\xff"])
    def test_something_that_is_no_broker(self, words: list[str], broker: CannedBroker, raw: bytes, status: int) -> None:
        broker.raw, broker.status = raw, status
        result = tidegate(*words, "--broker", broker.url)
        assert (result.exit_code, "not as a Tidegate broker" in result.output) == (Exit.UNREACHABLE, True)

    @pytest.mark.parametrize("body", [[], 7, None, {"error": 7}, {"error": {}}])
    def test_json_that_is_no_error_of_a_broker(self, words: list[str], broker: CannedBroker, body: Any) -> None:
        broker.body, broker.status = body, 418
        assert tidegate(*words, "--broker", broker.url).exit_code == Exit.REFUSED

    @pytest.mark.parametrize("address", ["", "localhost:8600", "ftp://x", "http://", "http://[bad", "http://x:99999"])
    def test_an_address_that_is_none(self, words: list[str], address: str, tmp_path: Path) -> None:
        result = tidegate(*words, "--broker", address or "http:")
        assert result.exit_code in (Exit.USAGE, Exit.UNREACHABLE)
        assert "error:" in result.output

    def test_a_token_that_does_not_travel(self, words: list[str]) -> None:
        result = tidegate(*words, "--broker", NOBODY, "--token", "ü")
        assert (result.exit_code, "token" in result.output) == (Exit.USAGE, True)


class TestFindingTheBroker:
    def test_a_broker_is_found_by_its_site_file(self, broker: CannedBroker, tmp_path: Path) -> None:
        broker.body = {"models": []}
        path = site(tmp_path, broker)
        assert tidegate("models", "--site", path).exit_code == 0
        assert tidegate("models", environment={"TIDEGATE_SITE": str(path)}).exit_code == 0
        assert [asked[2] for asked in broker.asked] == ["Bearer read-token-of-the-site"] * 2

    def test_orders_show_the_token_that_may(self, broker: CannedBroker, tmp_path: Path) -> None:
        broker.body = {"scope": "all", "name": "", "paused": True}
        tidegate("pause", "all", "--site", site(tmp_path, broker))
        assert broker.asked[0][2] == "Bearer operate-token-of-the-site"

    def test_a_broker_is_found_by_the_site_file_of_this_folder(
        self, broker: CannedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker.body = {"models": []}
        site(tmp_path, broker)
        monkeypatch.chdir(tmp_path)
        assert tidegate("models").exit_code == 0

    def test_a_broker_that_is_named_gets_no_token_of_a_site_that_lies_here(
        self, broker: CannedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker.body = {"models": []}
        site(tmp_path)
        monkeypatch.chdir(tmp_path)
        tidegate("models", "--broker", broker.url)
        tidegate("models", environment={"TIDEGATE_BROKER": broker.url})
        assert [asked[2] for asked in broker.asked] == ["", ""]

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ({}, "read-token-of-the-site"),
            ({"TIDEGATE_READ_TOKEN": "r" * 20}, "r" * 20),
            ({"TIDEGATE_TOKEN": "t" * 20, "TIDEGATE_READ_TOKEN": "r" * 20}, "t" * 20),
        ],
    )
    def test_the_environment_wins_over_the_site(
        self, broker: CannedBroker, tmp_path: Path, given: dict[str, str], shown: str
    ) -> None:
        broker.body = {"models": []}
        path = site(tmp_path, broker)
        tidegate("models", "--site", path, environment=given)
        tidegate("models", "--site", path, "--token", "flag", environment=given)
        assert [asked[2] for asked in broker.asked] == [f"Bearer {shown}", "Bearer flag"]

    def test_who_may_read_one_secret_only_can_ask(self, broker: CannedBroker, tmp_path: Path) -> None:
        broker.body = {"models": []}
        path = site(tmp_path, broker)
        (tmp_path / "secrets" / "read").unlink()
        assert tidegate("models", "--site", path).exit_code == 0
        assert broker.asked[0][2] == "Bearer operate-token-of-the-site"
        (tmp_path / "secrets" / "operate").unlink()
        result = tidegate("models", "--site", path)
        assert (result.exit_code, "secrets/read" in result.output) == (Exit.USAGE, True)

    def test_a_site_that_leaves_the_port_to_the_kernel(self, tmp_path: Path) -> None:
        result = tidegate("models", "--site", site(tmp_path))
        assert (result.exit_code, "--broker" in result.output) == (Exit.USAGE, True)

    def test_a_site_file_that_is_missing_or_wrong(self, tmp_path: Path) -> None:
        result = tidegate("models", "--site", tmp_path / "nope.yaml")
        assert (result.exit_code, "no such file" in result.output) == (Exit.USAGE, True)
        (tmp_path / "site.yaml").write_text("cluster: [\n")
        assert tidegate("models", "--site", tmp_path / "site.yaml").exit_code == Exit.USAGE


class TestAsking:
    def test_names_travel_whole(self, broker: CannedBroker) -> None:
        broker.body = {"words": []}
        tidegate("explain", "a/b?c#d e", "--broker", broker.url)
        assert broker.asked[0][1] == "/v1/explain/a%2Fb%3Fc%23d%20e"

    def test_words_are_shown_as_they_are(self, broker: CannedBroker) -> None:
        broker.body = {"words": ["rules[queue] wanted [bold]3[/bold]"]}
        assert "rules[queue] wanted [bold]3[/bold]" in tidegate("explain", "chat", "--broker", broker.url).output

    def test_json_is_the_answer(self, broker: CannedBroker) -> None:
        broker.body = {"anything": [1, 2]}
        for words in QUESTIONS + ORDERS:
            result = tidegate(*words, "--json", "--broker", broker.url)
            assert json.loads(result.stdout) == broker.body, words

    def test_empty_tables_say_so(self, broker: CannedBroker) -> None:
        broker.body = {"models": [], "decisions": [], "replicas": [], "endpoints": [], "revision": 3, "now": 0.0}
        for words in (["decisions"], ["models"], ["endpoints"], ["replicas"]):
            assert ": none" in tidegate(*words, "--broker", broker.url).output

    def test_nothing_of_a_table_is_lost_in_a_pipe(self, broker: CannedBroker) -> None:
        url = "http://" + "a-long-name." * 8 + "example:8000"
        broker.body = {
            "revision": 1,
            "endpoints": [
                {"endpoint_id": "chat-0-g1", "model_id": "chat", "phase": "ready", "tier": "baseline", "url": url}
            ],
        }
        assert url in tidegate("endpoints", "--broker", broker.url).output

    def test_models_tell_targets_and_overrides(self, broker: CannedBroker) -> None:
        broker.body = {
            "models": [
                {
                    "model_id": "chat", "target": 3, "minimum": 1, "maximum": 4, "retired": False,
                    "policy": "threshold", "phases": {"ready": 2, "loading": 1, "gone": 7},
                    "last_code": "override_target",
                    "override": {"target": 3, "author": "ada", "until": 2e9},
                }
            ]
        }  # fmt: skip
        output = tidegate("models", "--broker", broker.url).output
        for words in ("1..4", "1 loading, 2 ready", "3 by ada until"):
            assert words in output
        assert "gone" not in output

    def test_why_a_replica_failed_stands_below_the_table(self, broker: CannedBroker) -> None:
        why = "cannot execute 'vllm': there is no such program"
        broker.body = {"now": 9.0, "replicas": [failed_replica(why)]}
        output = tidegate("replicas", "--broker", broker.url).output
        assert f"chat-0-g1 failed (rejected): {why}\n" in output

    def test_those_that_failed_for_one_reason_are_told_in_one_line(self, broker: CannedBroker) -> None:
        why, crashed = failed_replica("no such account"), failed_replica("exited") | {"failure": "exited"}
        names = ("chat-0-g1", "chat-0-g2", "chat-0-g3")
        broker.body = {
            "now": 9.0,
            "replicas": [row | {"replica_id": name} for row, name in zip((why, crashed, why), names, strict=True)],
        }
        output = tidegate("replicas", "--broker", broker.url).output
        assert "chat-0-g1, chat-0-g3 failed (rejected): no such account\nchat-0-g2 failed (exited)\n" in output

    def test_those_that_have_ended_are_counted_and_listed_when_asked_for(self, broker: CannedBroker) -> None:
        gone = failed_replica("") | {"phase": "gone", "failure": "", "pool_id": "p1"}
        serving = gone | {"phase": "ready", "replica_id": "chat-1-g9"}
        broker.body = {"now": 9.0, "replicas": [gone, gone | {"replica_id": "chat-0-g2"}, serving]}
        output = tidegate("replicas", "--broker", broker.url).output
        assert ("chat-1-g9" in output, "chat-0-g2" in output) == (True, False)
        assert "Ended: 2 gone; --all lists them.\n" in output
        everything = tidegate("replicas", "--all", "--broker", broker.url).output
        assert ("chat-0-g2" in everything, "Ended" in everything) == (True, False)

    def test_why_replicas_wait_stands_below_the_table_once(self, broker: CannedBroker) -> None:
        waiting = failed_replica("Priority: it waits") | {"phase": "pending", "failure": ""}
        broker.body = {"now": 9.0, "replicas": [waiting, waiting | {"replica_id": "chat-1-g2"}]}
        output = tidegate("replicas", "--broker", broker.url).output
        assert "pending: chat-0-g1, chat-1-g2: Priority: it waits\n" in output

    def test_a_replica_that_serves_is_told_with_its_job_and_when_that_ends(self, broker: CannedBroker) -> None:
        serving = failed_replica("") | {
            "phase": "ready", "failure": "", "runs_as": "job 41 on n2", "not_after": 2e9, "url": "http://n2:20000",
        }  # fmt: skip
        broker.body = {"now": 9.0, "replicas": [serving]}
        output = tidegate("replicas", "--broker", broker.url).output
        assert ("job 41 on n2" in output, local_time(2e9, "%F %H:%M") in output) == (True, True)

    def test_a_pool_that_cannot_be_listed_stands_below_the_replicas(self, broker: CannedBroker) -> None:
        known = {"pool_id": "local", "unknown_since": None, "error": ""}
        unknown = {"pool_id": "shared", "unknown_since": 60.0, "error": "squeue: no slurmctld answers"}
        broker.body = {"now": 100.0, "replicas": [], "pools": [known, unknown]}
        output = tidegate("replicas", "--broker", broker.url).output
        words = "pool shared has been unknown for 40s, and nothing is started there: squeue: no slurmctld answers\n"
        assert (words in output, "pool local" in output) == (True, False)

    def test_models_tell_what_keeps_them_from_their_targets(self, broker: CannedBroker) -> None:
        held = {
            "model_id": "chat", "target": 1, "minimum": 1, "maximum": 1, "retired": False, "policy": "threshold",
            "phases": {}, "last_code": "", "override": None, "standing": ["Now: starts in pool hpc failed: no account"],
        }  # fmt: skip
        broker.body = {"models": [held]}
        output = tidegate("models", "--broker", broker.url).output
        assert "chat: Now: starts in pool hpc failed: no account\n" in output

    def test_models_tell_what_is_paused(self, broker: CannedBroker) -> None:
        pause = {"scope": "pool", "name": "local", "author": "ada", "because": "a new disk", "received_at": 2e9}
        broker.body = {"models": [], "pauses": [pause]}
        output = tidegate("models", "--broker", broker.url).output
        assert "paused: pool local, by ada since 2033-05-18" in output
        assert "a new disk" in output


def failed_replica(why: str) -> dict[str, Any]:
    return {
        "replica_id": "chat-0-g1", "phase": "failed", "phase_since": 1.0, "pool_id": "local", "tier": "baseline",
        "url": None, "failure": "rejected", "detail": why, "runs_as": "", "not_after": None,
    }  # fmt: skip


class TestOrdering:
    def test_scale_sends_target_time_reason_and_author(self, broker: CannedBroker) -> None:
        broker.body = {"model_id": "chat", "target": 3, "until": 2e9}
        result = tidegate(
            "scale", "chat", "3", "--for", "1h30m", "--because", "a launch", "--author", "ada", "--broker", broker.url
        )
        assert broker.asked[0][:2] == ("POST", "/v1/overrides")
        assert broker.asked[0][3] == {
            "model_id": "chat", "target": 3, "for_s": 5400.0, "because": "a launch", "author": "ada",
        }  # fmt: skip
        assert "chat: set to 3 until 2033-05-18" in result.output

    def test_scale_says_when_bounds_made_something_else_of_it(self, broker: CannedBroker) -> None:
        broker.body = {"model_id": "chat", "target": 4, "until": 2e9}
        words = ["scale", "chat", "9", "--for", "1h", "--because", "x", "--broker", broker.url]
        assert "its target is 4 now" in tidegate(*words).output

    def test_a_hold_is_set_and_released(self, broker: CannedBroker) -> None:
        broker.body = {"model_id": "chat", "target": 2, "until": 2e9}
        assert "held at 2" in tidegate("hold", "chat", "--broker", broker.url).output
        assert broker.asked[0][3]["target"] is None
        assert "the policy decides again" in tidegate("hold", "chat", "--release", "--broker", broker.url).output
        assert broker.asked[1][0] == "DELETE"
        assert broker.asked[1][1].startswith("/v1/overrides/chat?author=")

    @pytest.mark.parametrize("duration", ["", "soon", "5", "-5m", "1h5"])
    def test_a_bad_duration_is_told(self, duration: str) -> None:
        result = tidegate("scale", "chat", "2", "--for", duration, "--because", "x", "--broker", NOBODY)
        assert (result.exit_code, "--for" in result.output) == (Exit.USAGE, True)

    @pytest.mark.parametrize("words", [[], ["pool"], ["model"], ["all", "chat"], ["rack", "x"]], ids=ids)
    def test_a_pause_of_nothing_in_particular_is_refused(self, words: list[str]) -> None:
        for command in ("pause", "resume"):
            result = tidegate(command, *words, "--broker", NOBODY)
            assert (result.exit_code, f"{command} pool NAME" in result.output) == (Exit.USAGE, True)

    def test_a_pause_is_set_and_taken_back(self, broker: CannedBroker) -> None:
        broker.body = {"scope": "pool", "name": "local", "paused": True}
        assert (
            "pool local: starts and stops are frozen"
            in tidegate("pause", "pool", "local", "--broker", broker.url).output
        )
        assert "starts and stops go on" in tidegate("resume", "pool", "local", "--broker", broker.url).output
        assert [asked[3]["paused"] for asked in broker.asked] == [True, False]


async def record_a_rejected_start(path: Path) -> None:
    record = replace(replica(), phase=ReplicaPhase.FAILED, failure="rejected", detail="rejected by its pool")
    log = SqliteLog(path)
    await log.acquire_leadership("broker-a")
    await log.commit(step_record(changes={("replica", record.replica_id): record}))
    await log.close()


class TestLogs:
    def test_the_end_of_what_a_replica_wrote_is_shown(self, tmp_path: Path) -> None:
        path = site(tmp_path)
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "chat-0-g1.log.1").write_text("one [old]\n")
        (tmp_path / "logs" / "chat-0-g1.log").write_text("two\nthree\n")
        assert tidegate("replicas", "logs", "chat-0-g1", "--site", path).output == "one [old]\ntwo\nthree\n"
        assert tidegate("replicas", "logs", "chat-0-g1", "-n", "1", "--site", path).output == "three\n"
        told = json.loads(tidegate("replicas", "logs", "chat-0-g1", "--json", "--site", path).output)
        assert told == {"replica_id": "chat-0-g1", "lines": ["one [old]", "two", "three"]}

    @pytest.mark.parametrize("name", ["nope", "../site", "/etc/passwd", ".."])
    def test_no_log_of_that_name(self, tmp_path: Path, name: str) -> None:
        result = tidegate("replicas", "logs", name, "--site", site(tmp_path))
        assert (result.exit_code, "there is no log of" in result.output) == (Exit.FAILED, True)

    def test_no_log_of_what_never_started_tells_why(self, tmp_path: Path) -> None:
        log = tmp_path / "tidegate.sqlite"
        path = site(tmp_path)
        path.write_text(path.read_text() + f"log: {{kind: sqlite, path: {log.name}}}\n")
        asyncio.run(record_a_rejected_start(log))
        result = tidegate("replicas", "logs", "chat-0-g1", "--site", path)
        assert result.exit_code == Exit.FAILED
        assert "it never started: rejected" in result.output

    def test_a_log_that_cannot_be_read(self, tmp_path: Path) -> None:
        path = site(tmp_path)
        (tmp_path / "logs" / "chat-0-g1.log").mkdir(parents=True)
        result = tidegate("replicas", "logs", "chat-0-g1", "--site", path)
        assert (result.exit_code, "Is a directory" in result.output) == (Exit.FAILED, True)


def test_the_environment_is_clean_in_these_tests() -> None:
    assert set(CLEAN.values()) == {""}
