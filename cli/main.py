"""The ``tidegate`` command: what stands between it and the shell."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Ends the process with a status of ``cli.output.Exit``, and without a traceback for what is no mistake of ours."""
    _open_what_is_closed()
    status: int | str | None = 0
    try:
        _require_text(sys.argv[1:])
        from cli.app import app  # takes a moment, in which Ctrl-C must be as quiet as later

        app(prog_name="tidegate")
    except KeyboardInterrupt:
        status = 130
    except SystemExit as ending:
        # Typer and rich end with 1 when their reader has gone.
        status = 0 if isinstance(ending.__context__, BrokenPipeError) else ending.code
    except OSError as error:
        status = _told(error)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over; another Ctrl-C must not turn its status into a death
    sys.exit(_flushed(status))


def _open_what_is_closed() -> None:
    """Whoever closed standard output or error (`>&-`) must not find a log's file under its number. Writing to the
    output is then an error, since it was asked for; nobody asked for the errors."""
    if sys.stdout is None:
        _open_as(1, os.O_RDONLY)
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        _open_as(2, os.O_WRONLY)
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _open_as(number: int, flags: int) -> None:
    nowhere = os.open(os.devnull, flags)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _require_text(words: list[str]) -> None:
    """Arguments that are not text could be put neither into an address nor into an error."""
    for number, word in enumerate(words, 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(word).decode("utf-8", "backslashreplace")
            _say(f"argument {number} is not UTF-8 text: {shown}")
            sys.exit(2)


def _told(error: OSError) -> int:
    """The status for what the system refused."""
    if isinstance(error, BrokenPipeError):
        return 0
    _say(f"{error.filename or 'the output'}: {error.strerror or error}")
    return 1


def _flushed(status: int | str | None) -> int | str | None:
    """Flush before the interpreter does it, who would complain about a reader that went away. The status of the whole:
    output that was not written is a failure."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        from cli.output import discard_output

        discard_output()
        if isinstance(error, OSError) and not status:
            status = _told(error)
    return status


def _say(words: str) -> None:
    try:
        print(f"error: {words}", file=sys.stderr, flush=True)
    except OSError:  # then nobody can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
