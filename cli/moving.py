"""``tidegate state import`` into a log in Kafka: a backup, or the file of a site that moves there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cli.output import errors

if TYPE_CHECKING:
    from broker.log.kafka.log import KafkaLog
    from broker.log.sqlite import SqliteLog

_SQLITE = b"SQLite format 3\0"


def is_log_file(source: str) -> bool:
    """Whether ``source`` is the file of a log rather than a backup."""
    try:
        with Path(source).open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def move_backup(stream: TextIO, target: KafkaLog) -> int:
    """As ``move_log``, of what ``state export`` wrote; nothing is written unless all of it can be read."""
    from broker.log.transfer import import_state

    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        path = Path(folder) / "log.sqlite"
        import_state(path, stream)
        return move_log(path, target)


def move_log(path: Path, target: KafkaLog) -> int:
    """Returns the last step. Raises ``LeadershipRefused`` while a broker leads either log, and ``LogError``."""
    import asyncio

    from broker.log.sqlite import SqliteLog

    return asyncio.run(_moved(SqliteLog(path), target))


async def _moved(source: SqliteLog, target: KafkaLog) -> int:
    from broker.control.replay import beginning

    try:
        epoch = await source.acquire_leadership("tidegate state import")
        first, last = (await beginning(source)).number, (await source.load()).number
        with _progress(first, last) as moved:
            await target.receive(source, epoch.number, moved)
    finally:
        await target.close()
        await source.close()
    return last


@contextmanager
def _progress(first: int, last: int) -> Iterator[Callable[[int], None]]:
    """Told the number of each step, shows now and then how far that is."""
    from cli.progress import LINE_EVERY_S, Paced

    with errors.status("moving the log") as status:

        def show(percent: float, number: int) -> None:
            words = f"moving the log: {percent:.0f}%, step {number:,} of {last:,}"
            if errors.is_terminal:
                status.update(words)
            else:
                errors.print(words, highlight=False)

        every_s = 0.2 if errors.is_terminal else LINE_EVERY_S
        paced = Paced(show, max(1, last - first), time.monotonic, every_s)
        yield lambda number: paced(number - first, number)
