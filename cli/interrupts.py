"""Ctrl-C, SIGTERM and a closed terminal while something long goes on: the first ends it in order, the second at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """``doing`` is what goes on, for messages. Where nobody said how to end it in order (``ending``), a signal raises
    ``KeyboardInterrupt``, as Ctrl-C does without this."""

    def __init__(self) -> None:
        self.doing = "starting"
        self.count = 0
        self._end: Callable[[], None] | None = None

    @contextmanager
    def heard(self) -> Iterator[Interrupts]:
        """Listen to the signals until the block ends. To be called in the main thread."""
        before = {number: signal.signal(number, self._told) for number in _SIGNALS}
        shown = sys.unraisablehook
        # Raised in a callback from compiled code it is lost, counted all the same, and nobody's traceback.
        sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, KeyboardInterrupt) else shown(lost)
        try:
            yield self
        finally:
            sys.unraisablehook = shown
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """The first signal calls ``end``, which returns at once and has the block come to its end."""
        before, self._end = self._end, end
        try:
            yield
        finally:
            self._end = before

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within what must come to its end first; ``require_none`` follows it."""
        with self.ending(lambda: None):
            yield

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within what cannot be told to end."""
        before, self._end = self._end, None
        try:
            yield
        finally:
            self._end = before

    def require_none(self) -> None:
        """Raises ``KeyboardInterrupt`` if a signal came while it had to wait, or its exception was lost: in a callback
        from compiled code."""
        if self.count:
            raise KeyboardInterrupt

    def _told(self, *_: object) -> None:
        self.count += 1
        if self.count > 1 or self._end is None:
            raise KeyboardInterrupt
        self._end()
