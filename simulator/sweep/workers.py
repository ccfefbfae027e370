"""Tasks on all cores, one process to a core, which lose no more than the one task whose process dies.

A pool of our own, because that of ``concurrent.futures`` is broken as a whole when one of its processes is killed (by
the kernel, for want of memory), and does not tell at which task.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from broker.model.units import format_duration

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Died:
    """The task's process ended before it had an answer, by a signal (negative) or with an exit status."""

    status: int

    @property
    def cause(self) -> str:
        if self.status != -signal.SIGKILL:
            how = f"by {signal.Signals(-self.status).name}" if self.status < 0 else f"with status {self.status}"
            return f"its process ended {how}"
        return "its process was killed (SIGKILL), as the system does when memory runs out; try fewer --jobs"


@dataclass(frozen=True, slots=True)
class Overdue:
    """The task had no answer within ``limit_s``, and its process was ended."""

    limit_s: float

    @property
    def cause(self) -> str:
        return f"it took longer than the time limit of {format_duration(self.limit_s)}"


class _Worker(Generic[Task]):
    """One process; it has a task from ``give`` until its answer is taken."""

    def __init__(self, function: Callable[[Any], Any], preload: Sequence[str]) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.given_at = math.inf

    def give(self, task: Task) -> None:
        self.task = task
        self.given_at = time.monotonic()
        with suppress(OSError):  # if it has just died, ``take`` tells
            self.connection.send(task)

    def take(self) -> tuple[Task, Any]:
        """The task and its answer, once there is something to read; ``Died`` if that is the end."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            answer = Died(self.process.exitcode or 0)
        assert self.task is not None
        return self.task, answer

    def end(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.process.close()


def run_all(
    function: Callable[[Task], Answer], tasks: Iterable[Task], *, jobs: int, preload: Sequence[str] = (),
    limit_s: float | None = None,
) -> Generator[tuple[Task, Answer | Died | Overdue], None, None]:  # fmt: skip
    """``function`` of every task, each with its task as it ends, in any order. ``function`` must be importable and
    raise nothing; ``preload`` names the modules that it needs, which are then imported once for all processes. A task
    that takes longer than ``limit_s``, the start of its process included, is ended.

    Processes end with the iterator (close it), and when this process is killed.
    """
    waiting = iter(tasks)
    workers: list[_Worker[Task]] = []
    try:
        for task in islice(waiting, jobs):
            workers.append(_Worker(function, preload))
            workers[-1].give(task)
        while workers:
            index, task, answer = _first_ended(workers, limit_s)
            yield task, answer
            if isinstance(answer, Died | Overdue):
                workers.pop(index).end()
                index = len(workers)
            for task in islice(waiting, 1):
                if index == len(workers):
                    workers.append(_Worker(function, preload))
                workers[index].give(task)
                break
            else:
                for worker in workers[index : index + 1]:
                    worker.end()
                del workers[index : index + 1]
    finally:
        for worker in workers:
            worker.end()


def _first_ended(workers: Sequence[_Worker[Task]], limit_s: float | None) -> tuple[int, Task, Any]:
    """The worker's place, its task and what came of it."""
    index = min(range(len(workers)), key=lambda place: workers[place].given_at)
    left_s = None if limit_s is None else max(0.0, workers[index].given_at + limit_s - time.monotonic())
    ready = connection.wait([worker.connection for worker in workers], left_s)
    if ready:
        index = next(place for place, worker in enumerate(workers) if worker.connection is ready[0])
        return index, *workers[index].take()
    task = workers[index].task
    assert task is not None
    assert limit_s is not None
    return index, task, Overdue(limit_s)


def _serve(tasks: Connection[Any, Any], function: Callable[[Any], Any]) -> None:
    """A worker's life. Ctrl-C reaches it too, but is for its parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = tasks.recv()
        except EOFError:
            return
        tasks.send(function(task))


def _end_with_parent() -> None:
    """A killed parent cannot end its workers; they would compute for nobody for as long as their tasks last."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
