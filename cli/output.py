"""How commands speak: tables and colours for people, one JSON document for scripts, errors without tracebacks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from broker.model.errors import ConfigError, ConfigErrors, LeadershipRefused, TidegateError, TraceError


class Exit(IntEnum):
    """Exit statuses, the same for every command. docs/cli.md tells them by ``MEANINGS``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "Done. Also when the reader of the output went away (`| head`).",
    Exit.FAILED: "It was tried and failed; `demo` and `simulate` also when a request failed or nothing was served.",
    Exit.USAGE: "The command line, or a file named on it, cannot be used as it is.",
    Exit.UNREACHABLE: "No broker answers.",
    Exit.REFUSED: "The broker refused (token, unknown model), or another broker leads.",
    Exit.INTERRUPTED: "Ctrl-C. `run` and `gateway` end in order instead, with 0.",
}


class _Console(Console):
    """Whoever closes the pipe has seen enough: that is no failure."""

    def on_broken_pipe(self) -> NoReturn:
        discard_output()
        raise SystemExit(int(Exit.OK))


_WIDE = 250
"""Where no terminal says how wide it is, a table takes what it needs."""

console = _Console()
errors = _Console(stderr=True)


def discard_output() -> None:
    """What is still to be written goes nowhere, so that the interpreter's last flush does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def print_json(data: Any) -> None:
    try:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; an empty one says so."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    if not rows:
        tell(f"{title}: none")
        return
    (console if console.is_terminal else _Console(width=_WIDE)).print(shown)


def tell(words: str) -> None:
    """A sentence for people, as it is."""
    console.print(words, soft_wrap=True, markup=False, highlight=False)


def fail(message: str, status: Exit = Exit.FAILED) -> typer.Exit:
    """Prints an error to standard error; ``raise fail(...)``."""
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return typer.Exit(int(status))


@contextmanager
def told_errors() -> Iterator[None]:
    """Errors of our own tree, and the system's, become words and a status; nobody but a programmer should see a
    traceback."""
    try:
        yield
    except ConfigErrors as error:
        raise fail("\n".join(str(problem) for problem in error.problems), Exit.USAGE) from None
    except (ConfigError, TraceError) as error:
        raise fail(str(error), Exit.USAGE) from None
    except LeadershipRefused as error:
        raise fail(str(error), Exit.REFUSED) from None
    except TidegateError as error:
        raise fail(str(error)) from None
    except BrokenPipeError:
        discard_output()
        raise typer.Exit(int(Exit.OK)) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise fail(f"{where}{error.strerror or error}") from None
