"""Group commit: one thread writes, and all that waits at once shares one transaction and one fsync.

Writes of one turn of the event loop are handed over together, when the loop is about to be idle: handed over one by
one, loop and thread fight for the interpreter's lock at every statement, and a commit takes four times as long.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from broker.log.schema import translate, unreachable
from broker.log.tables import read_head, write_records
from broker.log.waiting import BATCH, Waiting, fresh_copy, settle
from broker.model.errors import LeadershipRefused, TidegateError, WireError
from broker.model.ports import Epoch

P = ParamSpec("P")
T = TypeVar("T")

COMMITS_PER_CHECKPOINT = 16
"""How often the write-ahead log is folded into the file: between commits, when nobody waits for it."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Write(Waiting):
    """``work`` to do in a transaction, or records to ``append`` (topic and text)."""

    work: Callable[[sqlite3.Connection], Any] | None = None
    append: tuple[str, str] = ("", "")


class GroupWriter:
    """Owns the leader's connection. What it was asked to write survives a power cut once the asker goes on."""

    def __init__(self, connection: sqlite3.Connection, path: Path, epoch: Epoch) -> None:
        self._connection = connection
        self._path = path
        self._epoch = epoch
        self._file = path.stat()
        self._loop = asyncio.get_running_loop()
        self._turn: list[_Write] = []
        self._queue: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._closed = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    async def write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``work``'s result, committed. If it raises, nothing of it is kept, and the writes beside it are.

        Cancelled while waiting, it may have been written or not.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._hand_over(_Write(future=future, work=lambda connection: work(connection, *args, **kwargs)))
        return await future

    async def append(self, topic: str, text: str) -> None:
        """Records as JSON with commas between them. All of a transaction share a row: rows cost more than text."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._hand_over(_Write(future=future, append=(topic, text)))
        await future

    async def close(self) -> None:
        """Finish what was asked for, then close the connection."""
        self._flush()
        self._queue.put(None)
        await self._closed
        self._thread.join()

    def _hand_over(self, write: _Write) -> None:
        if not self._turn:
            self._loop.call_soon(self._flush)
        self._turn.append(write)

    def _flush(self) -> None:
        if self._turn:
            self._queue.put(self._turn)
            self._turn = []

    def _run(self) -> None:
        commits, closing = 0, False
        while not closing:
            batch, closing = self._gather()
            if batch:
                self._transact(batch)
                self._tell(functools.partial(settle, batch))
            commits += 1
            if commits % COMMITS_PER_CHECKPOINT == 0:
                with contextlib.suppress(sqlite3.Error):  # nothing is lost by it, and the next one tries again
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._connection.close()
        self._tell(functools.partial(self._closed.set_result, None))

    def _gather(self) -> tuple[list[_Write], bool]:
        """All that was handed over while the last transaction ran (or the first that comes), and whether to end."""
        batch: list[_Write] = []
        while (turn := self._queue.get()) is not None:
            batch += turn
            if len(batch) >= BATCH or self._queue.empty():
                return batch, False
        return batch, True

    def _tell(self, callback: Callable[[], object]) -> None:
        """One wake-up of the loop for all of a batch; nobody is left to tell once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _transact(self, batch: list[_Write]) -> None:
        appended: dict[str, list[_Write]] = {}
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._require_leadership()
            for write in batch:
                if write.work is None:
                    appended.setdefault(write.append[0], []).append(write)
                else:
                    self._do(write.work, [write])
            for topic, writes in appended.items():
                body = f"[{','.join(write.append[1] for write in writes)}]"
                self._do(functools.partial(write_records, topic=topic, body=body), writes)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, TidegateError) as error:
            self._undo()
            for write in batch:
                write.error = write.error or self._told(error)

    def _require_leadership(self) -> None:
        """Another leader in spite of the lock (its file was removed by hand) ends this one, and so does a log that was
        removed or replaced: SQLite goes on writing to the lost file, and another broker could lead beside this one."""
        try:
            same = os.path.samestat(self._file, self._path.stat())
        except FileNotFoundError:
            same = False
        except OSError as error:
            raise unreachable(self._path, error) from None
        if not same:
            raise LeadershipRefused(
                f"{self._path} was removed or replaced while this broker led it: this broker must stop; its successor "
                "begins a new log there and finds the replicas that run"
            )
        leader = read_head(self._connection).epoch
        if leader.number != self._epoch.number:
            raise LeadershipRefused(
                f"{self._path} has been taken over by {leader.holder} (epoch {leader.number}, this broker has "
                f"{self._epoch.number}): this broker must stop"
            )

    def _do(self, work: Callable[[sqlite3.Connection], Any], writes: Iterable[_Write]) -> None:
        """One piece of work for all of ``writes``; its failure is theirs, except SQLite's own, which is the batch's."""
        self._connection.execute("SAVEPOINT one")
        result: Any = None
        failure: Exception | None = None
        try:
            result = work(self._connection)
        except sqlite3.Error:
            raise
        except (UnicodeError, OverflowError) as error:
            failure = WireError(f"cannot be stored: {error}")
        except Exception as error:
            failure = error
        if failure is not None:
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")
        for write in writes:
            write.result, write.error = result, failure

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _told(self, error: Exception) -> Exception:
        return translate(self._path, error) if isinstance(error, sqlite3.Error) else fresh_copy(error)
