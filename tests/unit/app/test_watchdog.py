"""Whoever watches a worker ends it when it falls silent, and starts another; with it all end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from broker.app.watchdog import PIPE, beat_to, watched_by
from tests.support.command_line import ROOT
from tests.support.waiting import until

pytestmark = pytest.mark.integration

BEATS = "import os, sys, time, signal; pipe = int(os.environ['TIDEGATE_WORKER_PIPE'])"
BEAT = "os.write(pipe, b'.')"


def watchdog(tmp_path: Path, worker: str, silent_s: float = 1.0) -> subprocess.Popen[str]:
    """A process that watches ``worker``, which appends its process id to ``started``."""
    body = f"{BEATS}\nopen({str(tmp_path / 'started')!r}, 'a').write(f'{{os.getpid()}}\\n')\n{textwrap.dedent(worker)}"
    program = (
        f"import sys; from broker.app.watchdog import Watchdog\n"
        f"sys.exit(Watchdog([sys.executable, '-c', {body!r}], silent_after_s={silent_s}).run())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, stdout=subprocess.DEVNULL)


def started(tmp_path: Path) -> list[int]:
    path = tmp_path / "started"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    "silence",
    ["time.sleep(60)", "os.kill(os.getpid(), signal.SIGSTOP)", "signal.signal(15, signal.SIG_IGN); time.sleep(60)"],
    ids=["hangs", "is stopped", "hears no signal"],
)
def test_a_worker_that_falls_silent_is_killed_and_another_is_started(tmp_path: Path, silence: str) -> None:
    with watchdog(tmp_path, f"{BEAT}; {silence}") as watching:
        first = until(lambda: started(tmp_path), "a worker", by=watching)[0]
        until(lambda: len(started(tmp_path)) > 1, "another worker", by=watching)
        assert not psutil.pid_exists(first)
        until(lambda: psutil.Process(watching.pid).children(), "the worker", by=watching)
        watching.terminate()
        assert watching.wait(30) == 0
    assert not any(psutil.pid_exists(pid) for pid in started(tmp_path))


def test_a_worker_that_ends_is_started_again_and_one_that_beats_is_left_alone(tmp_path: Path) -> None:
    worker = f"""
    if not os.path.exists({str(tmp_path / "again")!r}):
        open({str(tmp_path / "again")!r}, 'w').close()
        {BEAT}; sys.exit(3)
    while True:
        {BEAT}; time.sleep(0.1)
    """
    with watchdog(tmp_path, worker) as watching:
        until(lambda: len(started(tmp_path)) == 2, "another worker", by=watching)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(2.5)
        assert len(started(tmp_path)) == 2
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0


def test_a_worker_that_never_came_to_life_tells_its_status_and_is_not_tried_again(tmp_path: Path) -> None:
    with watchdog(tmp_path, "sys.exit(2)") as watching:
        assert watching.wait(30) == 2
    assert len(started(tmp_path)) == 1


def test_a_worker_whose_watchdog_is_gone_learns_of_it() -> None:
    reader, writer = os.pipe()
    told: list[str] = []
    beat = beat_to(writer, lambda: told.append("orphaned"))
    beat()
    assert (os.read(reader, 10), told) == (b".", [])
    for _ in range(100_000):  # a watchdog that does not read holds nobody up
        beat()
    os.close(reader)
    beat()
    os.close(writer)
    assert told == ["orphaned"]


def test_a_process_knows_by_its_environment_whether_it_is_watched() -> None:
    assert watched_by({}) is None
    assert watched_by({PIPE: "7"}) == 7
