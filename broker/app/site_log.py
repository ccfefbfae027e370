"""The log that a site file names, by its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.app.settings import SiteSettings, load_secrets
from broker.app.settings.kafka import KafkaLog as KafkaSettings
from broker.app.settings.site import SqliteLog as SqliteSettings
from broker.log.memory import MemoryLog
from broker.log.sqlite import SqliteLog

if TYPE_CHECKING:
    from broker.log.kafka.log import KafkaLog


def open_log(site: SiteSettings, *, stand_by: bool = False) -> SqliteLog | KafkaLog | MemoryLog:
    """Touches nothing until it is used. ``stand_by``: who wants to lead waits while another does, where the kind of log
    allows it. Raises ``ConfigError``."""
    match site.log:
        case SqliteSettings(path=path):
            return SqliteLog(path)
        case KafkaSettings() as settings:
            from broker.app.kafka import open_kafka_log  # needs an extra

            return open_kafka_log(settings, site.cluster, load_secrets(site), stand_by=stand_by)
        case _:
            return MemoryLog()
