"""Where the demo's broker keeps its log: in a file, or in topics of a Kafka that is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from broker.model.errors import ConfigError
from cli.site import kafka_of

SERVERS = "TIDEGATE_KAFKA_SERVERS"
"""The environment variable with the servers of a Kafka that was started for the demo."""


class Memory(Protocol):
    """``log`` is the site file's, ``workers`` how many processes must own the windows beside it."""

    log: str
    workers: int

    async def make(self, site: Path) -> None:
        """Before the broker starts. Raises ``TidegateError``."""
        ...

    async def remove(self, site: Path) -> None:
        """What would be left of it outside of the demo's folder."""
        ...


class File:
    """A broker makes its file itself."""

    log = "{kind: sqlite, path: tidegate.sqlite}"
    workers = 0

    async def make(self, site: Path) -> None:
        """Nothing is missing."""

    async def remove(self, site: Path) -> None:
        """It is in the folder."""


class Kafka:
    """Topics of the demo's own, with its cluster's name. With ``kept`` they stay."""

    workers = 1

    def __init__(self, servers: str, *, kept: bool) -> None:
        self.log = f"{{kind: kafka, bootstrap_servers: {servers!r}, partitions: 2}}"
        self._kept = kept

    async def make(self, site: Path) -> None:
        from broker.log.kafka.setup import initialised

        connection, layout = kafka_of(site)
        await initialised(connection, layout, alter=False, dry_run=False)

    async def remove(self, site: Path) -> None:
        from broker.log.kafka.client import started, translated
        from broker.log.kafka.topics import TOPICS

        if self._kept:
            return
        connection, layout = kafka_of(site)
        async with started(connection, connection.admin()) as admin:
            with translated(connection):
                await admin.delete_topics([layout.name(topic) for topic in TOPICS])


def memory_of(log: str, *, kept: bool) -> Memory:
    """What ``--log`` names. Raises ``ConfigError``."""
    kind, _, servers = log.partition("=")
    if log == "file":
        return File()
    if kind != "kafka":
        raise ConfigError(f"--log: {log!r} is neither file nor kafka nor kafka=SERVERS")
    if not (servers := servers or os.environ.get(SERVERS, "")):
        raise ConfigError(
            '--log kafka: name its servers (--log kafka=127.0.0.1:9092), or let `make demo ARGS="--log kafka"` start '
            "one"
        )
    return Kafka(servers, kept=kept)
