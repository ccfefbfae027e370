"""``tidegate adopt`` as a command: what it shows, and when it refuses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from actuators.slurm.job import JobRecord, JobState
from actuators.slurm.marks import Mark
from broker.log.leadership import LeaderLock
from broker.log.sqlite import SqliteLog
from cli.output import Exit
from tests.support.command_line import tidegate
from tests.support.ports import free_port
from tests.support.pretended_squeue import pretended_squeue

MARK = Mark("hpc", "shared", "chat", 3, 7, 1)
JOB = JobRecord(17, MARK.job_name, "tide", MARK.comment, "gpu", JobState.PENDING, reason="Priority", end_at=1.8e9)
FOREIGN = replace(JOB, job_id=18, name="launch-0123456789abcdef")
SITE = """\
cluster: hpc
mode: {mode}
pools:
  shared:
    kind: slurm
    gpus: 8
    partition: gpu
    time_limit: 4h
    job: {{broker_url: "http://127.0.0.1:{port}", directory: {folder}}}
log: {log}
api: {{port: {port}}}
"""
POLICIES = """\
models:
  chat:
    engine: {command: [serve]}
    min: 1
    max: 2
    policy: {kind: threshold, rules: [{name: busy, signal: requests_waiting, above: 1, for: 30s, change: +1}]}
"""
SQLITE = "{kind: sqlite, path: tidegate.sqlite}"


def adopt(
    folder: Path, *words: str, jobs: list[JobRecord], mode: str = "act", log: str = SQLITE, once: bool = False
) -> Result:
    (folder / "site.yaml").write_text(SITE.format(mode=mode, port=free_port(), folder=folder, log=log))
    (folder / "policies.yaml").write_text(POLICIES)
    environment = {**pretended_squeue(folder, jobs, once=once), "TIDEGATE_SITE_SECRET": "the-secret-of-this-site"}
    files = ("--site", str(folder / "site.yaml"), "--policies", str(folder / "policies.yaml"))
    return tidegate("adopt", *words, *files, environment=environment)


def test_without_yes_the_jobs_are_shown_and_nothing_is_written(tmp_path: Path) -> None:
    result = adopt(tmp_path, jobs=[JOB, FOREIGN])
    assert result.exit_code == Exit.OK
    assert "chat-3-g7" in result.output
    assert "take back" in result.output
    assert "leave alone" in result.output
    assert "`tidegate adopt --yes` takes back 1 of them" in result.output
    assert not list(tmp_path.glob("tidegate.sqlite*"))


def test_a_script_is_told_the_same(tmp_path: Path) -> None:
    told = json.loads(adopt(tmp_path, "--json", jobs=[JOB, FOREIGN]).stdout)
    assert [(job["job_id"], job["replica_id"], job["verdict"]) for job in told["jobs"]] == [
        (17, "chat-3-g7", "take back"), (18, None, "leave alone"),
    ]  # fmt: skip
    assert told["replicas"] == []


def test_with_yes_the_job_is_on_record_with_its_generation_and_the_next_one_has_another(tmp_path: Path) -> None:
    result = adopt(tmp_path, "--yes", jobs=[JOB, FOREIGN])
    assert (result.exit_code, "`tidegate run` goes on from there" in result.output) == (Exit.OK, True), result.output
    state = asyncio.run(SqliteLog(tmp_path / "tidegate.sqlite").load()).state
    (record,) = state.replicas_of("chat").values()
    assert (record.replica_id, record.phase, record.generation, record.adopted) == ("chat-3-g7", "pending", 7, True)
    assert state.models["chat"].next_generation == 8
    assert "There is nothing to take back" in adopt(tmp_path, "--yes", jobs=[JOB]).output


def test_while_a_broker_leads_the_log_it_refuses_and_names_it(tmp_path: Path) -> None:
    lock = LeaderLock(tmp_path / "tidegate.sqlite", "the broker")
    try:
        result = adopt(tmp_path, "--yes", jobs=[JOB])
    finally:
        lock.release()
    assert (result.exit_code, "led by the broker" in result.output) == (Exit.REFUSED, True)


def test_a_slurm_that_cannot_be_asked_leaves_everything_as_it_is(tmp_path: Path) -> None:
    result = adopt(tmp_path, "--yes", jobs=[replace(JOB, name="x" * 300)])
    assert (result.exit_code, "the jobs are unknown" in result.output) == (Exit.FAILED, True)
    assert not list(tmp_path.glob("tidegate.sqlite*"))


def test_a_slurm_that_answers_no_more_when_jobs_are_taken_back_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    result = adopt(tmp_path, "--yes", jobs=[JOB], once=True)
    assert (result.exit_code, "pool shared cannot be listed" in result.output) == (Exit.FAILED, True)
    assert asyncio.run(SqliteLog(tmp_path / "tidegate.sqlite").load()).number == 0


USELESS = {
    "a broker that observes": ({"mode": "observe"}, "takes nothing back"),
    "a log in memory": ({"log": "{kind: memory}"}, "the log is in memory"),
}


@pytest.mark.parametrize(("site", "words"), USELESS.values(), ids=USELESS.keys())
def test_where_nothing_could_be_taken_back_it_says_why(tmp_path: Path, site: dict[str, Any], words: str) -> None:
    result = adopt(tmp_path, "--yes", jobs=[JOB], **site)
    assert (result.exit_code, words in result.output) == (Exit.USAGE, True)
