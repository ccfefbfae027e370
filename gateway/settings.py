"""What a gateway is told at its start: addresses, secrets (from the environment or files) and limits."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.model.addresses import is_loopback
from broker.model.errors import ConfigError

if TYPE_CHECKING:
    from broker.log.kafka.client import Connection
    from broker.log.kafka.topics import Layout

TOKEN_VARIABLE = "TIDEGATE_GATEWAY_TOKEN"
SECRET_VARIABLE = "TIDEGATE_SITE_SECRET"


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """How long and how often. ``hold_s``: how long after its arrival a request may still be given to an endpoint.
    ``retry_s``: how long after an engine's error to look for another one. ``first_byte_s`` includes the engine's
    queue; ``idle_s`` is between chunks. ``head_s``, ``body_s`` and ``body_bytes`` bound what a user may send and how
    long that may take: a header from its first byte, a body from its header."""

    hold_s: float = 60.0
    retry_s: float = 5.0
    attempts: int = 3
    connect_s: float = 3.0
    first_byte_s: float = 600.0
    idle_s: float = 120.0
    head_s: float = 10.0
    body_s: float = 60.0
    body_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RequestLogSettings:
    """``path`` is begun anew at about ``limit_bytes``; what it held goes on as ``path.1`` to ``path.9``."""

    path: Path
    limit_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """``models`` are known before the registry names them, so that their first requests are held, not refused.
    ``shutdown_s``: how long open streams may take after SIGTERM. ``port`` 0 takes any free one. ``log``: the site's
    topics in Kafka, where reports go; None: to the broker itself.

    Raises ``ConfigError`` for what cannot work or is not safe.
    """

    broker_url: str
    token: str
    site_secret: bytes
    host: str = "127.0.0.1"
    port: int = 8700
    gateway_id: str = ""
    keys_file: Path | None = None
    cluster: str | None = None
    models: tuple[str, ...] = ()
    limits: ProxyLimits = ProxyLimits()
    report_every_s: float = 1.0
    broker_patience_s: float = 5.0
    probe_every_s: float = 1.0
    keys_every_s: float = 2.0
    shutdown_s: float = 120.0
    request_log: RequestLogSettings | None = None
    log: tuple[Connection, Layout] | None = None

    def __post_init__(self) -> None:
        if not self.broker_url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.broker_url!r} is not an http address", field="broker_url")
        if not self.token:
            problem = f"no token for the broker; set {TOKEN_VARIABLE}, or name the site file with --site"
            raise ConfigError(problem, field="token")
        if not self.site_secret:
            raise ConfigError(f"no site secret; set {SECRET_VARIABLE} or name a file with it", field="site_secret")
        if self.keys_file is None and not is_loopback(self.host):
            problem = f"without a keys file everybody who reaches {self.host} could use the models; name one"
            raise ConfigError(problem, field="keys_file")
        if self.limits.attempts < 1:
            raise ConfigError("at least one attempt is needed", field="limits.attempts")

    @property
    def name(self) -> str:
        """The gateway's id in its session: as given, or host and port (the process, where any port may be taken)."""
        return self.gateway_id or f"{socket.gethostname()}-{self.port or os.getpid()}"


def secret_from(environment: Mapping[str, str], secret_file: Path | None) -> bytes:
    """The site's secret from its file, or else from the environment. Raises ``ConfigError``."""
    if secret_file is None:
        return environment.get(SECRET_VARIABLE, "").strip().encode()
    try:
        return secret_file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"cannot read the site's secret: {error.strerror}", path=os.fspath(secret_file)) from None
