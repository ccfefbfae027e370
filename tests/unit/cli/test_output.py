"""Tables on terminals of any width, and what is not for terminals at all."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from broker.log.sqlite import SqliteLog
from cli.output import Exit, without
from tests.support.command_line import ROOT

CELLS = {"replica": ["chat-0-g1"], "tier": ["baseline"], "url": ["http://127.0.0.1:45120"], "detail": ["x" * 200]}


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        pytest.param(250, [], id="all of it"),
        pytest.param(68, [], id="the detail is folded"),
        pytest.param(67, ["tier"], id="without what matters least"),
        pytest.param(56, None, id="no table at all rather than a folded url"),
    ],
)
def test_columns_are_left_out_before_a_url_is_folded(width: int, left_out: list[str] | None) -> None:
    assert without(CELLS, whole=("replica", "url"), lesser=("tier",), width=width) == left_out


def test_a_backup_is_not_poured_over_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "cli", "state", "export"]
        ended = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert (ended.returncode, "name a new file" in ended.stderr) == (Exit.USAGE, True)


FULL = "/dev/full"


@pytest.mark.parametrize(
    ("words", "destination", "status", "told"),
    [
        pytest.param(["explain", b"\xff"], "", Exit.USAGE, "argument 2 is not UTF-8 text: \\xff", id="no text"),
        pytest.param(["policy", "schema"], FULL, Exit.FAILED, "the output: No space left on device", id="full"),
        pytest.param(["--help"], FULL, Exit.FAILED, "the output: No space left on device", id="help, full"),
        pytest.param(["policy", "schema"], "closed", Exit.FAILED, "the output: Bad file descriptor", id="closed"),
        pytest.param(
            ["replay-log", "--log", "none"],
            "closed",
            Exit.USAGE,
            "none cannot be reached",
            id="failed, and closed",
        ),
        pytest.param(["policy", "schema"], "unread", Exit.OK, "", id="nobody reads"),
        pytest.param(["--help"], "unread", Exit.OK, "", id="nobody reads the help"),
        pytest.param(["--version"], "unread", Exit.OK, "", id="nobody reads the version"),
    ],
)
def test_output_that_cannot_be_written_is_told_in_a_sentence(
    words: list[str | bytes], destination: str, status: Exit, told: str, tmp_path: Path
) -> None:
    found, errors = _run(words, destination, tmp_path)
    assert (found, told in errors, "Traceback" in errors) == (status, True, False), errors
    assert bool(errors) is bool(told)


def test_a_backup_whose_reader_went_away_is_no_failure(tmp_path: Path) -> None:
    asyncio.run(_make_log(tmp_path / "log.sqlite"))
    assert _run(["state", "export", "--log", "log.sqlite"], "unread", tmp_path) == (Exit.OK, "")


async def _make_log(path: Path) -> None:
    log = SqliteLog(path)
    await log.acquire_leadership("a test")
    await log.close()


def _run(words: list[str | bytes], destination: str, folder: Path) -> tuple[int, str]:
    """(status, standard error) of a command whose standard output is a file, ``unread`` or ``closed``."""
    command: list[str | bytes] = [sys.executable, "-m", "cli", *words]
    if destination == "closed":
        command = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command]
    reading, output = os.pipe()
    os.close(reading)
    if destination != "unread":
        os.close(output)
        output = os.open(destination if destination == FULL else os.devnull, os.O_WRONLY)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        ended = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.PIPE, check=False, env=environment)
    finally:
        os.close(output)
    return ended.returncode, ended.stderr.decode()
