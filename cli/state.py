"""``tidegate state``: backup of the broker's durable log, and back; a replay that proves its decisions."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.control.replay import replay
from broker.log.sqlite import SqliteLog
from broker.log.transfer import export_state, import_state
from cli.output import Exit, console, errors, fail, told_errors
from policies.registry import build

state = typer.Typer(help="Back up, restore and replay the broker's log.", no_args_is_help=True)

LogPath = Annotated[Path, typer.Option("--log", help="The log's file (log.path of site.yaml).")]
DEFAULT_LOG = Path("var/tidegate.sqlite")


@state.command("export")
def export(
    target: Annotated[str, typer.Argument(help="The backup's file, - for standard output.")] = "-",
    log: LogPath = DEFAULT_LOG,
) -> None:
    """Write a consistent backup, also while a broker runs."""
    with told_errors():
        if target == "-":
            number = export_state(log, sys.stdout)
        else:
            try:
                with Path(target).open("x", encoding="utf-8") as stream:
                    number = export_state(log, stream)
            except FileExistsError:
                raise fail(f"{target} is there already; name a new file", Exit.USAGE) from None
            except OSError as error:
                raise fail(f"cannot write {target}: {error.strerror}") from None
    errors.print(f"exported as of step {number}")


@state.command("import")
def restore(
    source: Annotated[str, typer.Argument(help="The backup's file, - for standard input.")],
    log: LogPath = DEFAULT_LOG,
    force: Annotated[bool, typer.Option("--force", help="Set an existing log aside as PATH.replaced.")] = False,
) -> None:
    """Make a log from a backup: all of it or nothing."""
    with told_errors():
        if source == "-":
            number = import_state(log, sys.stdin, force=force)
        else:
            try:
                with Path(source).open(encoding="utf-8", errors="replace") as stream:
                    number = import_state(log, stream, force=force)
            except OSError as error:
                raise fail(f"cannot read {source}: {error.strerror}", Exit.USAGE) from None
    console.print(f"{log} stands at step {number}")


@state.command("replay")
def prove(log: LogPath = DEFAULT_LOG) -> None:
    """Decide every kept step again from its recorded observations, and compare."""
    with told_errors():
        if not log.exists():
            raise fail(f"there is no log {log}", Exit.USAGE)
        steps, different = asyncio.run(_replay(log))
    if different is not None:
        raise fail(f"step {different} decides otherwise when replayed; was it recorded by another version?")
    console.print(f"{steps} steps replayed: the same decisions, effects and state, byte for byte")


async def _replay(path: Path) -> tuple[int, int | None]:
    log, steps = SqliteLog(path), 0
    try:
        async for replayed in replay(log, build):
            if not replayed.same:
                return steps, replayed.record.number
            steps += 1
    finally:
        await log.close()
    return steps, None
