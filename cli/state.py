"""``tidegate state``: backup of the broker's durable log, and back; what it learned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from cli.output import Exit, errors, fail, tell, told_errors
from cli.recorded import LogPath, Site, as_file, existing_log, named_log
from cli.waits import tell_waits

state = typer.Typer(help="Back up and restore the broker's log, and what it learned.", no_args_is_help=True)


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
    with told_errors(), as_file(existing_log(log, site)) as path:
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
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The backup's file, - for standard input. Into a log in Kafka also the file of an embedded log.")],
    log: LogPath = None,
    site: Site = None,
    force: Annotated[bool, typer.Option("--force", help="Set an existing log aside as PATH.replaced; a file's only.")] = False,
) -> None:  # fmt: skip
    """Make a log from a backup: all of it or nothing. A log in Kafka, in topics that no broker has used yet, also from an
    embedded log's file, which moves the site there. Refused while a broker leads either."""
    from broker.log.sqlite import SqliteLog
    from broker.log.transfer import import_state
    from cli.moving import is_log_file, move_backup, move_log

    with told_errors():
        target = named_log(log, site)
        if isinstance(target, SqliteLog):
            with _opened(source) as stream:
                number = import_state(target.path, stream, force=force)
        elif force:
            raise fail(f"--force: {target} cannot be set aside; give the site another log.topic_prefix", Exit.USAGE)
        elif is_log_file(source):
            number = move_log(Path(source), target)
            errors.print(f"{source} is left as it was: start no broker on it any more", highlight=False)
        else:
            with _opened(source) as stream:
                number = move_backup(stream, target)
    tell(f"{target} stands at step {number}")


@contextmanager
def _opened(source: str) -> Iterator[TextIO]:
    if source == "-":
        yield sys.stdin
        return
    try:
        with Path(source).open(encoding="utf-8", errors="replace") as stream:
            yield stream
    except OSError as error:
        raise fail(f"cannot read {source}: {error.strerror}", Exit.USAGE) from None


@state.command("waits")
def waits(
    log: LogPath = None,
    site: Site = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="`cold_starts` of cluster.yaml, for simulations.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every start, as one JSON document for scripts.")] = False,
) -> None:
    """Tell how long replicas waited in the queue and loaded, as the broker learned it from their latest starts."""
    with told_errors():
        named = existing_log(log, site)
    tell_waits(named, as_yaml=as_yaml, as_json=as_json)
