"""``tidegate state``: backup of the broker's durable log, and back; a replay that proves its decisions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.model.errors import ConfigError, LogUnreachable
from cli.output import Exit, errors, fail, print_json, tell, told_errors
from cli.site import chosen_site
from cli.waits import tell_waits

state = typer.Typer(help="Back up, restore and replay the broker's log.", no_args_is_help=True)

LogPath = Annotated[
    Path | None, typer.Option("--log", help="The log's file (default: the site file's).", show_default=False)
]
Site = Annotated[
    Path | None,
    typer.Option(
        "--site",
        envvar="TIDEGATE_SITE",
        help="Site file whose log is meant (default: site.yaml here, if no --log is given).",
        show_default=False,
    ),
]
DEFAULT_LOG = Path("var/tidegate.sqlite")


def _log_of(log: Path | None, site: Path | None) -> Path:
    """The named log, else the site file's. Raises ``ConfigError``."""
    from broker.app.settings.site import SqliteLog as SqliteSettings

    settings = chosen_site(site, needed=log is None)
    if log is not None or settings is None:
        return log or DEFAULT_LOG
    if not isinstance(settings.log, SqliteSettings):
        raise ConfigError("the site keeps its log in memory: there is no file", field="log.kind")
    return settings.log.path


def _existing(path: Path) -> Path:
    from broker.log.schema import require_file

    try:
        require_file(path)
    except LogUnreachable as error:
        raise fail(str(error), Exit.USAGE) from None
    return path


@state.command("export")
def export(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The backup's file, - for standard output.")] = "-",
    log: LogPath = None,
    site: Site = None,
) -> None:
    """Write a consistent backup, also while a broker runs."""
    from broker.log.transfer import export_state

    if target == "-" and sys.stdout.isatty():
        raise fail(
            "a backup is no reading matter: name a new file, or send it on (`tidegate state export | gzip > FILE`)",
            Exit.USAGE,
        )
    with told_errors():
        path = _existing(_log_of(log, site))
        number = export_state(path, sys.stdout) if target == "-" else _export_to(path, Path(target))
    errors.print(f"exported as of step {number}")


def _export_to(log: Path, target: Path) -> int:
    """Raises ``TidegateError``; nothing is left of a backup that failed."""
    from broker.log.transfer import export_state

    try:
        stream = target.open("x", encoding="utf-8")
    except FileExistsError:
        raise fail(f"{target} is there already; name a new file", Exit.USAGE) from None
    except OSError as error:
        raise fail(f"cannot write {target}: {error.strerror}") from None
    try:
        with stream:
            return export_state(log, stream)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@state.command("import")
def restore(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The backup's file, - for standard input.")],
    log: LogPath = None,
    site: Site = None,
    force: Annotated[bool, typer.Option("--force", help="Set an existing log aside as PATH.replaced.")] = False,
) -> None:
    """Make a log from a backup: all of it or nothing."""
    from broker.log.transfer import import_state

    with told_errors():
        path = _log_of(log, site)
        if source == "-":
            number = import_state(path, sys.stdin, force=force)
        else:
            try:
                with Path(source).open(encoding="utf-8", errors="replace") as stream:
                    number = import_state(path, stream, force=force)
            except OSError as error:
                raise fail(f"cannot read {source}: {error.strerror}", Exit.USAGE) from None
    tell(f"{path} stands at step {number}")


@state.command("replay")
def prove(
    log: LogPath = None,
    site: Site = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:
    """Decide every kept step again from its recorded observations, and compare."""
    with told_errors():
        path = _existing(_log_of(log, site))
        import asyncio

        steps, different = asyncio.run(_replay(path))
    if as_json:
        print_json({"steps": steps, "different": different})
    if different is not None:
        raise fail(f"step {different} decides otherwise when replayed; was it recorded by another version?")
    if not as_json:
        tell(f"{steps} steps replayed: the same decisions, effects and state, byte for byte")


@state.command("waits")
def waits(
    log: LogPath = None,
    site: Site = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="`cold_starts` of cluster.yaml, for simulations.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every start, as one JSON document for scripts.")] = False,
) -> None:
    """Tell how long replicas waited in the queue and loaded, as the broker learned it from their latest starts."""
    with told_errors():
        path = _existing(_log_of(log, site))
    tell_waits(path, as_yaml=as_yaml, as_json=as_json)


async def _replay(path: Path) -> tuple[int, int | None]:
    from broker.control.replay import replay
    from broker.log.sqlite import SqliteLog
    from policies.registry import cached

    log, policies, steps = SqliteLog(path), cached(), 0
    try:
        async for replayed in replay(log, policies):
            if not replayed.same:
                return steps, replayed.record.number
            steps += 1
    finally:
        await log.close()
    return steps, None
