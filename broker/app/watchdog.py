"""A worker's watchdog: starts the worker as a process of its own, and another when it ends or falls silent.

A process, since what makes a worker silent may hold the interpreter, or stop it whole. It knows Kafka only by the
worker's beats (one byte each, on a pipe), so that it needs next to nothing itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

logger = structlog.get_logger("worker")

SILENT_AFTER_S = 30.0
"""Without a beat for this long a worker is killed. Far longer than a rebalance, or than opening a partition takes."""
FIRST_BEAT_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
RESTARTED_AFTER_S = 1.0
LOOKED_EVERY_S = 0.5

PIPE = "TIDEGATE_WORKER_PIPE"
"""The environment variable by which a worker knows where to beat."""


class Watchdog:
    """``command`` is the worker's, which finds the pipe by ``watched_by``. ``run`` in the main thread."""

    def __init__(self, command: Sequence[str], *, silent_after_s: float = SILENT_AFTER_S) -> None:
        self._command = command
        self._silent_after_s = silent_after_s
        self._asked = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT: 0 then, in bounded time. A worker that never came to life is not started again: its
        exit status is returned."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while True:
                status, lived = self._watched()
                if self._asked:
                    return 0
                if not lived:
                    return status
                logger.error("worker_ended", status=status, action="another is started")
                time.sleep(RESTARTED_AFTER_S)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _watched(self) -> tuple[int, bool]:
        """One worker, from its start to its end: its exit status, and whether it ever beat."""
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                self._command, env=os.environ | {PIPE: str(writer)}, pass_fds=[writer], start_new_session=True
            )
            os.close(writer)
            lived = self._watch(process, reader)
            return process.wait(), lived
        finally:
            os.close(reader)

    def _watch(self, process: subprocess.Popen[bytes], reader: int) -> bool:
        lived, kill_at = False, time.monotonic() + FIRST_BEAT_WITHIN_S
        asked = False
        while process.poll() is None:
            if self._asked and not asked:
                asked, kill_at = True, time.monotonic() + STOP_WITHIN_S
                process.terminate()
            if time.monotonic() >= kill_at:
                action = "it is killed" if asked else "it is killed, and another is started"
                logger.error("worker_silent", pid=process.pid, action=action)
                process.kill()
                process.wait()
            elif select.select([reader], [], [], LOOKED_EVERY_S)[0]:
                if not os.read(reader, 4096):
                    time.sleep(LOOKED_EVERY_S / 10)  # it is ending
                elif not asked:
                    lived, kill_at = True, time.monotonic() + self._silent_after_s
        return lived


def watched_by(environment: Mapping[str, str]) -> int | None:
    """The pipe of the watchdog that started this process; None if none did."""
    pipe = environment.get(PIPE, "")
    return int(pipe) if pipe.isdecimal() else None


def beat_to(pipe: int, orphaned: Callable[[], None]) -> Callable[[], None]:
    """What a worker calls to beat. ``orphaned`` is called when nobody watches any more: such a worker ends, since
    nobody would when it hangs."""

    def beat() -> None:
        try:
            with contextlib.suppress(BlockingIOError):  # the last ones have not been read yet
                os.write(pipe, b".")
        except BrokenPipeError:
            orphaned()

    os.set_blocking(pipe, False)
    return beat
