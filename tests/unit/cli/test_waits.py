"""``tidegate state waits``: what was learned of starts, in tables, as a document, and for the simulator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from broker.app.settings.cluster import load_cluster
from broker.log.sqlite import SqliteLog
from broker.model.state import StartTime, StartTimes, starts_entity_key
from cli.output import Exit
from tests.support.builders import step_record
from tests.support.command_line import tidegate

AT = 1_790_000_000.0
QUEUED = (0.0, 10.0, 20.0, 600.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Of a broker that saw four starts of one model in one pool."""
    latest = tuple(StartTime(AT, queue_s, 40.0) for queue_s in QUEUED)
    starts = StartTimes("shared", "chat", 2, latest)
    path = tmp_path / "tidegate.sqlite"
    asyncio.run(_write(path, starts))
    return path


async def _write(path: Path, *learned: StartTimes) -> None:
    log = SqliteLog(path)
    await log.acquire_leadership("a broker")
    changes = {("starts", starts_entity_key(starts.model_id, starts.pool_id)): starts for starts in learned}
    await log.commit(step_record(changes=changes))
    await log.close()


def test_waits_are_told_by_pool_size_and_time_of_day_and_loads_by_model(log: Path) -> None:
    told = tidegate("state", "waits", "--log", log).output
    assert all(word in told for word in ("shared", "15s", "10m", "chat", "40s"))


def test_a_script_gets_every_start(log: Path) -> None:
    (starts,) = json.loads(tidegate("state", "waits", "--log", log, "--json").stdout)["starts"]
    assert [start["queue_s"] for start in starts["latest"]] == list(QUEUED)
    assert (starts["pool_id"], starts["model_id"], starts["gpus"]) == ("shared", "chat", 2)


def test_the_simulator_takes_what_is_printed_for_it(tmp_path: Path, log: Path) -> None:
    printed = tidegate("state", "waits", "--log", log, "--yaml").stdout
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes: {gpu: {count: 2, gpus: 4}}\npartitions: {gpu: {}}\n" + printed)
    starts = load_cluster(path).cold_starts
    assert starts is not None
    assert (starts.models["chat"].load.median_s, starts.models["chat"].load.sigma) == (40.0, 0.0)
    assert "pool shared, 2 GPUs" in printed


def test_before_the_first_start_there_is_nothing_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.sqlite"
    asyncio.run(_write(path))
    result = tidegate("state", "waits", "--log", path)
    assert (result.exit_code, "no start of a replica" in result.output) == (Exit.FAILED, True)
