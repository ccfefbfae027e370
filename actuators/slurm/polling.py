"""Our jobs as last listed, asked for no more often than slurmctld bears."""

from __future__ import annotations

import asyncio
import math

from actuators.slurm.client import SlurmClient
from actuators.slurm.job import COMMENT_MARK, JobRecord
from broker.model.errors import ActuatorError, TransientError
from broker.model.ports import Clock

SHORTEST_S = 1.0
"""Between two listings, whatever asks for them: one call a second is what a shared slurmctld is asked at most."""
LONGEST_S = 60.0
WHOLE_EVERY_S = 15.0
"""A listing tells what a look at the states of our jobs does not: ends that moved, requeued and doubled jobs."""
STATES_WITHIN_S = 5.0
STATES_REST_S = 60.0
"""States that are not told within that are not asked for again for so long, and each poll is a listing."""
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
        self._listed = 0
        self._whole_due_at = -math.inf
        self._states_again_at = -math.inf
        self._next_at = -math.inf
        self._rest_s = poll_s
        self._failure: ActuatorError | None = None
        self._asking = asyncio.Lock()

    async def polled(self) -> None:
        """Ask if it is time; not for the whole listing where nothing was done and no job of ours has changed. Raises
        the last ``ActuatorError`` until it is answered."""
        async with self._asking:
            if self._clock.monotonic() >= self._next_at:
                await self._ask(whole=self._clock.monotonic() >= self._whole_due_at)
            if self._failure is not None:
                raise self._failure

    async def fresh(self) -> None:
        """A listing that was asked for after this call. Raises ``ActuatorError``.

        Told by counting: a clock may not have moved since the last one, and what was submitted in between would be
        submitted again.
        """
        listed = self._listed
        async with self._asking:
            if self._listed == listed or self._failure is not None:
                await self._ask(whole=True)
            if self._failure is not None:
                raise self._failure

    def soon(self) -> None:
        """Something was done: the next poll shows it."""
        self._next_at = min(self._next_at, self._clock.monotonic() + SHORTEST_S)
        self._whole_due_at = -math.inf

    async def _ask(self, *, whole: bool) -> None:
        asked_at, began = self._clock.now(), self._clock.monotonic()
        words = "slurmctld has not answered in time: it hangs or is overloaded; see its log, and `sdiag`"
        self._failure = TransientError(words)  # if this is cut off by who asked
        try:
            if whole or not await self._unchanged():
                asked_at = self._clock.now()
                await self._list()
        except ActuatorError as error:
            self._failure = error
        else:
            self._failure = None
            self.asked_at = asked_at
        finally:
            if self._failure is not None:
                self._whole_due_at = -math.inf
            taken_s = self._clock.monotonic() - began
            rest_s = max(self._poll_s, _RESTS * taken_s) if self._failure is None else 2 * self._rest_s
            self._rest_s = min(rest_s, LONGEST_S)
            self._next_at = self._clock.monotonic() + self._rest_s

    async def _list(self) -> None:
        self._listed += 1
        self._whole_due_at = self._clock.monotonic() + WHOLE_EVERY_S
        lived = {job.job_id for job in self._living()}
        self.jobs = await self._client.jobs()
        if not lived <= {job.job_id for job in self.jobs}:
            # An ended job is listed for minutes: the states of the others would confirm what may be a bad listing.
            self._whole_due_at = -math.inf

    async def _unchanged(self) -> bool:
        """Whether a look at the states of our living jobs alone shows that there is no news."""
        if self._clock.monotonic() < self._states_again_at:
            return False
        self._states_again_at = self._clock.monotonic() + STATES_REST_S  # if nobody answers
        try:
            async with asyncio.timeout(STATES_WITHIN_S):
                unchanged = await self._client.unchanged(self._living())
        except TimeoutError:
            return False
        if unchanged is not None:
            self._states_again_at = -math.inf
        return unchanged is True

    def _living(self) -> list[JobRecord]:
        """The user may have other jobs, whose changes are nothing to us."""
        return [job for job in self.jobs if job.comment.startswith(COMMENT_MARK) and not job.gone]
