"""A Slurm in memory for tests, benchmarks and rehearsals: it never suspends, and its time is the ``now`` it is given.

A job waits ``pending_s``, runs until its time limit unless something ends it before, is COMPLETING for
``completing_s``, and its record is forgotten ``min_job_age_s`` after its end, but by ``accounting``. Nothing happens
between calls: what has fallen due is worked off when somebody looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actuators.slurm.client import PartitionFacts, ReservationFacts, SiteFacts, SubmitUnclear
from actuators.slurm.job import COMPLETING, LIVING, JobRecord, JobSpec, JobState
from actuators.slurm.refusals import submit_refused
from actuators.slurm.texts import minutes_up, output_path
from broker.model.errors import ActuatorError, TransientError

WHERE = "the pretended Slurm"


@dataclass(slots=True)
class _Held:
    """A job of the pretended world. ``runs_at`` is None while it is held back."""

    spec: JobSpec
    record: JobRecord
    runs_at: float | None


class FakeSlurm:
    """A ``SlurmClient`` without a cluster; the jobs of all users are in it, and ``user``'s are listed.

    ``submitted``, ``cancelled`` and ``signals`` record what was asked for, in order; ``listings``, and ``looks`` at
    states, count. ``unchanged`` has an answer while ``tells_states`` is set. Attributes ``pending_s`` and
    ``completing_s`` may be changed at any time and hold for what is submitted or ended from then on.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        partitions: tuple[PartitionFacts, ...] = (PartitionFacts("gpu", True, 4, 86400.0, 600.0),),
        gpu_types: tuple[str, ...] = ("h100",),
        accounts: tuple[str, ...] = (),
        user: str = "tide",
        pending_s: float = 0.0,
        completing_s: float = 0.0,
        min_job_age_s: float = 300.0,
        accounting: bool = False,
    ) -> None:
        self.partitions = {partition.name: partition for partition in partitions}
        self.reservations: tuple[ReservationFacts, ...] = ()
        self.pending_s = pending_s
        self.completing_s = completing_s
        self.submitted: list[JobSpec] = []
        self.cancelled: list[int] = []
        self.signals: list[tuple[int, str]] = []
        self.tells_states = False
        self.listings = 0
        self.looks = 0
        self._now = now
        self._gpu_types = gpu_types
        self._accounts = accounts
        self._user = user
        self._min_job_age_s = min_job_age_s
        self._accounted: list[JobRecord] | None = [] if accounting else None
        self._next_id = 1
        self._held: dict[int, _Held] = {}
        self._errors: dict[str, deque[ActuatorError]] = {}
        self._lost: ActuatorError | None = None

    async def submit(self, job: JobSpec) -> int:
        now = self._catch_up("submit")
        if (words := self._refused(job)) is not None:
            raise submit_refused(words, job, WHERE)
        self.submitted.append(job)
        job_id = self._begin(job, self._user, now)
        if self._lost is not None:
            error, self._lost = self._lost, None
            raise error
        return job_id

    async def jobs(self) -> tuple[JobRecord, ...]:
        self._catch_up("jobs")
        self.listings += 1
        return tuple(held.record for held in self._held.values() if held.record.user == self._user)

    async def unchanged(self, jobs: Sequence[JobRecord]) -> bool | None:
        if not self.tells_states:
            return None
        self.looks += 1
        self._catch_up()
        now = {job_id: (held.record.state, held.record.flags) for job_id, held in self._held.items()}
        return all(now.get(job.job_id) == (job.state, job.flags) for job in jobs)

    async def ended(self, within_s: float) -> tuple[JobRecord, ...]:
        now = self._catch_up("ended")
        remembered = [held.record for held in self._held.values() if held.record.gone]
        known = () if self._accounted is None else (*self._accounted, *remembered)
        return tuple(job for job in known if job.user == self._user and (job.end_at or 0.0) >= now - within_s)

    async def cancel(self, job_id: int) -> None:
        now = self._catch_up("cancel")
        self.cancelled.append(job_id)
        if job_id in self._held and self._held[job_id].record.state in LIVING:
            self._end(job_id, JobState.CANCELLED, now, exit_signal=15)

    async def signal(self, job_id: int, name: str) -> None:
        self._catch_up("signal")
        held = self._held.get(job_id)
        if held is not None and held.record.state is JobState.PENDING:
            raise TransientError(f"{WHERE} did not signal job {job_id}: Job is pending execution")
        if held is not None and held.record.state in LIVING:
            self.signals.append((job_id, name))

    async def facts(self) -> SiteFacts:
        self._catch_up("facts")
        return SiteFacts("0.0", WHERE, self._user, tuple(self.partitions.values()), self.reservations, 0.0)

    async def close(self) -> None:
        """Nothing to let go of: this object is the world itself, and goes on after it."""

    def everything(self) -> tuple[JobRecord, ...]:
        """The jobs of all users, as they are now."""
        self._catch_up()
        return tuple(held.record for held in self._held.values())

    def fail_next(self, call: str, error: ActuatorError) -> None:
        """The next ``call`` (``submit``, ``jobs``, ``cancel``, ``signal``, ``facts``) raises ``error`` and has no
        effect; several wait in line."""
        self._errors.setdefault(call, deque()).append(error)

    def lose_next_answer(self) -> None:
        """The next submission is carried out, and its answer lost."""
        self._lost = SubmitUnclear(f"{WHERE} lost the answer to a submission")

    def run_foreign(self, job: JobSpec, user: str) -> int:
        """Somebody else's job."""
        return self._begin(job, user, self._now())

    def finish(self, job_id: int, *, state: JobState = JobState.COMPLETED, exit_code: int | None = 0) -> None:
        """The job ends by itself, now. Raises ``KeyError`` if there is no such job."""
        self._end(job_id, state, self._catch_up(), exit_code=exit_code)

    def move_end(self, job_id: int, end_at: float) -> None:
        """As preemption and ``scontrol update`` do."""
        self._catch_up()
        self._show(job_id, replace(self._held[job_id].record, end_at=end_at))

    def requeue(self, job_id: int) -> None:
        """Back into the queue, under the same id."""
        now = self._catch_up()
        record = self._held[job_id].record
        waits = replace(
            record, state=JobState.PENDING, nodes=(), restarts=record.restarts + 1, started_at=None, end_at=None
        )
        self._show(job_id, waits)
        self._held[job_id].runs_at = now + self.pending_s

    def explain(self, job_id: int, reason: str) -> None:
        """Why the job waits; it does so until ``release``."""
        self._catch_up()
        self._show(job_id, replace(self._held[job_id].record, reason=reason))
        self._held[job_id].runs_at = None

    def release(self, job_id: int) -> None:
        self._show(job_id, replace(self._held[job_id].record, reason=""))
        self._held[job_id].runs_at = self._now() + self.pending_s

    def _refused(self, job: JobSpec) -> str | None:
        """Slurm's words."""
        partition = self.partitions.get(job.partition)
        if partition is None:
            return "Invalid partition name specified"
        if not partition.up:
            return "Required partition not available (inactive or drain)"
        if partition.max_time_s is not None and minutes_up(job.time_limit_s) * 60 > partition.max_time_s:
            return "Requested time limit is invalid (missing or exceeds some limit)"
        if job.gpu_type is not None and job.gpu_type not in self._gpu_types:
            return "Requested node configuration is not available"
        if job.account is not None and self._accounts and job.account not in self._accounts:
            return "Invalid account or account/partition combination specified"
        return None

    def _begin(self, job: JobSpec, user: str, now: float) -> int:
        job_id = self._next_id
        self._next_id += 1
        record = JobRecord(
            job_id,
            job.name,
            user,
            job.comment,
            job.partition,
            JobState.PENDING,
            reason="Priority",
            submitted_at=now,
            time_limit_s=minutes_up(job.time_limit_s) * 60.0,
            output=output_path(job.output, job_id, job.name, user, ""),
        )
        self._held[job_id] = _Held(job, record, now + self.pending_s)
        self._catch_up()
        return job_id

    def _end(
        self, job_id: int, state: JobState, now: float, *, exit_code: int | None = None, exit_signal: int | None = None
    ) -> None:
        began = self._held[job_id].record.started_at is not None
        flags = frozenset({COMPLETING}) if self.completing_s > 0 and began else frozenset[str]()
        self._show(
            job_id,
            replace(
                self._held[job_id].record, state=state, flags=flags, reason="", end_at=now,
                exit_code=exit_code if began else None, exit_signal=exit_signal if began else None,
            ),
        )  # fmt: skip

    def _show(self, job_id: int, record: JobRecord) -> None:
        self._held[job_id].record = record

    def _catch_up(self, call: str = "") -> float:
        """Work off what has fallen due; returns the time. Raises what the call was told to."""
        if self._errors.get(call):
            raise self._errors[call].popleft()
        now = self._now()
        for job_id, held in list(self._held.items()):
            self._advance(job_id, held, now)
        return now

    def _advance(self, job_id: int, held: _Held, now: float) -> None:
        record = held.record
        if record.state is JobState.PENDING and held.runs_at is not None and held.runs_at <= now:
            node = f"n{(job_id - 1) % max(1, self.partitions[record.partition].nodes) + 1}"
            self._show(
                job_id,
                replace(
                    record, state=JobState.RUNNING, reason="", nodes=(node,), started_at=held.runs_at,
                    end_at=held.runs_at + (record.time_limit_s or 0.0),
                ),
            )  # fmt: skip
            record = held.record
        if record.state is JobState.RUNNING and record.end_at is not None and record.end_at <= now:
            self._end(job_id, JobState.TIMEOUT, record.end_at, exit_code=0)
            record = held.record
        if record.state not in LIVING and record.end_at is not None:
            if COMPLETING in record.flags and record.end_at + self.completing_s <= now:
                self._show(job_id, replace(record, flags=frozenset()))
            if record.end_at + self._min_job_age_s <= now:
                del self._held[job_id]
                if self._accounted is not None:
                    self._accounted.append(record)
