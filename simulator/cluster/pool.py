"""A pool whose replicas are batch jobs of a simulated Slurm cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from broker.model.errors import ActionRejected, CapacityUnavailable, TransientError
from broker.model.observation import PoolSnapshot, Receipt
from broker.model.plan import Launch, Stop
from broker.model.replica import ENDED, ReplicaPhase, StopMode
from broker.model.spec import PoolSpec
from simulator.cluster.host import ClusterHost
from simulator.cluster.jobs import Ended, Job, JobEvent, JobRecord, JobRequest, JobState, PreemptionWarned, Started
from simulator.cluster.model import SlurmModel
from simulator.cluster.nodes import members
from simulator.cold_start import ColdStarts
from simulator.engine.profile import EngineProfile
from simulator.fleet import Service, SimulatedPool, SimulatedReplica
from simulator.report.summary import CutCause


@dataclass(frozen=True, slots=True)
class ReplicaJobs:
    """How a pool asks for its jobs: the partition, the time limit, how long a replica takes to exit when told, and GPUs
    of one node (those of the partition's largest if None)."""

    partition: str
    limit_s: float
    priority: float = 0.0
    exit_s: float = 0.0
    gpus_per_node: int | None = None


@dataclass(frozen=True, slots=True)
class SlurmPlace:
    """Where a pool's jobs go. Pools with the same ``cluster`` share it. ``cold_starts`` say how long a replica loads;
    without them it takes its profile's load time, wherever it runs."""

    cluster: SlurmModel
    jobs: ReplicaJobs
    cold_starts: ColdStarts | None = None


def replica_request(name: str, gpus: int, asks: ReplicaJobs, cluster: SlurmModel) -> JobRequest:
    """GPUs of one node, or whole nodes for a replica that needs more."""
    per_node = asks.gpus_per_node or cluster.largest_node(asks.partition)
    nodes = math.ceil(gpus / per_node)
    return JobRequest(name, asks.partition, nodes, min(gpus, per_node), asks.limit_s, priority=asks.priority)


class SlurmPool(SimulatedPool):
    """An ``Actuator`` of replicas as jobs, with the states that a real one shows.

    A replica is PENDING in the queue, STARTING from its job's start, and has a URL once it is loaded. ``not_after`` is
    the job's end, which comes nearer when it is being preempted. What ends without being told to has FAILED, with the
    job's state in ``detail`` and no exit code where the cluster ended it. While the controller does not answer, the
    listing is unknown and orders are refused.
    """

    def __init__(
        self, pool: PoolSpec, profile_of: Callable[[Launch], EngineProfile], service: Service,
        clock: Callable[[], float], *, host: ClusterHost, jobs: ReplicaJobs, cold_starts: ColdStarts | None = None,
    ) -> None:  # fmt: skip
        super().__init__(pool, profile_of, service, clock)
        self._host = host
        self._asks = jobs
        self._cold_starts = cold_starts
        self._job_ids: dict[str, int] = {}
        self._exiting: set[str] = set()
        self._ended: list[JobRecord] = []

    def jobs(self) -> Iterator[Job | JobRecord]:
        """Those of all its replicas: the ended ones, and what waits or runs."""
        yield from self._ended
        yield from filter(None, map(self._host.model.job, self._job_ids.values()))

    async def observe(self) -> PoolSnapshot:
        self._host.catch_up()
        try:
            self._host.check_answers()
        except TransientError as error:
            now = self._now()
            return PoolSnapshot(self.pool_id, now, now, known=False, error=str(error))
        return await super().observe()

    async def start(self, launch: Launch) -> Receipt:
        self._host.catch_up()
        self._host.check_answers()
        if launch.action_id not in self._actions:
            request = self._request(launch)
            self._check_room(launch)
            self._actions.add(launch.action_id)
            replica = SimulatedReplica(
                launch, self._profile_of(launch), None, math.inf, ReplicaPhase.PENDING,
                allocated_gpus=request.nodes * request.gpus,
            )  # fmt: skip
            self.replicas[launch.replica_id] = replica
            self._changed()
            self._job_ids[launch.replica_id] = self._host.submit(request, lambda event: self._happened(replica, event))
        return self._accepted(launch.action_id, launch.replica_id, launch.model.model_id)

    async def stop(self, order: Stop) -> Receipt:
        self._host.catch_up()
        self._host.check_answers()
        replica = self.replicas.get(order.replica_id)
        if replica is not None and replica.launch.generation == order.generation and replica.phase not in ENDED:
            waits = replica.phase is ReplicaPhase.PENDING
            replica.phase = ReplicaPhase.STOPPING
            self._changed()
            busy = self._service.leaves(replica)
            if waits or order.mode is StopMode.KILL:
                self._host.cancel(self._job_ids[order.replica_id])
            elif not busy:
                self.end(replica, exit_code=0)
        return self._accepted(order.action_id, order.replica_id, order.model_id)

    def end(self, replica: SimulatedReplica, *, exit_code: int) -> None:
        """Its process exits: at once by itself, in its own time if it was told to."""
        if replica.replica_id in self._exiting:
            return
        self._exiting.add(replica.replica_id)
        replica.exit_code = exit_code
        self._changed()
        wanted = replica.phase is ReplicaPhase.STOPPING
        self._host.finish(
            self._job_ids[replica.replica_id], failed=exit_code != 0, in_s=self._asks.exit_s if wanted else 0.0
        )

    def _request(self, launch: Launch) -> JobRequest:
        """Raises ``ActionRejected``."""
        asks = self._asks
        request = replica_request(launch.action_id, launch.model.gpus, asks, self._host.model)
        try:
            self._host.model.check(request)
        except ActionRejected as error:
            raise ActionRejected(f"partition {asks.partition} cannot execute {launch.replica_id}: {error}") from None
        return request

    def _check_room(self, launch: Launch) -> None:
        used = sum(replica.launch.model.gpus for replica in self.replicas.values() if replica.phase not in ENDED)
        free = self._pool.gpus - used
        if launch.model.gpus > free:
            raise CapacityUnavailable(
                f"pool {self.pool_id} has {free} of {self._pool.gpus} GPUs free; "
                f"{launch.replica_id} needs {launch.model.gpus}"
            )

    def _happened(self, replica: SimulatedReplica, event: JobEvent) -> None:
        self._changed()
        match event:
            case Started():
                replica.phase = ReplicaPhase.STARTING
                replica.started_at = event.at
                replica.loaded_at = event.at + self._load_s(replica, event)
                replica.not_after = event.ends_at
            case PreemptionWarned():
                replica.not_after = event.ends_at
            case Ended():
                self._over(replica, event.record)
            case _:
                raise AssertionError(f"a replica's job is never requeued: {event}")

    def _load_s(self, replica: SimulatedReplica, event: Started) -> float:
        launch = replica.launch
        if self._cold_starts is None or not self._cold_starts.knows(launch.model_id):
            return replica.profile.load_time_s
        return self._cold_starts.begin(launch.replica_id, launch.model_id, members(event.nodes), event.at).total_s

    def _over(self, replica: SimulatedReplica, record: JobRecord) -> None:
        wanted = replica.phase is ReplicaPhase.STOPPING
        replica.phase = ReplicaPhase.GONE if wanted else ReplicaPhase.FAILED
        if record.state not in (JobState.COMPLETED, JobState.FAILED):
            replica.exit_code = None
        replica.detail = "" if wanted else _WORDS[record.state].format(limit_s=record.request.limit_s)
        told_to = wanted and record.state not in _TAKEN
        replica.cut_by = CutCause.DRAIN_LIMIT if told_to else _CUT_BY[record.state]
        replica.ended_at = record.ended_at
        self._ended.append(record)
        del self._job_ids[replica.replica_id]
        self._exiting.discard(replica.replica_id)
        self._service.ended(replica)


_WORDS = {
    JobState.COMPLETED: "COMPLETED: it exited by itself",
    JobState.FAILED: "FAILED: it exited with an error",
    JobState.TIMEOUT: "TIMEOUT: the job reached its time limit of {limit_s:g} s",
    JobState.CANCELLED: "CANCELLED: somebody else cancelled the job",
    JobState.PREEMPTED: "PREEMPTED: a job of a higher tier took its nodes",
    JobState.NODE_FAIL: "NODE_FAIL: its node went down",
}

_CUT_BY = {
    JobState.COMPLETED: CutCause.CRASHED,
    JobState.FAILED: CutCause.CRASHED,
    JobState.TIMEOUT: CutCause.WALL_TIME,
    JobState.CANCELLED: CutCause.CANCELLED,
    JobState.PREEMPTED: CutCause.PREEMPTED,
    JobState.NODE_FAIL: CutCause.NODE_FAILED,
}
_TAKEN = frozenset({JobState.TIMEOUT, JobState.PREEMPTED, JobState.NODE_FAIL})
"""Ends that come from the cluster, also to a replica that was leaving already."""
