"""Tasks on all cores, one process to a core, which lose no more than the one task whose process dies.

A pool of our own, because that of ``concurrent.futures`` is broken as a whole when one of its processes is killed (by
the kernel, for want of memory), and does not tell at which task.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

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

    def give(self, task: Task) -> None:
        self.task = task
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
    function: Callable[[Task], Answer], tasks: Iterable[Task], *, jobs: int, preload: Sequence[str] = ()
) -> Generator[tuple[Task, Answer | Died], None, None]:
    """``function`` of every task, each with its task as it ends, in any order. ``function`` must be importable and
    raise nothing; ``preload`` names the modules that it needs, which are then imported once for all processes.

    Processes end with the iterator (close it), and when this process is killed.
    """
    waiting = iter(tasks)
    workers: list[_Worker[Task]] = []
    try:
        for task in islice(waiting, jobs):
            workers.append(_Worker(function, preload))
            workers[-1].give(task)
        while workers:
            ready = connection.wait([worker.connection for worker in workers])[0]
            index = next(index for index, worker in enumerate(workers) if worker.connection is ready)
            task, answer = workers[index].take()
            yield task, answer
            if isinstance(answer, Died):
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
