"""``tidegate gateway``: the reference gateway."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from cli.output import duration_option, told_errors
from cli.serve import require_place, write_address
from cli.site import DEFAULT_BROKER, Broker, Site, broker_address, chosen_site, kafka_in, token_of

if TYPE_CHECKING:
    from broker.app.settings import SiteSettings


def gateway(
    broker: Broker = None,
    site: Site = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8700,
    gateway_id: Annotated[str, typer.Option("--id", help="The gateway's name (default: host name and port).", show_default=False)] = "",
    keys: Annotated[Path | None, typer.Option("--keys", help="Users' keys, one 'NAME KEY' a line.", show_default=False)] = None,
    site_secret_file: Annotated[Path | None, typer.Option("--site-secret-file", help="The site's secret (default: TIDEGATE_SITE_SECRET, else the site file's).", show_default=False)] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Refuse the registry of any other cluster (default: the site file's, else the first one seen).", show_default=False)] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="A model to hold requests for from the start; may be given again.", show_default=False)] = None,
    hold: Annotated[str, typer.Option("--hold", help="How long to hold requests of a model without a replica.")] = "60s",
    shutdown: Annotated[str, typer.Option("--shutdown", help="Time for open requests at the end.")] = "2m",
    request_log: Annotated[Path | None, typer.Option("--request-log", help="Write a line for each request here, without its text, for `trace fit` (docs/traces.md).", show_default=False)] = None,
    address_file: Annotated[Path | None, typer.Option("--address-file", help="Write the gateway's address here.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Run the OpenAI-compatible gateway that follows a broker's registry, until SIGTERM or SIGINT.

    With a site file whose log is in Kafka, what it reports goes by topics (docs/kafka.md). Secrets come from the site
    file, or by environment: TIDEGATE_GATEWAY_TOKEN, TIDEGATE_SITE_SECRET, TIDEGATE_KAFKA_PASSWORD.
    """
    from gateway import event_loop
    from gateway.app import run_gateway
    from gateway.settings import GatewaySettings, ProxyLimits, RequestLogSettings

    configure_logging(sys.stderr)
    limits, shutdown_s = ProxyLimits(hold_s=duration_option("--hold", hold)), duration_option("--shutdown", shutdown)
    with told_errors():
        require_place(address_file)
        declared = chosen_site(site, needed=broker is None)
        settings = GatewaySettings(
            broker_url=broker or (broker_address(declared) if declared is not None else DEFAULT_BROKER),
            token=token_of(declared, ["gateway_token"]),
            site_secret=_site_secret(declared, site_secret_file),
            host=host,
            port=port,
            gateway_id=gateway_id,
            keys_file=keys,
            cluster=cluster or (declared.cluster if declared is not None else None),
            models=tuple(model or ()),
            limits=limits,
            shutdown_s=shutdown_s,
            request_log=None if request_log is None else RequestLogSettings(request_log),
            log=None if declared is None else kafka_in(declared),
        )
        event_loop.run(run_gateway(settings, ready=lambda address: write_address(address_file, address)))


def _site_secret(declared: SiteSettings | None, file: Path | None) -> bytes:
    if file is None and declared is not None:
        return token_of(declared, ["site_secret"]).encode()
    from gateway.settings import secret_from

    return secret_from(os.environ, file)
