"""Something on this machine that a process of its own keeps for people, until it is told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.support.command_line import ROOT
from tests.support.waiting import until

T = TypeVar("T")

FAILED = 1
_UP_S, _END_S = 180.0, 120.0


def up(state: Path, keeper: Sequence[str]) -> int:
    """Start a keeper (a module and its words) in a session of its own unless one runs, and print what it tells.

    ``state`` is the JSON file where the keeper writes that, beside its log. The exit status.
    """
    log = state.with_suffix(".log")
    if (told := living(state)) is None:
        state.parent.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *keeper], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            told = until(lambda: living(state), "it is up", _UP_S, by=process)
        except AssertionError as error:
            print(error, log.read_text(errors="replace"), sep="\n", file=sys.stderr)
            return FAILED
    print(told["description"], end="")
    return 0


def exit_when_told() -> None:
    """For a keeper, before it starts anything."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def keep(state: Path, description: str) -> None:
    """Tell ``up`` that all stands, and wait for the end."""
    began_at = psutil.Process().create_time()
    told = {"pid": os.getpid(), "began_at": began_at, "description": description}
    written = state.with_suffix(".new")
    written.write_text(json.dumps(told), encoding="utf-8")
    written.replace(state)
    try:
        signal.pause()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second `down` waits for what the first one began


def run(kept: AbstractContextManager[T], environment: Callable[[T], Mapping[str, str]], command: Sequence[str]) -> int:
    """Hold ``kept`` for as long as ``command`` runs, which finds it by its environment; the command's status. Whoever
    ends us ends it first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda told, _: sys.exit(128 + told))
    with kept as entered, subprocess.Popen(command, env=environment(entered)) as process:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda told, _: process.send_signal(told))
        signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the command itself
        status = process.wait()
    return status if status >= 0 else 128 - status


def down(state: Path, what: str) -> int:
    """End the keeper, and with it all that it started. The exit status."""
    told = living(state)
    if told is None:
        print(f"no {what} is up")
        return 0
    keeper = psutil.Process(told["pid"])
    keeper.terminate()
    try:
        until(lambda: _ended(keeper), f"the end of process {keeper.pid}", _END_S)
    except AssertionError as error:
        print(f"{error}; see {state.with_suffix('.log')}", file=sys.stderr)
        return FAILED
    state.unlink()
    return 0


def _ended(process: psutil.Process) -> bool:
    """Also where nobody takes note of its end, as in a container whose first process is no init."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def living(state: Path) -> dict[str, Any] | None:
    """What a keeper wrote that still runs."""
    try:
        told: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
        keeper = psutil.Process(told["pid"])
        return told if keeper.create_time() == told["began_at"] and not _ended(keeper) else None
    except (OSError, psutil.NoSuchProcess):
        return None
