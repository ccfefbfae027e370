"""The gateway's wall clock. Durations are measured with the event loop's own clock, which never goes back."""

from __future__ import annotations

import time
from typing import Protocol


class WallClock(Protocol):
    """The part of ``broker.model.ports.Clock`` that a gateway needs."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()  # noqa: TID251  (this is the shell's clock)
