"""What all real servers of the tests have in common."""

from __future__ import annotations

import abc
from contextlib import ExitStack
from types import TracebackType
from typing import Self


class RealServer(abc.ABC):
    """Ready on entry, gone on exit, and gone too if it does not come up. Raises ``RuntimeError`` with what is missing
    on this machine."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if (reason := self._why_not()) is not None:
            raise RuntimeError(reason)
        with self._open:
            self._begin()
            self._open = self._open.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @abc.abstractmethod
    def _why_not(self) -> str | None:
        """What is missing, and how to mend it; None if nothing is."""

    @abc.abstractmethod
    def _begin(self) -> None:
        """Start it; ``self._open`` takes what ends it."""
