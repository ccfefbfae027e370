"""The request log: whole lines that only its owner reads, bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from broker.model.errors import ConfigError
from gateway.request_log import MOST_WAITING, RequestLog, prompt_tokens_about
from gateway.settings import RequestLogSettings
from traces.readers import open_trace

SECRET = b"the site's secret"


def row(at: float = 1_767_261_600.0, **changes: Any) -> dict[str, Any]:
    return {"at": at, "model": "chat", "prompt_tokens": 12, "output_tokens": 3, "status": "finished", **changes}


def written(path: Path, *rows: dict[str, Any], limit_bytes: int = 1 << 20, **names: str) -> RequestLog:
    """One log that took these rows, each in a flush of its own, and is closed again."""
    request_log = RequestLog(RequestLogSettings(path, limit_bytes), SECRET)

    async def fill() -> None:
        for each in rows:
            request_log.add(each, tenant=names.get("tenant"), session=names.get("session"))
            await request_log.flush()
        await request_log.close()

    asyncio.run(fill())
    return request_log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_what_the_trace_reader_takes_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    written(path, row(), row(1_767_261_601.5, output_tokens=0, status="failed"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    requests = list(open_trace(path))
    assert [(request.arrival_s, request.prompt_tokens, request.failed) for request in requests] == [
        (0.0, 12, False),
        (1.5, 12, True),
    ]


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("")
    path.chmod(0o644)
    written(path, row())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_lines_whose_write_no_thread_has_begun_are_written_at_the_end_all_the_same(tmp_path: Path) -> None:
    """On a busy machine a gateway's last half second was lost, 38 lines of 120."""
    path, busy = tmp_path / "requests.jsonl", threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    beside = asyncio.create_task(asyncio.to_thread(busy.wait, 30.0))
    await asyncio.sleep(0)
    request_log = RequestLog(RequestLogSettings(path), SECRET)
    request_log.add(row(), tenant=None, session=None)
    flushing = asyncio.create_task(request_log.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.wait([flushing])
    busy.set()
    await request_log.close()
    await beside
    assert lines(path) == [row()]


def test_people_and_sessions_are_keyed_hashes(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    written(path, row(), tenant="alice", session="alice")
    written(path, row(), tenant="alice")
    first, second = lines(path)
    assert "alice" not in path.read_text()
    assert first["tenant"] == second["tenant"] != first["session"]
    assert "session" not in second
    other = tmp_path / "other.jsonl"
    request_log = RequestLog(RequestLogSettings(other), b"another secret")
    request_log.add(row(), tenant="alice", session=None)
    asyncio.run(request_log.close())
    assert lines(other)[0]["tenant"] != first["tenant"]


def test_a_full_file_is_kept_under_a_number_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    written(path, *(row(float(n)) for n in range(25)), limit_bytes=180)
    kept = sorted(tmp_path.iterdir(), key=lambda file: float(lines(file)[0]["at"]))
    assert [file.name for file in kept] == [*(f"requests.jsonl.{n}" for n in range(9, 0, -1)), "requests.jsonl"]
    rows = [each["at"] for file in kept for each in lines(file)]
    assert rows == [float(n) for n in range(25 - len(rows), 25)]
    assert all(file.stat().st_size <= 180 for file in kept)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in kept)


def test_who_moves_the_file_away_gets_a_new_one_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    request_log = RequestLog(RequestLogSettings(path), SECRET)

    async def fill() -> None:
        request_log.add(row(1.0), tenant=None, session=None)
        await request_log.flush()
        path.rename(tmp_path / "moved")
        request_log.add(row(2.0), tenant=None, session=None)
        await request_log.close()

    asyncio.run(fill())
    assert [lines(tmp_path / "moved")[0]["at"], lines(path)[0]["at"]] == [1.0, 2.0]


def test_half_a_line_of_a_killed_gateway_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(row(1.0)) + '\n{"at": 2.0, "mod')
    written(path, row(3.0))
    assert [each["at"] for each in lines(path)] == [1.0, 3.0]


def test_a_full_disk_loses_lines_and_counts_them() -> None:
    assert written(Path("/dev/full"), row(), row()).lost == 2


def test_lines_that_a_slow_disk_keeps_waiting_are_bounded(tmp_path: Path) -> None:
    request_log = RequestLog(RequestLogSettings(tmp_path / "requests.jsonl"), SECRET)
    same = row()
    for _ in range(MOST_WAITING + 3):
        request_log.add(same, tenant=None, session=None)
    assert request_log.lost == 3
    asyncio.run(request_log.close())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        pytest.param("missing/requests.jsonl", "No such file or directory", id="no folder"),
        pytest.param(".", "Is a directory", id="a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path, place: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot write the request log: {words}; choose another file"):
        RequestLog(RequestLogSettings(tmp_path / place), SECRET)


def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("no line break")
    with pytest.raises(ConfigError, match="it is there already and is no request log"):
        RequestLog(RequestLogSettings(path), SECRET)
    assert path.read_text() == "no line break"


def test_two_gateways_do_not_write_one_file(tmp_path: Path) -> None:
    first = RequestLog(RequestLogSettings(tmp_path / "requests.jsonl"), SECRET)
    with pytest.raises(ConfigError, match="another process writes it"):
        RequestLog(RequestLogSettings(tmp_path / "requests.jsonl"), SECRET)
    asyncio.run(first.close())


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        pytest.param({"messages": [{"role": "user", "content": "a" * 40}]}, 10, id="a message"),
        pytest.param(
            {"messages": [{"content": [{"type": "text", "text": "a" * 8}, {"type": "image_url"}]}, {}]}, 2, id="parts"
        ),
        pytest.param({"prompt": "a" * 12}, 3, id="a prompt"),
        pytest.param({"prompt": [1, 2, 3]}, 3, id="token numbers"),
        pytest.param({"input": ["a" * 8, "b" * 4]}, 3, id="several texts"),
        pytest.param({"prompt": [[1, 2], [3]]}, 3, id="several token lists"),
        pytest.param({"messages": "nonsense", "prompt": 7}, 1, id="nonsense"),
    ],
)
def test_a_prompt_of_unknown_length_is_a_quarter_of_its_characters(asked: dict[str, Any], tokens: int) -> None:
    assert prompt_tokens_about(asked) == tokens
