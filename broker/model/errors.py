"""Every error that Tidegate raises on purpose, in one small tree.

    TidegateError
    ├── ConfigError            a file or option that the operator can mend
    │   └── ConfigErrors       all of a file's problems at once
    ├── TraceError             a trace that cannot be read
    ├── WireError              a message that does not fit its schema
    ├── LogError               the durable log cannot serve
    │   ├── LeadershipRefused  another broker leads
    │   ├── SchemaTooNew       the file was written by a newer Tidegate
    │   ├── LogDamaged         the file is not what was written
    │   ├── LogFull            no room to write; goes on when there is
    │   ├── LogBusy            another program holds the file locked
    │   ├── MessageTooLarge    never taken as it is; other messages are
    │   └── LogUnreachable     missing, forbidden, read-only, or the disk fails
    ├── InvariantViolated      something that must always hold did not
    └── ActuatorError          a pool did not do what was asked
        ├── TransientError     try again, after ``retry_after_s``
        ├── CapacityUnavailable  the pool is full; somewhere or some time else
        └── ActionRejected     this will never work as asked

Foreign exceptions are mapped to these once, at the adapter. "Already gone" is success, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence


class TidegateError(Exception):
    """Root of the tree. ``str(error)`` says what, where, and how to mend it, in one paragraph for a person."""


class ConfigError(TidegateError):
    """A file, field or option that the operator can mend.

    ``path`` is the file, ``line`` counts from 1, ``field`` is dotted (``models.chat.policy.rules[0].for``).
    """

    def __init__(
        self, problem: str, *, path: str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        where = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(": ".join(part for part in (where, field, problem) if part))
        self.problem = problem
        self.path = path
        self.line = line
        self.field = field


class ConfigErrors(ConfigError):
    """All of a file's problems at once, one to a line; as a ``ConfigError`` it is the first of them."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        first = problems[0]
        super().__init__(first.problem, path=first.path, line=first.line, field=first.field)
        self.args = ("\n".join(str(problem) for problem in problems),)
        self.problems = tuple(problems)


class TraceError(TidegateError):
    """A trace that cannot be read. ``line`` and ``column`` count from 1."""

    def __init__(
        self, problem: str, *, path: str | None = None, line: int | None = None, column: int | None = None
    ) -> None:
        where = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem = problem
        self.path = path
        self.line = line
        self.column = column


class WireError(TidegateError):
    """A message that does not fit its schema. ``field`` is the dotted path inside the message. Both are cut to what a
    log line or a dead letter can hold: they may quote what was sent."""

    LONGEST = 1000

    def __init__(self, problem: str, *, field: str = "") -> None:
        problem, field = problem[: self.LONGEST], field[: self.LONGEST]
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field


class LogError(TidegateError):
    """The durable log cannot serve: disk full, locked, unreadable."""


class LeadershipRefused(LogError):
    """Another broker holds the log, or a pool's records; this one must not act."""


class SchemaTooNew(LogError):
    """The log or message was written by a newer Tidegate than this one."""


class LogDamaged(LogError):
    """What was read back is not what was written."""


class LogFull(LogError):
    """There is no room for the write. Nothing of it was kept; the same log goes on once there is room."""


class LogBusy(LogError):
    """Another program holds the file locked for longer than is waited. The same log goes on once it lets go."""


class MessageTooLarge(LogError):
    """The log never takes this message; it takes others."""


class LogUnreachable(LogError):
    """The log is missing, may not be read or written, or its disk fails."""


class InvariantViolated(TidegateError):
    """Something that must always hold did not; ``invariant`` is its number in the architecture's list."""

    def __init__(self, invariant: int, problem: str) -> None:
        super().__init__(f"invariant {invariant} broken: {problem}")
        self.invariant = invariant


class ActuatorError(TidegateError):
    """A pool did not do what was asked."""


class TransientError(ActuatorError):
    """Try again, not before ``retry_after_s``."""

    def __init__(self, problem: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class CapacityUnavailable(ActuatorError):
    """The pool has no room; somewhere else, or later."""


class ActionRejected(ActuatorError):
    """The pool will never do this as asked."""


def shown(text: object) -> str:
    """What somebody sent, as it stands in an error: in quotes, and cut to 80 characters."""
    words = repr(text)
    return words if len(words) <= 80 else words[:77] + "..."
