"""What commands beside ``run`` take from a site file: where the broker answers, and what to show it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.model.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from broker.app.settings import SiteSettings
    from broker.log.kafka.client import Connection
    from broker.log.kafka.topics import Layout

HERE = Path("site.yaml")
DEFAULT_BROKER = "http://127.0.0.1:8600"

Broker = Annotated[
    str | None,
    typer.Option(
        "--broker",
        envvar="TIDEGATE_BROKER",
        help=f"The broker's address (default: the site file's, else {DEFAULT_BROKER}).",
        show_default=False,
    ),
]
Site = Annotated[
    Path | None,
    typer.Option(
        "--site",
        envvar="TIDEGATE_SITE",
        help="Site file that tells address and tokens (default: site.yaml here, if no --broker is given).",
        show_default=False,
    ),
]

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def chosen_site(named: Path | None, *, needed: bool) -> SiteSettings | None:
    """The named site file, else the one of this folder if it is ``needed`` and there is one. Raises ``ConfigErrors``.

    A broker that is named without a site file gets no token from the site file that happens to lie here.
    """
    if named is None and not (needed and HERE.exists()):
        return None
    from broker.app.settings import load_site

    return load_site(named or HERE)


def broker_address(site: SiteSettings) -> str:
    """Where the site's broker answers. Raises ``ConfigError`` if only the running broker knows."""
    if site.api.port == 0:
        raise ConfigError("the site leaves the port to the kernel; name the broker with --broker", field="api.port")
    host = _EVERYWHERE.get(site.api.host, site.api.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{site.api.port}"


def kafka_of(site: Path) -> tuple[Connection, Layout]:
    """The site's Kafka, and its topics there. Raises ``ConfigErrors`` and ``ConfigError``."""
    from broker.app.settings import load_site

    settings = load_site(site)
    if (found := kafka_in(settings)) is None:
        problem = f"the site keeps its log in {settings.log.kind}, not in kafka (docs/kafka.md)"
        raise ConfigError(problem, path=str(site), field="log.kind")
    return found


def kafka_in(site: SiteSettings) -> tuple[Connection, Layout] | None:
    """As above; None if the site's log is not there."""
    from broker.app.settings import load_secrets
    from broker.app.settings.kafka import KafkaLog

    if not isinstance(site.log, KafkaLog):
        return None
    from broker.app.kafka import kafka_connection

    secrets = load_secrets(only_secret(site, "kafka_password"))
    return kafka_connection(site.log, secrets), site.log.layout(site.cluster)


def token_of(site: SiteSettings | None, names: Sequence[str]) -> str:
    """The first of the tokens that the environment or the site's files have, empty if none; a file that may not be
    read matters only if nothing else is found. Raises ``ConfigErrors``."""
    if site is None:
        return next((found for name in names if (found := os.environ.get(f"TIDEGATE_{name.upper()}"))), "")
    from broker.app.settings import load_secrets

    problem: ConfigErrors | None = None
    for name in names:
        try:
            secret = getattr(load_secrets(only_secret(site, name)), name)
        except ConfigErrors as error:
            problem = problem or error
            continue
        if secret is not None:
            return str(secret.get_secret_value())
    if problem is not None:
        raise problem
    return ""


def only_secret(site: SiteSettings, name: str) -> SiteSettings:
    """The site with no other secret: who may read one file need not be able to read all."""
    fields = {f"{token}_file": None for token in ("read_token", "operate_token", "gateway_token") if token != name}
    secret_file = site.secret_file if name == "site_secret" else None
    return site.model_copy(update={"api": site.api.model_copy(update=fields), "secret_file": secret_file})
