"""``tidegate gateway``: the reference gateway."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from broker.model.units import parse_duration_s
from cli.client import DEFAULT_BROKER
from cli.output import Exit, fail, told_errors
from cli.serve import configure_logging, write_address
from gateway.app import run_gateway
from gateway.settings import TOKEN_VARIABLE, GatewaySettings, ProxyLimits, secret_from


def gateway(
    broker: Annotated[str, typer.Option("--broker", envvar="TIDEGATE_BROKER", help="The broker's address.")] = DEFAULT_BROKER,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8700,
    gateway_id: Annotated[str, typer.Option("--id", help="The gateway's name (default: host name and port).")] = "",
    keys: Annotated[Path | None, typer.Option("--keys", help="Users' keys, one 'NAME KEY' a line.")] = None,
    site_secret_file: Annotated[Path | None, typer.Option("--site-secret-file", help="The site's secret (default: TIDEGATE_SITE_SECRET).")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Refuse the registry of any other cluster.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="A model to hold requests for from the start.")] = None,
    hold: Annotated[str, typer.Option("--hold", help="How long to hold requests of a model without a replica.")] = "60s",
    shutdown: Annotated[str, typer.Option("--shutdown", help="Time for open requests at the end.")] = "2m",
    address_file: Annotated[Path | None, typer.Option("--address-file", help="Write the gateway's address here.")] = None,
) -> None:  # fmt: skip
    """Run the OpenAI-compatible gateway that follows a broker's registry.

    Secrets come by environment: TIDEGATE_GATEWAY_TOKEN, TIDEGATE_SITE_SECRET.
    """
    configure_logging()
    try:
        limits, shutdown_s = ProxyLimits(hold_s=parse_duration_s(hold)), parse_duration_s(shutdown)
    except ValueError as error:
        raise fail(str(error), Exit.USAGE) from None
    with told_errors():
        settings = GatewaySettings(
            broker_url=broker,
            token=os.environ.get(TOKEN_VARIABLE, ""),
            site_secret=secret_from(os.environ, site_secret_file),
            host=host,
            port=port,
            gateway_id=gateway_id,
            keys_file=keys,
            cluster=cluster,
            models=tuple(model or ()),
            limits=limits,
            shutdown_s=shutdown_s,
        )
        asyncio.run(run_gateway(settings, ready=lambda address: write_address(address_file, address)))
