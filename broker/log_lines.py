"""Where log lines of the long-running processes go. A line that cannot be written is lost and counted: a full disk or
a reader that went away must not stop who logs. It once left a broker that led, and never stepped again."""

from __future__ import annotations

import os
import textwrap
from collections.abc import MutableMapping
from typing import Any, ClassVar, TextIO, cast


class LogStream:
    """What structlog writes to: whole lines straight to the descriptor of ``stream``, and never an error.

    ``lost`` counts the lines of this process that were not written, in whole or in part. Nothing of a lost line is
    kept back: it would come out in the middle of a later one. ``stream`` is None where the process was started with
    it closed: its number may by now be that of another file.
    """

    lost: ClassVar[int] = 0

    def __init__(self, stream: TextIO | None) -> None:
        self._descriptor = None if stream is None else _descriptor_of(stream)
        self._torn = False

    def write(self, line: str) -> None:
        content = line.encode("utf-8", "backslashreplace")
        if self._torn:
            content = b"\n" + content
        written = 0
        try:
            while written < len(content):
                if self._descriptor is None:
                    raise BrokenPipeError
                written += os.write(self._descriptor, content[written:])
            self._torn = False
        except OSError:
            self._torn = self._torn or written > 0
            LogStream.lost += 1

    def flush(self) -> None:
        """Nothing: ``write`` keeps nothing back."""


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # it is closed, or none of the system's
        return None


def configure_logging(stream: TextIO | None, *, warnings_only: bool = False) -> None:
    """Lines for people where ``stream`` is a terminal, JSON for machines otherwise. ``warnings_only`` is for commands
    that answer and are done: what went as it should is in their answer."""
    import structlog

    human = stream is not None and stream.isatty()

    def worth_telling(_: Any, level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if warnings_only and level in ("debug", "info"):
            raise structlog.DropEvent
        return line

    structlog.configure(
        processors=[
            worth_telling,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _for_people if human else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, LogStream(stream))),
    )


def _for_people(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """``text`` stands below its line as it is: a job's script of sixty lines, escaped, was a line that nobody could
    read."""
    import structlog

    text = event.pop("text", "")
    line = structlog.dev.ConsoleRenderer()(logger, method, event)
    return f"{line}\n{textwrap.indent(text.rstrip(), '    ')}" if text else line
