"""What the listing of a pool of Slurm jobs says beyond the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.model.errors import TransientError
from broker.model.observation import Outcome
from broker.model.plan import Launch
from broker.model.replica import ObservedReplica, ReplicaPhase, StopMode
from broker.model.spec import PoolSpec
from simulator.cluster.host import ClusterHost
from simulator.cluster.jobs import JobRequest
from simulator.cluster.model import Arrival, SlurmModel
from simulator.cluster.pool import ReplicaJobs, SlurmPool
from simulator.cluster.spec import ClusterSpec, NodeFailure, NodeGroup, Partition, PreemptMode
from simulator.driver import drive
from tests.support.actuator_worlds import FakeService, SetClock, launch_of, stop_of
from tests.support.simulated import SLOW_ENGINE

NOW = 1_700_000_000.0


class World:
    """Two nodes of four GPUs; ``jobs`` and ``failures`` count seconds from now."""

    def __init__(
        self, *jobs: Arrival, limit_s: float = 1000.0, exit_s: float = 0.0, failures: tuple[NodeFailure, ...] = ()
    ) -> None:
        self.clock = SetClock(NOW)
        partitions = (Partition("gpu", preempt=PreemptMode.CANCEL, grace_s=60.0), Partition("urgent", tier=1))
        spec = ClusterSpec((NodeGroup("n", 2, 4),), partitions)
        background = [Arrival(NOW + each.at, each.request) for each in jobs]
        failing = [NodeFailure(NOW + each.at, each.node, NOW + each.repaired_at) for each in failures]
        model = SlurmModel(spec, starts_at=NOW, background=background, failures=failing)
        self.wakes: list[float] = []
        self.host = ClusterHost(model, self.clock.now, self._wake)
        self.service = FakeService()
        self.pool = SlurmPool(
            PoolSpec("pool", "slurm", gpus=8), lambda launch: SLOW_ENGINE, self.service, self.clock.now,
            host=self.host, jobs=ReplicaJobs("gpu", limit_s, exit_s=exit_s),
        )  # fmt: skip
        self.host.catch_up()

    def _wake(self, at: float, happen: Callable[[], None]) -> None:
        self.wakes.append(at)

    def start(self, launch: Launch) -> None:
        assert drive(self.pool.start(launch)).outcome is Outcome.ACCEPTED

    def seen(self, after_s: float) -> ObservedReplica:
        """The one replica in the listing at this many seconds."""
        self.clock.at = NOW + after_s
        snapshot = drive(self.pool.observe())
        assert snapshot.known
        (replica,) = snapshot.replicas
        return replica


FULL = JobRequest("batch", "urgent", 2, 4, 100.0, 100.0)


def test_a_replica_in_the_queue_is_pending_and_its_times_are_not_known() -> None:
    world = World(Arrival(0.0, FULL))
    world.start(launch_of())
    waiting = world.seen(50.0)
    assert (waiting.phase, waiting.started_at, waiting.not_after, waiting.url) == (
        ReplicaPhase.PENDING, None, None, None,
    )  # fmt: skip
    running = world.seen(101.0)
    assert (running.phase, running.started_at, running.not_after, running.url) == (
        ReplicaPhase.STARTING, NOW + 100.0, NOW + 1100.0, None,
    )  # fmt: skip
    assert world.seen(102.0).url is not None


def test_at_its_time_limit_a_replica_has_failed_without_an_exit_code() -> None:
    world = World(limit_s=300.0)
    world.start(launch_of())
    ended = world.seen(301.0)
    assert (ended.phase, ended.exit_code, ended.url) == (ReplicaPhase.FAILED, None, None)
    assert ended.detail == "TIMEOUT: the job reached its time limit of 300 s"
    assert [replica.ended_at for replica in world.service.gone] == [NOW + 300.0]


def test_its_end_comes_nearer_when_it_is_being_preempted() -> None:
    world = World(Arrival(100.0, FULL))
    world.start(launch_of())
    assert world.seen(99.0).not_after == NOW + 1000.0
    assert world.seen(101.0).not_after == NOW + 160.0
    assert world.seen(159.0).phase is ReplicaPhase.STARTING
    ended = world.seen(160.0)
    assert (ended.phase, ended.exit_code) == (ReplicaPhase.FAILED, None)
    assert ended.detail.startswith("PREEMPTED")


def test_a_replica_on_a_failing_node_has_failed() -> None:
    world = World(failures=(NodeFailure(10.0, 0, 500.0),))
    world.start(launch_of())
    assert world.seen(11.0).detail.startswith("NODE_FAIL")


def test_a_replica_told_to_exit_while_it_waits_is_gone_and_never_ran() -> None:
    world = World(Arrival(0.0, FULL))
    launch = launch_of()
    world.start(launch)
    drive(world.pool.stop(stop_of(launch)))
    gone = world.seen(0.0)
    assert (gone.phase, gone.started_at, gone.detail) == (ReplicaPhase.GONE, None, "")
    assert world.host.model.queue == ()


def test_its_gpus_are_the_clusters_until_its_process_has_exited() -> None:
    world = World(exit_s=20.0)
    launch = launch_of()
    world.start(launch)
    world.seen(10.0)
    drive(world.pool.stop(stop_of(launch)))
    assert world.seen(29.0).phase is ReplicaPhase.STOPPING
    assert [each.request.gpus for each in world.host.model.running] == [1]
    gone = world.seen(30.0)
    assert (gone.phase, gone.exit_code) == (ReplicaPhase.GONE, 0)
    assert not world.host.model.running


def test_a_kill_does_not_wait_for_the_exit() -> None:
    world = World(exit_s=20.0)
    launch = launch_of()
    world.start(launch)
    drive(world.pool.stop(stop_of(launch)))
    drive(world.pool.stop(stop_of(launch, StopMode.KILL)))
    assert world.seen(0.0).phase is ReplicaPhase.GONE


def test_a_model_larger_than_a_node_takes_whole_nodes() -> None:
    world = World()
    world.start(launch_of(gpus=6))
    world.seen(1.0)
    (job,) = world.host.model.running
    assert (job.request.nodes, job.request.gpus) == (2, 4)


def test_while_the_controller_does_not_answer_the_pool_is_unknown_and_orders_are_refused() -> None:
    world = World()
    launch = launch_of()
    world.start(launch)
    world.host.go_dark(NOW + 60.0)
    snapshot = drive(world.pool.observe())
    assert (snapshot.known, snapshot.replicas) == (False, ())
    assert "Unable to contact slurm controller" in snapshot.error
    for order in (world.pool.start(launch_of(ordinal=1)), world.pool.stop(stop_of(launch))):
        with pytest.raises(TransientError):
            drive(order)
    assert world.seen(60.0).phase is ReplicaPhase.STARTING


def test_ended_replicas_stay_in_the_listing_for_an_hour() -> None:
    world = World(limit_s=300.0)
    world.start(launch_of())
    assert world.seen(3899.0).phase is ReplicaPhase.FAILED
    world.clock.at = NOW + 3901.0
    assert drive(world.pool.observe()).replicas == ()


def test_a_driver_is_asked_to_call_at_each_event_of_the_cluster() -> None:
    world = World(Arrival(40.0, FULL))
    assert world.wakes == [NOW + 40.0]
    world.clock.at = NOW + 40.0
    world.host.catch_up()
    assert world.wakes[-1] == NOW + 140.0
    world.clock.at = NOW + 140.0
    world.host.catch_up()
    assert [record.request.name for record in world.host.batch] == ["batch"]
