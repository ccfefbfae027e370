"""``tidegate run`` and ``tidegate gateway``: the long-running processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.log_lines import configure_logging
from broker.model.errors import ConfigError
from cli.output import Exit, fail, tell, told_errors


def write_address(path: Path | None, address: str) -> None:
    """For those who started us with port 0; whole or not at all."""
    if path is None:
        return
    try:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(address)
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror or error}", path=str(path)) from None


def require_place(path: Path | None) -> None:
    """Raises ``ConfigError`` before anything begins, if an address could not be written there."""
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise ConfigError("cannot be written: its folder is not there, or is not yours to write to", path=str(path))


def run(
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = Path("site.yaml"),
    policies: Annotated[Path, typer.Option("--policies", help="The policies file; hot-reloaded.")] = Path("policies.yaml"),
    address_file: Annotated[Path | None, typer.Option("--address-file", help="Write the API's address here.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Run the broker until SIGTERM or SIGINT. Replicas live on and are found again by the next one."""
    import asyncio

    configure_logging(sys.stderr)
    if not site.exists():
        raise fail(f"there is no {site}; `tidegate init` makes a site, --site names yours", Exit.USAGE)
    with told_errors():
        require_place(address_file)
        asyncio.run(_run(site, policies, address_file))


async def _run(site: Path, policies: Path, address_file: Path | None) -> None:
    import asyncio

    from broker.app.service import ServiceFiles, run_broker
    from broker.stop_signals import set_on_stop_signals

    stop = asyncio.Event()
    set_on_stop_signals(stop)

    def ready(address: str) -> None:
        write_address(address_file, address)
        if sys.stdout.isatty():
            tell(f"tidegate broker at {address} (Ctrl-C stops it; replicas live on)")

    await run_broker(ServiceFiles(site, policies), stop, ready=ready)
