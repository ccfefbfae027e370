"""``python -m gateway``: the gateway on its own. Secrets come from the environment or files, never as arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from broker.log_lines import configure_logging
from broker.model.errors import ConfigError, TidegateError
from broker.model.units import parse_duration_s
from gateway import event_loop
from gateway.app import run_gateway
from gateway.settings import (
    SECRET_VARIABLE,
    TOKEN_VARIABLE,
    GatewaySettings,
    ProxyLimits,
    RequestLogSettings,
    secret_from,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    configure_logging(sys.stdout)
    try:
        event_loop.run(run_gateway(_settings(options)))
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    except TidegateError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    return 0


def _settings(options: argparse.Namespace) -> GatewaySettings:
    return GatewaySettings(
        broker_url=options.broker,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        site_secret=secret_from(os.environ, options.site_secret_file),
        host=options.host,
        port=options.port,
        gateway_id=options.id,
        keys_file=options.keys,
        cluster=options.cluster,
        models=tuple(options.model),
        limits=ProxyLimits(hold_s=options.hold),
        shutdown_s=options.shutdown,
        request_log=None if options.request_log is None else RequestLogSettings(options.request_log),
    )


def _parser() -> argparse.ArgumentParser:
    environment = f"Environment: {TOKEN_VARIABLE} (the broker's gateway token), {SECRET_VARIABLE}."
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__, epilog=environment)
    parser.add_argument("--broker", required=True, metavar="URL", help="the broker's address")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8700, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--id", default="", help="the gateway's name (default: host name and port)")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="users' keys, one 'NAME KEY' a line")
    parser.add_argument("--site-secret-file", type=Path, metavar="FILE", help="the site's secret")
    parser.add_argument("--cluster", help="refuse the registry of any other cluster (default: the first one seen)")
    parser.add_argument("--model", action="append", default=[], help="a model to hold requests for from the start")
    parser.add_argument("--hold", type=_duration, default=60.0, help="how long to hold requests (default: 60s)")
    parser.add_argument("--shutdown", type=_duration, default=120.0, help="time for open requests at the end (2m)")
    parser.add_argument("--request-log", type=Path, metavar="FILE", help="write a line for each request, without text")
    return parser


def _duration(text: str) -> float:
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
