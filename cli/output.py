"""How commands speak: tables and colours for people, one JSON document for scripts, errors without tracebacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from broker.model.errors import ConfigErrors, LeadershipRefused, TidegateError


class Exit(IntEnum):
    """Exit statuses, the same for every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


console = Console()
errors = Console(stderr=True)


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; an empty one says so."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    console.print(shown if rows else f"{title}: none")


def fail(message: str, status: Exit = Exit.FAILED) -> typer.Exit:
    """Prints an error to standard error; ``raise fail(...)``."""
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return typer.Exit(int(status))


@contextmanager
def told_errors() -> Iterator[None]:
    """Errors of our own tree become words and a status; nobody but a programmer should see a traceback."""
    try:
        yield
    except ConfigErrors as error:
        raise fail("\n".join(str(problem) for problem in error.problems), Exit.USAGE) from None
    except LeadershipRefused as error:
        raise fail(str(error), Exit.REFUSED) from None
    except TidegateError as error:
        raise fail(str(error)) from None
    except BrokenPipeError:
        raise typer.Exit(int(Exit.OK)) from None
