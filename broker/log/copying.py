"""What is kept of a log of any kind, as a new file. Records outside the steps stay where they are."""

from __future__ import annotations

import contextlib
from pathlib import Path

from broker.control.replay import beginning
from broker.log import tables
from broker.log.schema import create, open_to_write, translated
from broker.model.ports import Log


async def copy_to_file(source: Log, path: Path) -> None:
    """Make the log ``path`` of ``source`` as of one moment, also while a broker leads it: state, steps, checkpoints,
    decisions, registry. Whoever it is made for removes it if it fails. Raises ``LogError``."""
    await source.load()  # raises where a log is not whole
    registry = await source.endpoints()  # first: the steps are written over it, those that it already knows too
    start = await beginning(source)
    create(path)
    with translated(path), contextlib.closing(open_to_write(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        tables.write_beginning(connection, start, registry)
        async for record in source.steps(after=start.number):
            tables.write_meta(connection, epoch=record.epoch)
            tables.write_step(connection, record)
        last = tables.read_head(connection).step
        async for checkpoint in source.checkpoints():
            if start.number < checkpoint.number <= last:
                tables.write_checkpoint(connection, checkpoint)
        connection.execute("COMMIT")
