"""The ``tidegate`` command: what stands between it and the shell."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Ends the process with a status of ``cli.output.Exit``, and without a traceback for what is no mistake of ours."""
    try:
        from cli.app import app  # takes a moment, in which Ctrl-C must be as quiet as later

        app(prog_name="tidegate")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over; another Ctrl-C must not turn its status into a death
        _flush()


def _flush() -> None:
    """Before the interpreter does it, who would complain about a reader that went away."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        from cli.output import discard_output

        discard_output()
