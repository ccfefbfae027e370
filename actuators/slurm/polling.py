"""Our jobs as last listed, asked for no more often than slurmctld bears."""

from __future__ import annotations

import asyncio
import math

from actuators.slurm.client import SlurmClient
from actuators.slurm.job import JobRecord
from broker.model.errors import ActuatorError, TransientError
from broker.model.ports import Clock

SHORTEST_S = 1.0
"""Between two listings, whatever asks for them: one call a second is what a shared slurmctld is asked at most."""
LONGEST_S = 60.0
_RESTS = 4.0
"""A listing that took a second is followed by four without one; one that failed by twice the time as before."""


class Listings:
    """The jobs of our user, and when the listing that shows them was asked for."""

    def __init__(self, client: SlurmClient, clock: Clock, poll_s: float) -> None:
        self.asked_at = -math.inf
        self.jobs: tuple[JobRecord, ...] = ()
        self._client = client
        self._clock = clock
        self._poll_s = poll_s
        self._asked = 0
        self._next_at = -math.inf
        self._rest_s = poll_s
        self._failure: ActuatorError | None = None
        self._asking = asyncio.Lock()

    async def polled(self) -> None:
        """Ask if it is time. Raises the last ``ActuatorError`` until a listing succeeds."""
        async with self._asking:
            if self._clock.monotonic() >= self._next_at:
                await self._ask()
            if self._failure is not None:
                raise self._failure

    async def fresh(self) -> None:
        """A listing that was asked for after this call. Raises ``ActuatorError``.

        Told by counting: a clock may not have moved since the last one, and what was submitted in between would be
        submitted again.
        """
        asked = self._asked
        async with self._asking:
            if self._asked == asked or self._failure is not None:
                await self._ask()
            if self._failure is not None:
                raise self._failure

    def soon(self) -> None:
        """Something was done: the next poll shows it."""
        self._next_at = min(self._next_at, self._clock.monotonic() + SHORTEST_S)

    async def _ask(self) -> None:
        self._asked += 1
        asked_at, began = self._clock.now(), self._clock.monotonic()
        words = "slurmctld has not answered in time: it hangs or is overloaded; see its log, and `sdiag`"
        self._failure = TransientError(words)  # if this is cut off by who asked
        try:
            self.jobs = await self._client.jobs()
        except ActuatorError as error:
            self._failure = error
        else:
            self._failure = None
            self.asked_at = asked_at
        finally:
            taken_s = self._clock.monotonic() - began
            rest_s = max(self._poll_s, _RESTS * taken_s) if self._failure is None else 2 * self._rest_s
            self._rest_s = min(rest_s, LONGEST_S)
            self._next_at = self._clock.monotonic() + self._rest_s
