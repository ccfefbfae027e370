"""``tidegate worker``: one of the processes that own the windows of a site with a log in Kafka."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from cli.output import duration_option, told_errors
from cli.site import HERE, kafka_of

if TYPE_CHECKING:
    from broker.log.kafka.client import Connection
    from broker.log.kafka.topics import Layout


def worker(
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
    silent: Annotated[str, typer.Option("--silent", metavar="DURATION", help="Kill and replace a worker that gets nowhere for this long.")] = "30s",
) -> None:  # fmt: skip
    """Own the windows of some of the site's models, and tell the broker what they show, until SIGTERM or SIGINT.

    Start as many as there is work for, on any machine that reaches Kafka: they share the models by the topics'
    partitions (docs/kafka.md).
    """
    configure_logging(sys.stderr)
    silent_s = duration_option("--silent", silent)
    from broker.app.watchdog import Watchdog, watched_by

    with told_errors():
        connection, layout = kafka_of(site)
        pipe = watched_by(os.environ)
        if pipe is not None:
            from gateway import event_loop

            event_loop.run(_worked(connection, layout, pipe))
            return
        status = Watchdog([sys.executable, "-m", "cli", "worker", "--site", str(site)], silent_after_s=silent_s).run()
    raise typer.Exit(status)


async def _worked(connection: Connection, layout: Layout, pipe: int) -> None:
    import asyncio

    from broker.app.watchdog import beat_to
    from broker.app.worker import Worker
    from broker.stop_signals import set_on_stop_signals
    from policies.registry import cached

    stop = asyncio.Event()
    set_on_stop_signals(stop)
    await Worker(connection, layout, cached(), beat=beat_to(pipe, stop.set)).run(stop)
