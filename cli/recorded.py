"""What the broker's log says, for commands that need no broker: the log is opened to be read, also while one leads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.model.errors import ConfigError, LogUnreachable
from cli.output import Exit, fail
from cli.site import chosen_site

if TYPE_CHECKING:
    from broker.app.settings import SiteSettings
    from broker.log.kafka.log import KafkaLog
    from broker.log.sqlite import SqliteLog
    from broker.model.state import BrokerState

    DurableLog = SqliteLog | KafkaLog

LogPath = Annotated[
    Path | None, typer.Option("--log", help="The log's file (default: the site file's log).", show_default=False)
]
Site = Annotated[
    Path | None,
    typer.Option(
        "--site",
        envvar="TIDEGATE_SITE",
        help="Site file whose log is meant (default: site.yaml here, if no --log is given).",
        show_default=False,
    ),
]
DEFAULT_LOG = Path("var/tidegate.sqlite")


def named_log(log: Path | None, site: Path | None) -> DurableLog:
    """The named file, else the site's log, whether it is there or not. Raises ``ConfigError``."""
    from broker.log.sqlite import SqliteLog

    settings = chosen_site(site, needed=log is None)
    if log is not None or settings is None:
        return SqliteLog(log or DEFAULT_LOG)
    return log_of(settings)


def existing_log(log: Path | None, site: Path | None) -> DurableLog:
    """As ``named_log``; ends the command where there is no file."""
    from broker.log.schema import require_file
    from broker.log.sqlite import SqliteLog

    named = named_log(log, site)
    if isinstance(named, SqliteLog):
        try:
            require_file(named.path)
        except LogUnreachable as error:
            raise fail(str(error), Exit.USAGE) from None
    return named


@contextmanager
def as_file(log: DurableLog) -> Iterator[Path]:
    """The log's file; a copy of a log that is none. Raises ``LogError``."""
    import asyncio

    from broker.log.copying import copy_to_file
    from broker.log.sqlite import SqliteLog

    async def copied(path: Path) -> None:
        try:
            await copy_to_file(log, path)
        finally:
            await log.close()

    if isinstance(log, SqliteLog):
        yield log.path
        return
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        path = Path(folder) / "log.sqlite"
        asyncio.run(copied(path))
        yield path


def log_of(site: SiteSettings) -> DurableLog:
    """Raises ``ConfigError``, also where nothing outlives the broker."""
    from broker.app.site_log import open_log
    from broker.log.memory import MemoryLog

    opened = open_log(site)
    if isinstance(opened, MemoryLog):
        raise ConfigError("the site keeps its log in memory: it ends with its broker", field="log.kind")
    return opened


def recorded_state(log: DurableLog) -> BrokerState:
    """As of the last step; an empty one where there is no log yet. Raises ``LogError``."""
    import asyncio

    from broker.log.sqlite import SqliteLog
    from broker.model.state import BrokerState

    async def loaded() -> BrokerState:
        try:
            return (await log.load()).state
        finally:
            await log.close()

    if isinstance(log, SqliteLog) and not log.path.exists():
        return BrokerState()
    return asyncio.run(loaded())
