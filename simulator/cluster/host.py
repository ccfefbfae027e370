"""A cluster beside a driver: stepped when something is due, its events told to those whose jobs they concern."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from broker.model.errors import TransientError
from simulator.cluster.jobs import Ended, JobEvent, JobRecord, JobRequest
from simulator.cluster.model import SlurmModel, run_to_end

Listener: TypeAlias = Callable[[JobEvent], None]
Schedule: TypeAlias = Callable[[float, Callable[[], None]], None]


class ClusterHost:
    """Steps a ``SlurmModel`` along a clock.

    ``schedule`` is asked for a call at the time of the model's next event. ``batch`` are the ended jobs that nobody
    listens to: the background's.
    """

    def __init__(self, model: SlurmModel, clock: Callable[[], float], schedule: Schedule) -> None:
        self.model = model
        self.batch: list[JobRecord] = []
        self._now = clock
        self._schedule = schedule
        self._wake_at: float | None = None
        self._listeners: dict[int, Listener] = {}
        self._dark_until = -1.0

    def go_dark(self, until: float) -> None:
        """The controller does not answer until then; jobs run on."""
        self._dark_until = until

    def check_answers(self) -> None:
        """Raises ``TransientError`` while the controller does not answer."""
        if self._now() < self._dark_until:
            raise TransientError("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")

    def catch_up(self) -> None:
        """Everything up to now."""
        for event in self.model.advance(self._now()):
            listener = self._listeners.get(event.job_id)
            if listener is not None:
                listener(event)
            if isinstance(event, Ended) and self._listeners.pop(event.job_id, None) is None:
                self.batch.append(event.record)
        self._plan_wake()

    def submit(self, request: JobRequest, listener: Listener) -> int:
        """Queue a job whose events ``listener`` is told. Raises ``ActionRejected``."""
        job_id = self.model.submit(request, self._now())
        self._listeners[job_id] = listener
        self.catch_up()
        return job_id

    def cancel(self, job_id: int) -> None:
        self.model.cancel(job_id, self._now())
        self.catch_up()

    def finish(self, job_id: int, *, failed: bool, in_s: float = 0.0) -> None:
        """The job's processes exit by themselves."""
        self.model.finish(job_id, self._now() + in_s, failed=failed)
        self.catch_up()

    def settled(self) -> list[JobRecord]:
        """The background's jobs when all of it has ended. The run is over: our jobs end now, and nobody is told."""
        own, self._listeners = set(self._listeners), {}
        for job_id in own:
            self.model.cancel(job_id, self._now())
        ends = (event for event in run_to_end(self.model) if isinstance(event, Ended))
        return [*self.batch, *(event.record for event in ends if event.job_id not in own)]

    def _plan_wake(self) -> None:
        at = self.model.next_event_at()
        if at is not None and at != self._wake_at:
            self._wake_at = at
            self._schedule(at, self.catch_up)
