"""``tidegate state waits``: what was learned of starts, in tables, as a document, and for the simulator."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from broker.app.settings.cluster import load_cluster
from broker.log.sqlite import SqliteLog
from broker.model.starts import StartPlace, StartTime, StartTimes, starts_entity_key
from cli.output import Exit
from tests.support.builders import step_record
from tests.support.command_line import tidegate

AT = 1_790_000_000.0
QUEUED = (0.0, 10.0, 20.0, 600.0)
H100 = StartPlace("gpu:h100")
H100_CACHED = StartPlace("gpu:h100", weights_cached=True)


LOADED = ((40.0, H100), (40.0, H100), (40.0, H100), (10.0, H100_CACHED))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_of(tmp_path, *LOADED)


def log_of(folder: Path, *loaded: tuple[float, StartPlace]) -> Path:
    """Of a broker that saw four starts of one model in one pool, which loaded so long in such places."""
    latest = tuple(StartTime(AT, queue_s, *load) for queue_s, load in zip(QUEUED, loaded, strict=True))
    path = folder / "tidegate.sqlite"
    asyncio.run(_write(path, StartTimes("shared", "chat", 2, latest)))
    return path


async def _write(path: Path, *learned: StartTimes) -> None:
    log = SqliteLog(path)
    await log.acquire_leadership("a broker")
    changes = {("starts", starts_entity_key(starts.model_id, starts.pool_id)): starts for starts in learned}
    await log.commit(step_record(changes=changes))
    await log.close()


def test_waits_are_told_by_pool_size_and_time_of_day(log: Path) -> None:
    told = tidegate("state", "waits", "--log", log).output
    assert all(word in told for word in ("shared", "15s", "10m"))


def test_loads_are_told_by_model_class_of_node_and_whether_the_weights_were_there(log: Path) -> None:
    lines = tidegate("state", "waits", "--log", log).output.splitlines()
    assert [line.replace("│", "").split() for line in lines if "gpu:h100" in line] == [
        ["chat", "gpu:h100", "no", "3", "40s", "40s"],
        ["chat", "gpu:h100", "yes", "1", "10s", "10s"],
    ]


def test_waits_of_another_part_of_the_day_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.sqlite"
    latest = tuple(StartTime(AT + hour * 3600.0, 10.0, 40.0) for hour in (0, 6, 24))
    asyncio.run(_write(path, StartTimes("shared", "chat", 2, latest)))
    told = tidegate("state", "waits", "--log", path).output
    assert sorted(re.findall(r"[0-9]{2}-[0-9]{2} h +(?:│ +)?([0-9]+)", told)) == ["1", "2"], told


def test_a_script_gets_every_start(log: Path) -> None:
    (starts,) = json.loads(tidegate("state", "waits", "--log", log, "--json").stdout)["starts"]
    assert [start["queue_s"] for start in starts["latest"]] == list(QUEUED)
    assert (starts["pool_id"], starts["model_id"], starts["gpus"]) == ("shared", "chat", 2)
    assert starts["latest"][-1]["place"] == {"node_class": "gpu:h100", "weights_cached": True}


PRINTED: dict[str, tuple[tuple[tuple[float, StartPlace], ...], float, float]] = {
    "what a start without the weights takes longer is their fetching": (LOADED, 30.0, 10.0),
    "where none had the weights, loading is all": (((40.0, H100),) * 4, 0.0, 40.0),
    "where all had them too": (((10.0, H100_CACHED),) * 4, 0.0, 10.0),
}


@pytest.mark.parametrize(("loaded", "fetch_s", "load_s"), PRINTED.values(), ids=PRINTED)
def test_the_simulator_takes_what_is_printed_for_it(
    tmp_path: Path, loaded: tuple[tuple[float, StartPlace], ...], fetch_s: float, load_s: float
) -> None:
    printed = tidegate("state", "waits", "--log", log_of(tmp_path, *loaded), "--yaml").stdout
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes: {gpu: {count: 2, gpus: 4}}\npartitions: {gpu: {}}\n" + printed)
    starts = load_cluster(path).cold_starts
    assert starts is not None
    chat = starts.models["chat"]
    assert (chat.fetch.median_s, chat.load.median_s, chat.load.sigma) == (fetch_s, load_s, 0.0)
    assert "pool shared, 2 GPUs" in printed
    assert "# `cache` and `weights` are made up" in printed
    assert "model chat, nodes gpu:h100, weights in memory " in printed


def test_before_the_first_start_there_is_nothing_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.sqlite"
    asyncio.run(_write(path))
    result = tidegate("state", "waits", "--log", path)
    assert (result.exit_code, "no start of a replica" in result.output) == (Exit.FAILED, True)
