"""The cluster over time: an event heap around the scheduler's passes. Nothing here knows a clock or draws a number."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from broker.model.errors import ActionRejected
from simulator.cluster.backfill import Backfill
from simulator.cluster.jobs import (
    Ended,
    Job,
    JobEvent,
    JobRecord,
    JobRequest,
    JobState,
    PreemptionWarned,
    Requeued,
    Started,
)
from simulator.cluster.spec import ClusterSpec, Maintenance, NodeFailure, PreemptMode


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of the background and when it is submitted."""

    at: float
    request: JobRequest


class _Order(IntEnum):
    """What comes first at one instant. The scheduler's pass follows when all of the instant has happened."""

    END = 0
    NODES = 1
    SUBMIT = 2
    ORDER = 3


_Happening = tuple[float, int, int, Callable[..., None], Any]


class SlurmModel:
    """A cluster that is stepped: orders are given for a time not before the last ``advance``, events come from it.

    ``background`` must be in order of arrival and is read as time goes; so are ``failures``. Jobs of the background
    that fit no partition are counted in ``refused``. The same arguments and calls give the same events.
    """

    def __init__(
        self, spec: ClusterSpec, *, starts_at: float = 0.0, background: Iterable[Arrival] = (),
        failures: Iterable[NodeFailure] = (),
    ) -> None:  # fmt: skip
        self.spec = spec
        self.now = starts_at
        self.refused = 0
        self._scheduler = Backfill(spec)
        self._partitions = {partition.name: partition for partition in spec.partitions}
        self._longest_s = self._scheduler.calendar.longest_ever(starts_at)
        everywhere = self._scheduler.capacity.copy()
        self._allowed = {
            (partition.name, gpus): spec.nodes_of(partition) & with_free
            for partition in spec.partitions
            for gpus, with_free in enumerate(everywhere.with_free)
        }
        self._jobs: dict[int, Job] = {}
        self._due: dict[int, float] = {}
        self._heap: list[_Happening] = []
        self._scheduled = 0
        self._submitted = 0
        self._events: list[JobEvent] = []
        self._down: dict[int, float] = {}
        self._rules_wake_at = math.inf
        self._pass_due = False
        self._background = iter(background)
        self._failures = iter(failures)
        self._next_arrival()
        self._next_failure()
        for hold in spec.maintenance:
            self._at(hold.ends_at, _Order.NODES, self._hold_over, hold)

    # -- orders

    def submit(self, request: JobRequest, at: float) -> int:
        """Queue a job; returns its id. Raises ``ActionRejected`` for one that no partition could ever run."""
        self.check(request)
        self._submitted += 1
        self._at(self._in_time(at), _Order.SUBMIT, self._enqueue, self._new_job(self._submitted, request, at))
        return self._submitted

    def cancel(self, job_id: int, at: float) -> None:
        """End it then, waiting or running. A job that has ended by then stays as it ended."""
        self._at(self._in_time(at), _Order.ORDER, self._end_by_order, (job_id, JobState.CANCELLED))

    def finish(self, job_id: int, at: float, *, failed: bool = False) -> None:
        """A running job exits by itself then."""
        state = JobState.FAILED if failed else JobState.COMPLETED
        self._at(self._in_time(at), _Order.ORDER, self._end_by_order, (job_id, state))

    def hold(self, maintenance: Maintenance) -> None:
        """Announce a maintenance now. One of the same name is replaced."""
        self._scheduler.holds[maintenance.name] = maintenance
        self._at(max(self.now, maintenance.ends_at), _Order.NODES, self._hold_over, maintenance)
        self._look_again()

    def release(self, name: str) -> None:
        """Take a maintenance back; one that is not there is no error."""
        if self._scheduler.holds.pop(name, None) is not None:
            self._look_again()

    def check(self, request: JobRequest) -> None:
        """Raises ``ActionRejected`` for a job that no partition could ever run."""
        partition = self._partitions.get(request.partition)
        if partition is None:
            raise ActionRejected(f"no partition {request.partition!r}; there are {', '.join(self._partitions)}")
        if request.nodes < 1 or request.gpus < 1 or not 0 < request.limit_s < math.inf:
            raise ActionRejected(f"{request.name} asks for no nodes, no GPUs or no time")
        fitting = self._allowed.get((request.partition, request.gpus), 0).bit_count()
        if request.nodes > fitting:
            raise ActionRejected(
                f"{request.name} needs {request.nodes} nodes with {request.gpus} GPUs; "
                f"partition {request.partition} has {fitting}"
            )
        if request.limit_s > partition.max_limit_s:
            raise ActionRejected(
                f"{request.name} asks for {request.limit_s:g} s; partition {request.partition} allows "
                f"{partition.max_limit_s:g} s"
            )
        if request.limit_s > self._longest_s:
            raise ActionRejected(
                f"{request.name} asks for {request.limit_s:g} s; the hours at which jobs may start allow "
                f"{self._longest_s:g} s at most"
            )

    # -- time

    def next_event_at(self) -> float | None:
        """When something may happen next if no order is given; None if nothing will."""
        if self._pass_due:
            return self.now
        at = min(self._heap[0][0] if self._heap else math.inf, self._rules_wake_at)
        return None if at == math.inf else at

    def advance(self, to: float) -> list[JobEvent]:
        """Everything up to and including ``to``, in order."""
        while (at := self.next_event_at()) is not None and at <= to:
            self.now = at
            if at >= self._rules_wake_at:
                self._look_again()
            while self._heap and self._heap[0][0] <= at:
                _, _, _, happen, what = heapq.heappop(self._heap)
                happen(what)
            if self._pass_due:
                self._pass()
        self.now = max(self.now, to)
        events, self._events = self._events, []
        return events

    # -- what is there

    def job(self, job_id: int) -> Job | None:
        """A job that waits or runs; None for others."""
        return self._jobs.get(job_id)

    @property
    def queue(self) -> tuple[Job, ...]:
        """Waiting jobs, first in rank first."""
        return tuple(self._scheduler.queue)

    @property
    def running(self) -> tuple[Job, ...]:
        """Running jobs, by the end that the scheduler expects."""
        return tuple(self._scheduler.running)

    def expected_starts(self) -> dict[int, float]:
        """When the first waiting job of each partition will start at the latest, by the limits of what runs and if no
        job of a higher rank comes (``squeue --start``)."""
        return self._scheduler.expected_starts()

    def largest_node(self, partition: str) -> int:
        """GPUs of its largest node; 1 for a partition that does not exist."""
        return max((gpus for (name, gpus), nodes in self._allowed.items() if name == partition and nodes), default=1)

    # -- jobs

    def _new_job(self, job_id: int, request: JobRequest, at: float) -> Job:
        tier = self._partitions[request.partition].tier
        waited = self.spec.priority_per_hour / 3600.0 * at
        place = (request.partition, request.gpus)
        return Job(job_id, request, at, (-tier, waited - request.priority, at, job_id), place, self._allowed[place])

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._scheduler.enqueue(job)
        self._pass_due = True

    def _end_by_order(self, what: tuple[int, JobState]) -> None:
        job_id, state = what
        job = self._jobs.get(job_id)
        if job is not None and (job.state is JobState.RUNNING or state is JobState.CANCELLED):
            self._end(job, state)

    def _end_when_due(self, what: tuple[Job, float]) -> None:
        job, at = what
        if self._due.get(job.job_id) != at:
            return
        run_s = job.request.run_s
        if run_s is not None and job.started_at is not None and job.started_at + run_s <= at:
            self._end(job, JobState.COMPLETED)
        elif job.preempted:
            self._lose(job, JobState.PREEMPTED, self._requeues_preempted(job))
        else:
            self._end(job, JobState.TIMEOUT)

    def _requeues_preempted(self, job: Job) -> bool:
        return job.request.requeue and self._partitions[job.request.partition].preempt is PreemptMode.REQUEUE

    def _lose(self, job: Job, reason: JobState, requeue: bool) -> None:
        """Its nodes are taken from it."""
        if not requeue:
            self._end(job, reason)
            return
        self._leave(job)
        job.state, job.nodes, job.preempted = JobState.PENDING, 0, False
        job.restarts += 1
        job.eligible_at = self.now + self.spec.requeue_delay_s
        self._events.append(Requeued(job.job_id, self.now, reason))
        self._enqueue(job)
        self._at(job.eligible_at, _Order.SUBMIT, self._becomes_eligible, job)

    def _becomes_eligible(self, job: Job) -> None:
        self._look_again()

    def _end(self, job: Job, state: JobState) -> None:
        self._leave(job)
        job.state = state
        record = JobRecord(
            job.job_id, job.request, state, job.submitted_at, job.started_at, self.now, job.nodes, job.restarts
        )
        self._events.append(Ended(job.job_id, self.now, record))

    def _leave(self, job: Job) -> None:
        del self._jobs[job.job_id]
        if job.state is JobState.RUNNING:
            del self._due[job.job_id]
            self._scheduler.release(job)
        else:
            self._scheduler.withdraw(job)
        self._pass_due = True

    # -- nodes

    def _fail(self, failure: NodeFailure) -> None:
        self._next_failure()
        if failure.repaired_at <= self.now:
            return
        bit = 1 << failure.node
        self._down[failure.node] = max(failure.repaired_at, self._down.get(failure.node, 0.0))
        self._scheduler.up &= ~bit
        self._at(failure.repaired_at, _Order.NODES, self._repair, failure.node)
        for job in [job for job in self._scheduler.running if job.nodes & bit]:
            self._lose(job, JobState.NODE_FAIL, job.request.requeue)
        self._look_again()

    def _repair(self, node: int) -> None:
        if self._down.get(node, math.inf) <= self.now:
            del self._down[node]
            self._scheduler.up |= 1 << node
            self._look_again()

    def _hold_over(self, hold: Maintenance) -> None:
        if self._scheduler.holds.get(hold.name) == hold:
            self.release(hold.name)

    # -- passes

    def _look_again(self) -> None:
        self._scheduler.changed()
        self._pass_due = True

    def _pass(self) -> None:
        """Decide, and schedule what follows from it. A victim without grace ends at this very instant: then the
        next turn of ``advance`` decides again."""
        self._pass_due = False
        now = self.now
        decisions = self._scheduler.decide(now)
        for job in decisions.preempted:
            if job.ends_at > now:
                self._events.append(PreemptionWarned(job.job_id, now, job.ends_at))
            self._plan_end(job)
        for job in decisions.started:
            self._events.append(Started(job.job_id, now, job.nodes, job.ends_at))
            self._plan_end(job)
        waits = bool(self._scheduler.queue)
        self._rules_wake_at = self._scheduler.calendar.changes_at(now) if waits else math.inf

    def _plan_end(self, job: Job) -> None:
        run_s = job.request.run_s
        started_at = self.now if job.started_at is None else job.started_at
        due_at = job.ends_at if run_s is None else min(job.ends_at, started_at + run_s)
        self._due[job.job_id] = due_at
        self._at(due_at, _Order.END, self._end_when_due, (job, due_at))

    # -- the heap

    def _at(self, at: float, order: _Order, happen: Callable[..., None], what: object) -> None:
        self._scheduled += 1
        heapq.heappush(self._heap, (at, order, self._scheduled, happen, what))

    def _in_time(self, at: float) -> float:
        if at < self.now:
            raise ValueError(f"an order for {at}, but it is {self.now} already")
        return at

    def _next_arrival(self) -> None:
        arrival = next(self._background, None)
        if arrival is not None:
            self._at(self._in_time(arrival.at), _Order.SUBMIT, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._next_arrival()
        try:
            self.check(arrival.request)
        except ActionRejected:
            self.refused += 1
            return
        self._submitted += 1
        self._enqueue(self._new_job(self._submitted, arrival.request, arrival.at))

    def _next_failure(self) -> None:
        failure = next(self._failures, None)
        if failure is not None:
            self._at(self._in_time(failure.at), _Order.NODES, self._fail, failure)


def run_to_end(model: SlurmModel) -> Iterator[JobEvent]:
    """All events until nothing more can happen."""
    while (at := model.next_event_at()) is not None:
        yield from model.advance(at)
