"""The embedded log: one SQLite file, written by one leader, read by anyone.

A commit is durable when it returns (``synchronous=FULL`` in WAL mode: https://sqlite.org/wal.html). Reading opens a
connection of its own for each page of rows, off the event loop, so that no forgotten iterator keeps the file from
shrinking. Paths on network file systems will not do: WAL needs shared memory between the file's users.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from broker.log import tables
from broker.log.codec import to_text
from broker.log.leadership import LeaderLock
from broker.log.rules import not_leading
from broker.log.schema import create, damaged, open_to_read, open_to_write, translate, translated
from broker.log.writer import GroupWriter
from broker.model.errors import LogDamaged
from broker.model.plan import Decision
from broker.model.ports import Checkpoint, Epoch, StepRecord
from broker.model.replica import EndpointRecord
from broker.model.spec import JsonValue

P = ParamSpec("P")
T = TypeVar("T")

PAGE = 50
"""Rows read at once by the iterators; a step of a large site takes a megabyte."""


@contextlib.contextmanager
def reading(path: Path, *, busy_timeout_s: float = 5.0) -> Iterator[sqlite3.Connection]:
    """A read-only connection that sees one moment of the log; damage found in it names the file."""
    with contextlib.closing(open_to_read(path, busy_timeout_s=busy_timeout_s)) as connection:
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as error:
            raise translate(path, error) from None
        except LogDamaged as error:
            raise damaged(path, str(error)) from None


class SqliteLog:
    """The ``Log`` port over the file ``path``. Without ``acquire_leadership`` it only reads, which may be done while
    another process leads; the constructor touches nothing.

    ``busy_timeout_s``: how long to wait for a program that holds the file locked before ``LogBusy`` is raised.
    """

    def __init__(self, path: str | PathLike[str], *, busy_timeout_s: float = 5.0) -> None:
        self.path = Path(path).resolve()
        self._busy_timeout_s = busy_timeout_s
        self._leading: tuple[LeaderLock, GroupWriter, Epoch] | None = None

    def __str__(self) -> str:
        return str(self.path)

    def reader(self) -> SqliteLog:
        return SqliteLog(self.path, busy_timeout_s=self._busy_timeout_s)

    async def acquire_leadership(self, holder: str) -> Epoch:
        if self._leading is not None:
            return self._leading[2]
        lock, connection, epoch = await asyncio.to_thread(self._lead, holder)
        self._leading = (lock, GroupWriter(connection, self.path, epoch), epoch)
        return epoch

    def may_act(self) -> bool:
        return self._leading is not None

    async def load(self) -> Checkpoint:
        return await self._read(tables.read_state)

    async def commit(self, record: StepRecord) -> None:
        await self._writer().write(tables.write_step, record)

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._writer().write(tables.write_checkpoint, checkpoint)

    async def checkpoints(self) -> AsyncIterator[Checkpoint]:
        after = -1
        while found := await self._read(tables.read_checkpoint, after):
            yield found
            after = found.number

    async def checkpoint_before(self, now: float) -> Checkpoint | None:
        return await self._read(tables.read_checkpoint_before, now)

    async def steps(self, after: int = 0) -> AsyncIterator[StepRecord]:
        while page := await self._read(tables.read_steps, after, PAGE):
            for record in page:
                yield record
            after = page[-1].number

    async def decisions(self, model_id: str | None = None, *, since: float = 0.0, limit: int = 100) -> list[Decision]:
        return await self._read(tables.read_decisions, model_id, since, limit)

    async def endpoints(self) -> list[EndpointRecord]:
        """The registry after the last step, by endpoint id, tombstones left out."""
        return await self._read(tables.read_endpoints)

    async def append(self, topic: str, records: Sequence[JsonValue]) -> None:
        writer = self._writer()
        if records:
            await writer.append(topic, to_text(list(records))[1:-1])

    async def records(self, topic: str) -> AsyncIterator[JsonValue]:
        after = 0
        while page := await self._read(tables.read_records, topic, after, PAGE):
            for _, records in page:
                for record in records:
                    yield record
            after = page[-1][0]

    async def trim(self, before: float) -> None:
        while await self._writer().write(tables.trim_some, before):
            pass

    async def close(self) -> None:
        if self._leading is not None:
            (lock, writer, _), self._leading = self._leading, None
            await writer.close()
            lock.release()

    def _writer(self) -> GroupWriter:
        if self._leading is None:
            raise not_leading()
        return self._leading[1]

    async def _read(
        self, read: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        def run() -> T:
            with reading(self.path, busy_timeout_s=self._busy_timeout_s) as connection:
                return read(connection, *args, **kwargs)

        return await asyncio.to_thread(run)

    def _lead(self, holder: str) -> tuple[LeaderLock, sqlite3.Connection, Epoch]:
        """Lock the file, make or upgrade it, and begin a new epoch in the same breath."""
        lock = LeaderLock(self.path, holder)
        try:
            if not self.path.exists():
                create(self.path)
            connection = open_to_write(self.path, busy_timeout_s=self._busy_timeout_s)
            try:
                with translated(self.path):
                    epoch = _begin_epoch(connection, holder)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            lock.release()
            raise
        return lock, connection, epoch


def _begin_epoch(connection: sqlite3.Connection, holder: str) -> Epoch:
    connection.execute("BEGIN IMMEDIATE")
    epoch = Epoch(tables.read_head(connection).epoch.number + 1, holder)
    tables.write_meta(connection, epoch=epoch.number, holder=holder)
    connection.execute("COMMIT")
    return epoch
