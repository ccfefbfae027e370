"""A site's log in Kafka, from its settings. Imported only where a site has one: it needs the extra."""

from __future__ import annotations

import structlog

from broker.app.settings import Secrets
from broker.app.settings.kafka import KafkaLog
from broker.log.kafka import log
from broker.log.kafka.client import Connection, Sasl, Tls
from broker.log.kafka.writer import Terms
from broker.model.errors import ConfigError

logger = structlog.get_logger("broker")


def open_kafka_log(settings: KafkaLog, cluster: str, secrets: Secrets, *, stand_by: bool) -> log.KafkaLog:
    """``stand_by``: who wants to lead waits while another does, and is not refused. Raises ``ConfigError``."""
    terms = Terms(settings.lease_s, settings.patience_s)
    return log.KafkaLog(
        kafka_connection(settings, secrets),
        settings.layout(cluster),
        terms=terms,
        session_s=settings.session_s,
        stand_by=_tell if stand_by else None,
    )


def _tell(leader: str) -> None:
    logger.info("standing_by", leader=leader, action="this broker leads once that one ends; it answers nothing before")


def kafka_connection(settings: KafkaLog, secrets: Secrets) -> Connection:
    """Raises ``ConfigError`` where a user is named and no password found."""
    return Connection(
        servers=tuple(settings.bootstrap_servers),
        client_id=settings.client_id,
        tls=_tls(settings),
        sasl=_sasl(settings, secrets),
        compression=None if settings.compression == "none" else settings.compression,
    )


def _tls(settings: KafkaLog) -> Tls | None:
    if settings.tls is None:
        return None
    return Tls(settings.tls.ca_file, settings.tls.certificate_file, settings.tls.key_file)


def _sasl(settings: KafkaLog, secrets: Secrets) -> Sasl | None:
    if settings.sasl is None:
        return None
    if secrets.kafka_password is None:
        raise ConfigError(
            f"no password for user {settings.sasl.user!r}: set TIDEGATE_KAFKA_PASSWORD, or name a file",
            field="log.sasl.password_file",
        )
    return Sasl(settings.sasl.mechanism, settings.sasl.user, secrets.kafka_password.get_secret_value())
