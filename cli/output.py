"""How commands speak: tables and colours for people, one JSON document for scripts, errors without tracebacks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from broker.model.errors import ConfigError, ConfigErrors, LeadershipRefused, TidegateError, TraceError
from broker.model.units import parse_duration_s


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
    Exit.FAILED: "It was tried and failed: a request of `demo` or `simulate` failed or nothing was served, a cell of `sweep` failed, runs cannot be compared, `policy lint`, `doctor` or "
    "`topics` found a problem, `dead-letters retry` left a message, a log or a backup is damaged.",
    Exit.USAGE: "The command line cannot be used as it is, or a file named on it: it is missing, or is no such file; a row of a "
    "trace is malformed, or its window holds no request.",
    Exit.UNREACHABLE: "No broker answers.",
    Exit.REFUSED: "The broker refused (token, unknown model), or another broker leads.",
    Exit.INTERRUPTED: "Ctrl-C, SIGTERM or a closed terminal ended it early. `run` and `gateway`, once they have begun to serve, end in "
    "order by Ctrl-C and SIGTERM, with 0.",
}


class _Console(Console):
    """Whoever closes the pipe has seen enough: that is no failure."""

    def on_broken_pipe(self) -> NoReturn:
        discard_output()
        raise SystemExit(int(Exit.OK))


class _Errors(_Console):
    """What cannot be written to standard error (a full disk) is lost, and stops nothing: nobody asked for it."""

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except BrokenPipeError:
            raise
        except OSError:
            discard_errors()


_WIDE = 250
"""Where no terminal says how wide it is, a table takes what it needs."""
_FOLDED = 16

console = _Console()
errors = _Errors(stderr=True)


def duration_option(option: str, text: str) -> float:
    """The seconds that an option's text says; a usage error that names it for text that is no duration."""
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise fail(f"{option}: {error}", Exit.USAGE) from None


def moment_option(option: str, text: str) -> float:
    """The time that an option's text says, or how long ago; a usage error that names it for anything else."""
    from broker.clock import SystemClock

    try:
        return SystemClock().now() - parse_duration_s(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise fail(
            f"{option}: {text!r} is neither a time (2026-11-22T07:00) nor how long ago (2h)", Exit.USAGE
        ) from None


def local_time(at: float, form: str = "%H:%M:%S") -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime(form)


def discard_output() -> None:
    """What is still to be written goes nowhere, so that the interpreter's last flush does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def discard_errors() -> None:
    """As ``discard_output``, for standard error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def print_json(data: Any) -> None:
    print_text(json.dumps(data, indent=2) + "\n")


def print_text(text: str) -> None:
    """As it is, for a file or another program."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Collection[str] = (),
    lesser: Sequence[str] = (),
) -> None:  # fmt: skip
    """A table on standard output; an empty one says so.

    Cells of the ``whole`` columns are never folded, so that they can be copied. Where the terminal is too narrow,
    ``lesser`` columns are left out, the first of them first, and named below; if that does not do, each row becomes a
    few lines.
    """
    if not rows:
        tell(f"{title}: none")
        return
    cells = {
        column: ["" if row[index] is None else str(row[index]) for row in rows] for index, column in enumerate(columns)
    }
    width = console.width if console.is_terminal else _WIDE
    left_out = without(cells, whole, lesser, width)
    if left_out is None:
        _print_rows(title, cells)
        return
    _print_table(title, {name: found for name, found in cells.items() if name not in left_out}, whole, width)
    if left_out:
        tell(f"No room for {', '.join(left_out)}: a wider terminal shows them, --json too.")


def without(
    cells: Mapping[str, Sequence[str]], whole: Collection[str], lesser: Sequence[str], width: int
) -> list[str] | None:
    """Which ``lesser`` columns to leave out so that a table fits ``width``; None if it never does."""
    for count in range(len(lesser) + 1):
        if _least_width({name: found for name, found in cells.items() if name not in lesser[:count]}, whole) <= width:
            return list(lesser[:count])
    return None


def _print_table(title: str, cells: Mapping[str, list[str]], whole: Collection[str], width: int) -> None:
    from rich.table import Table

    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in cells:
        shown.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in zip(*cells.values(), strict=True):
        shown.add_row(*map(escape, row))
    (console if console.is_terminal else _Console(width=width)).print(shown)


def _print_rows(title: str, cells: Mapping[str, list[str]]) -> None:
    tell(title)
    for row in zip(*cells.values(), strict=True):
        tell(row[0])
        for column, cell in zip(list(cells)[1:], row[1:], strict=True):
            if cell:
                tell(f"  {column}: {cell}")


def _least_width(cells: Mapping[str, Sequence[str]], whole: Collection[str]) -> int:
    """With the borders; a column that may be folded takes up to ``_FOLDED`` characters."""
    longest = {column: max(map(len, [column, *found])) for column, found in cells.items()}
    least = [length if column in whole else min(length, _FOLDED) for column, length in longest.items()]
    return sum(least) + 3 * len(least) + 1


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
