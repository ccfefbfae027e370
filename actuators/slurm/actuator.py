"""A pool of Slurm jobs that outlive the broker and are found again by their names.

A job is ours if our user owns it and its comment and name agree (``marks``); nothing else is ever touched. Submission
is made safe by looking first: the core wrote its intent down before, the job's name is the intent's, and a listing that
was asked for after an attempt says whether that attempt succeeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import structlog

from actuators.slurm.client import SiteFacts, SlurmClient
from actuators.slurm.job import LIVING, JobRecord, JobSpec, JobState
from actuators.slurm.marks import Mark, mark_of_job, mark_of_launch
from actuators.slurm.polling import Listings
from actuators.slurm.sightings import runs_as, sighting
from broker.model.agents import AgentOrder, Agents
from broker.model.errors import ActionRejected, ActuatorError, CapacityUnavailable, ConfigError
from broker.model.observation import Outcome, PoolSnapshot, Receipt
from broker.model.plan import Launch, Stop
from broker.model.ports import Clock
from broker.model.replica import ENDED, ObservedReplica, ReplicaPhase, StopMode
from broker.model.spec import PoolSpec

FORGET_AFTER_S = 3600.0
FACTS_KEPT_S = 300.0
SHORTENED_S = 60.0
"""Slurm counts limits in minutes: what moves a job's end by less is no news."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A replica that ended: Slurm forgets its job after minutes, and may never have had accounting."""

    shown: ObservedReplica
    at: float


class SlurmActuator:
    """An ``Actuator`` over the jobs of one pool.

    ``render`` makes of a launch, the site's facts and the time the job that is submitted; what it raises is the
    launch's answer. ``log_ids`` are of the logs whose jobs are this broker's; while jobs of another log live under this
    cluster's name the pool is unknown, since nobody can say whose they are to be. ``recorded`` are the phases of
    replicas, by id, in which the log had them when this broker began: what it was done with is not told again. With
    ``acts`` false nothing is cancelled by looking. ``checkpoint`` is called before and after each submission: fault
    tests die there.
    """

    def __init__(
        self,
        pool: PoolSpec,
        client: SlurmClient,
        agents: Agents,
        render: Callable[[Launch, SiteFacts, float], JobSpec],
        *,
        cluster: str,
        clock: Clock,
        log_ids: Sequence[str] = (),
        recorded: Mapping[str, ReplicaPhase] = MappingProxyType({}),
        poll_s: float = 5.0,
        acts: bool = True,
        checkpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._pool = pool
        self._client = client
        self._agents = agents
        self._render = render
        self._cluster = cluster
        self._log_ids = frozenset(("", *log_ids))
        self._recorded = recorded
        self._clock = clock
        self._listings = Listings(client, clock, poll_s)
        self._acts = acts
        self._checkpoint = checkpoint
        self._submitted: dict[str, tuple[Mark, int, float]] = {}
        self._told: set[str] = set()
        self._spare_cancelled: set[int] = set()
        self._ended: dict[str, _Ended] = {}
        self._recalled = False
        self._ends: dict[str, float] = {}
        self._facts: SiteFacts | None = None
        self._facts_until = 0.0
        self._submitting = asyncio.Lock()

    @property
    def pool_id(self) -> str:
        return self._pool.pool_id

    async def close(self) -> None:
        await self._client.close()

    # Observing

    async def observe(self) -> PoolSnapshot:
        try:
            await self._listings.polled()
            self._require_alone()
        except ActuatorError as error:
            now = self._clock.now()
            return PoolSnapshot(self.pool_id, now, now, known=False, error=str(self._located(error)))
        await self._recall()
        if self._acts:
            await self._end_requeued()
            await self._end_spare()
        rows = {name: _queued(mark, job_id) for name, mark, job_id in self._unlisted()}
        rows |= {name: self._seen(job, mark) for name, (mark, job) in self._ours().items()}
        rows |= {name: ended.shown for name, ended in self._ended.items()}
        self._forget()
        replicas = sorted(rows.values(), key=lambda replica: (replica.model_id, replica.replica_id))
        at = self._listings.asked_at
        return PoolSnapshot(self.pool_id, at, at, known=True, replicas=tuple(replicas), gpus_total=self._pool.gpus)

    def _ours(self) -> dict[str, tuple[Mark, JobRecord]]:
        """The one job of each action, by its name. Of several the first; the others are ended (``_end_spare``)."""
        found: dict[str, tuple[Mark, JobRecord]] = {}
        for job in sorted(self._listings.jobs, key=lambda job: job.job_id):
            mark = self._own_mark(job)
            if mark is None:
                continue
            known = found.get(job.name)
            if known is None or (known[1].gone and not job.gone):
                found[job.name] = mark, job
        return found

    def _own_mark(self, job: JobRecord) -> Mark | None:
        """None for what is not a job of this pool."""
        mark = self._named_like_ours(job)
        return mark if mark is not None and mark.log_id in self._log_ids else None

    def _named_like_ours(self, job: JobRecord) -> Mark | None:
        mark = mark_of_job(job)
        return mark if mark is not None and (mark.cluster, mark.pool_id) == (self._cluster, self.pool_id) else None

    async def others(self) -> str:
        """What is to be told of living jobs that another broker's log began under this cluster's name; empty if there
        are none, and while nobody can tell."""
        try:
            await self._listings.fresh()
        except ActuatorError:
            return ""
        return self._others()

    def _others(self) -> str:
        living = [job for job in self._listings.jobs if job.state in LIVING]
        marked = [(self._named_like_ours(job), job) for job in living]
        others = [job for mark, job in marked if mark is not None and mark.log_id not in self._log_ids]
        if not others:
            return ""
        return (
            f"{len(others)} living jobs (such as {others[0].job_id}) are of another broker that calls its cluster "
            f"{self._cluster} too and has its own log: if that log is lost, take them back with `tidegate adopt`; "
            "else mend cluster: give this site another name"
        )

    def _require_alone(self) -> None:
        """Raises ``ActionRejected``."""
        if words := self._others():
            raise ActionRejected(words)

    async def _recall(self) -> None:
        """What ended while no broker looked, longer ago than the controller remembers. Asked once, after a listing."""
        if self._recalled:
            return
        self._recalled = True
        self._look_back(job for _, job in self._ours().values() if job.gone)
        try:
            jobs = await self._client.ended(FORGET_AFTER_S)
        except ActuatorError as error:
            log.warning("accounting_not_read", problem=str(error), action="what ended unseen is told as vanished")
            return
        listed = {job.name for job in self._listings.jobs}
        self._look_back(job for job in jobs if job.name not in listed)

    def _look_back(self, jobs: Iterable[JobRecord]) -> None:
        """Of what ended before this broker looked only that is news which was still counted on: its predecessor told
        of the rest."""
        for job in jobs:
            mark = self._own_mark(job)
            if mark is not None:
                self._seen(job, mark, news=self._recorded.get(mark.replica_id) not in (None, *ENDED))

    def _unlisted(self) -> list[tuple[str, Mark, int]]:
        """What was submitted since the last listing was asked for: (name, mark, job id)."""
        return [
            (name, mark, job_id)
            for name, (mark, job_id, at) in self._submitted.items()
            if at >= self._listings.asked_at and name not in self._ended
        ]

    def _seen(self, job: JobRecord, mark: Mark, *, news: bool = True) -> ObservedReplica:
        before = self._ended.get(job.name)
        if before is not None:
            return before.shown
        self._tell_of_shortening(job, mark)
        told = job.name in self._told or self._recorded.get(mark.replica_id) is ReplicaPhase.STOPPING
        shown = sighting(job, mark, self._agents.latest(job.name), told=told)
        if shown.phase in ENDED:
            self._ended[job.name] = _Ended(shown, self._clock.now())
            tell = log.warning if shown.phase is ReplicaPhase.FAILED else log.info
            if news:
                tell("job_ended", job_id=job.job_id, replica_id=shown.replica_id, detail=shown.detail)
        return shown

    def _tell_of_shortening(self, job: JobRecord, mark: Mark) -> None:
        """A preemption with a grace tells nobody but by the job's end, which moves."""
        if job.state is not JobState.RUNNING or job.end_at is None:
            return
        before = self._ends.get(job.name, job.end_at)
        self._ends[job.name] = job.end_at
        if (earlier_s := before - job.end_at) > SHORTENED_S:
            cause = "it is being preempted, or somebody shortened its limit"
            told = log.bind(job_id=job.job_id, replica_id=mark.replica_id, cause=cause)
            told.warning("job_shortened", earlier_s=earlier_s, left_s=round(job.end_at - self._clock.now()))

    async def _end_requeued(self) -> None:
        """A requeued job keeps its name and would start a second engine for an action that has had its one."""
        for mark, job in self._ours().values():
            if job.restarts and job.state in LIVING and job.name not in self._told:
                log.warning("job_requeued", job_id=job.job_id, replica_id=mark.replica_id, action="cancelled, replaced")
                if await self._cancelled(job):
                    self._told.add(job.name)

    async def _end_spare(self) -> None:
        """A second job of an action that has, or has had, one: somebody submitted its script again, or slurmctld a
        submission that had been given up long before. Nobody else would end it once its name's replica is over."""
        kept = {job.job_id for name, (_, job) in self._ours().items() if name not in self._ended or job.restarts}
        kept |= self._spare_cancelled
        for job in self._listings.jobs:
            mark = self._own_mark(job)
            if mark is not None and job.state in LIVING and job.job_id not in kept:
                log.warning("job_doubled", job_id=job.job_id, replica_id=mark.replica_id, action="cancelled")
                if await self._cancelled(job):
                    self._spare_cancelled.add(job.job_id)

    async def _cancelled(self, job: JobRecord) -> bool:
        try:
            await self._client.cancel(job.job_id)
        except ActuatorError as error:
            log.warning("job_not_cancelled", job_id=job.job_id, problem=str(error))
            return False
        return True

    def _forget(self) -> None:
        oldest = self._clock.now() - FORGET_AFTER_S
        listed = {job.name for job in self._listings.jobs}
        self._spare_cancelled &= {job.job_id for job in self._listings.jobs}
        for name in [name for name, ended in self._ended.items() if ended.at < oldest and name not in listed]:
            del self._ended[name]
            self._told.discard(name)
            self._submitted.pop(name, None)
            self._ends.pop(name, None)

    # Starting

    async def start(self, launch: Launch) -> Receipt:
        self._check_addressed(launch.cluster, launch.pool_id, launch.replica_id)
        async with self._submitting:
            name = launch.action_id
            if name not in self._submitted and name not in self._ended:
                await self._listings.fresh()
                await self._recall()
                listed = self._ours().get(name)
                if listed is not None:
                    self._submitted[name] = listed[0], listed[1].job_id, self._listings.asked_at
                elif name not in self._ended:
                    self._check_room(launch)
                    await self._submit(launch)
        job_id = self._submitted[name][1] if name in self._submitted else None
        return Receipt(
            name, launch.replica_id, launch.model_id, Outcome.ACCEPTED, self._clock.now(), self._clock.now(),
            detail="" if job_id is None else runs_as(job_id),
        )  # fmt: skip

    async def _submit(self, launch: Launch) -> None:
        try:
            self._require_alone()
            job = self._render(launch, await self._known_facts(), self._clock.now())
            self._checkpoint("before_submit")
            try:
                job_id = await self._client.submit(job)
            finally:
                self._listings.soon()  # also where nobody can tell whether it was taken
        except ConfigError as error:
            raise ActionRejected(str(error)) from error
        except ActuatorError as error:
            raise self._located(error) from error
        self._checkpoint("after_submit")
        self._submitted[job.name] = mark_of_launch(launch), job_id, self._clock.now()
        log.info("job_submitted", job_id=job_id, replica_id=launch.replica_id, action_id=job.name)

    def _located(self, error: ActuatorError) -> ActuatorError:
        """What will never work as asked, with where it was asked for."""
        rejected = isinstance(error, ActionRejected)
        return ActionRejected(f"pools.{self.pool_id} of site.yaml: {error}") if rejected else error

    async def _known_facts(self) -> SiteFacts:
        """Partitions and reservations change by the day; asking for them costs slurmctld as much as a listing."""
        now = self._clock.monotonic()
        if self._facts is None or now >= self._facts_until:
            self._facts, self._facts_until = await self._client.facts(), now + FACTS_KEPT_S
        return self._facts

    def _check_room(self, launch: Launch) -> None:
        """Raises ``CapacityUnavailable``. What was submitted since the listing counts too."""
        held = {name: mark.gpus for name, (mark, job) in self._ours().items() if not job.gone}
        held |= {name: mark.gpus for name, mark, _ in self._unlisted()}
        free = self._pool.gpus - sum(held.values())
        if launch.model.gpus > free:
            raise CapacityUnavailable(
                f"pool {self.pool_id} has {free} of {self._pool.gpus} GPUs free; "
                f"{launch.replica_id} needs {launch.model.gpus}"
            )

    # Stopping

    async def stop(self, order: Stop) -> Receipt:
        self._check_addressed(order.cluster, order.pool_id, order.replica_id)
        job = await self._job_of(order)
        if job is not None and not job.gone:
            try:
                await self._tell_exit(job, order)
            finally:
                self._listings.soon()
            self._told.add(job.name)
        now = self._clock.now()
        return Receipt(order.action_id, order.replica_id, order.model_id, Outcome.ACCEPTED, now, now)

    async def _job_of(self, order: Stop) -> JobRecord | None:
        """Its job as a listing shows it that was asked for after this: what was just submitted must be found."""
        await self._listings.fresh()
        for mark, job in self._ours().values():
            if (mark.replica_id, mark.generation) == (order.replica_id, order.generation):
                return job
        return None

    async def _tell_exit(self, job: JobRecord, order: Stop) -> None:
        if order.mode is StopMode.KILL or job.state is JobState.PENDING:
            await self._client.cancel(job.job_id)
        elif self._agents.latest(job.name) is not None:
            self._agents.tell(job.name, AgentOrder.STOP)
        elif job.name not in self._told:
            await self._client.signal(job.job_id, "TERM")

    def _check_addressed(self, cluster: str, pool_id: str, replica_id: str) -> None:
        if (cluster, pool_id) != (self._cluster, self.pool_id):
            raise ActionRejected(
                f"{replica_id} belongs to pool {pool_id} of {cluster}, and this is {self.pool_id} of {self._cluster}"
            )


def _queued(mark: Mark, job_id: int) -> ObservedReplica:
    return ObservedReplica(
        mark.replica_id, mark.model_id, mark.generation, ReplicaPhase.PENDING, runs_as=runs_as(job_id)
    )
