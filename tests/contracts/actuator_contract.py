"""What every actuator must do. A test module of an implementation inherits this class and gives it a ``world``."""

from __future__ import annotations

import asyncio

import pytest

from broker.model.errors import ActionRejected, CapacityUnavailable
from broker.model.observation import Outcome
from broker.model.replica import ENDED, ReplicaPhase, StopMode
from tests.support.actuator_worlds import (
    ActuatorWorld,
    launch_of,
    seen,
    stop_of,
    until,
    until_listening,
    until_phase,
)


class ActuatorContract:
    @pytest.fixture
    def world(self) -> ActuatorWorld:
        raise NotImplementedError

    async def test_a_pool_in_which_nothing_was_started_is_known_to_be_empty(self, world: ActuatorWorld) -> None:
        snapshot = await world.actuator.observe()
        assert snapshot.known
        assert snapshot.replicas == ()
        assert snapshot.pool_id == world.actuator.pool_id
        assert snapshot.gpus_total == 2

    async def test_a_started_replica_is_listed_with_its_identity_and_then_with_its_url(
        self, world: ActuatorWorld
    ) -> None:
        launch = launch_of(world.cluster, generation=7)
        receipt = await world.actuator.start(launch)
        assert (receipt.outcome, receipt.action_id, receipt.replica_id, receipt.model_id) == (
            Outcome.ACCEPTED,
            launch.action_id,
            "chat-0-g7",
            "chat",
        )
        replica = await seen(world, "chat-0-g7")
        assert replica is not None
        assert (replica.model_id, replica.generation) == ("chat", 7)
        assert replica.phase in (ReplicaPhase.PENDING, ReplicaPhase.STARTING)
        await until_listening(world, "chat-0-g7")
        replica = await seen(world, "chat-0-g7")
        assert replica is not None
        assert replica.phase is ReplicaPhase.STARTING

    async def test_the_same_launch_again_is_accepted_and_has_no_second_effect(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        receipts = [await world.actuator.start(launch) for _ in range(3)]
        assert {receipt.outcome for receipt in receipts} == {Outcome.ACCEPTED}
        await until_listening(world, launch.replica_id)
        assert world.runs(launch.replica_id) == 1

    async def test_the_same_launch_many_times_at_once_has_one_effect(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        await asyncio.gather(*(world.actuator.start(launch) for _ in range(5)))
        await until_listening(world, launch.replica_id)
        assert world.runs(launch.replica_id) == 1

    async def test_a_launch_whose_replica_has_ended_is_not_carried_out_again(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        world.crash(launch.replica_id)
        await until_phase(world, launch.replica_id, ReplicaPhase.FAILED)
        assert (await world.actuator.start(launch)).outcome is Outcome.ACCEPTED
        await world.pass_time()
        replica = await seen(world, launch.replica_id)
        assert replica is not None
        assert replica.phase is ReplicaPhase.FAILED
        assert world.runs(launch.replica_id) == 1

    async def test_a_replica_told_to_exit_is_stopping_and_then_gone(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster, engine=(*launch_of().model.engine.command, "--exit-s", "0.5"))
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        receipt = await world.actuator.stop(stop_of(launch))
        assert (receipt.outcome, receipt.action_id) == (Outcome.ACCEPTED, stop_of(launch).action_id)
        await until_phase(world, launch.replica_id, ReplicaPhase.STOPPING)
        gone = await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
        assert gone.url is None
        assert gone.exit_code == 0

    async def test_a_kill_ends_a_replica_that_takes_its_time_to_exit(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster, engine=(*launch_of().model.engine.command, "--exit-s", "50"))
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        await world.actuator.stop(stop_of(launch))
        await until_phase(world, launch.replica_id, ReplicaPhase.STOPPING)
        await world.actuator.stop(stop_of(launch, StopMode.KILL))
        await until_phase(world, launch.replica_id, ReplicaPhase.GONE)

    @pytest.mark.parametrize("mode", list(StopMode))
    async def test_stopping_again_or_what_is_gone_is_accepted(self, world: ActuatorWorld, mode: StopMode) -> None:
        launch = launch_of(world.cluster)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        for _ in range(2):
            assert (await world.actuator.stop(stop_of(launch, mode))).outcome is Outcome.ACCEPTED
        await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
        assert (await world.actuator.stop(stop_of(launch, mode))).outcome is Outcome.ACCEPTED
        await until_phase(world, launch.replica_id, ReplicaPhase.GONE)

    @pytest.mark.parametrize("mode", list(StopMode))
    async def test_stopping_what_never_was_is_accepted(self, world: ActuatorWorld, mode: StopMode) -> None:
        receipt = await world.actuator.stop(stop_of(launch_of(world.cluster, generation=99), mode))
        assert receipt.outcome is Outcome.ACCEPTED

    async def test_a_stop_for_another_generation_touches_nothing(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster, generation=2)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        await world.actuator.stop(stop_of(launch_of(world.cluster, generation=1), StopMode.KILL))
        await world.pass_time()
        replica = await seen(world, launch.replica_id)
        assert replica is not None
        assert replica.phase is ReplicaPhase.STARTING

    async def test_a_replica_that_ends_by_itself_has_failed(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        world.crash(launch.replica_id)
        failed = await until_phase(world, launch.replica_id, ReplicaPhase.FAILED)
        assert failed.url is None
        assert failed.exit_code is not None
        assert failed.detail

    async def test_a_failed_listing_is_unknown_and_says_why(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        world.break_listing()
        snapshot = await world.actuator.observe()
        assert not snapshot.known
        assert snapshot.replicas == ()
        assert snapshot.error

    async def test_a_full_pool_says_so_and_has_room_again_when_one_has_ended(self, world: ActuatorWorld) -> None:
        first, second = launch_of(world.cluster), launch_of(world.cluster, ordinal=1, gpus=2)
        await world.actuator.start(first)
        with pytest.raises(CapacityUnavailable, match="1 of 2 GPUs free"):
            await world.actuator.start(second)
        assert await seen(world, second.replica_id) is None
        await world.actuator.stop(stop_of(first, StopMode.KILL))
        await until(world, first.replica_id, lambda replica: replica is not None and replica.phase in ENDED)
        await world.actuator.start(second)
        await until_listening(world, second.replica_id)

    async def test_replicas_are_found_again_after_the_actuator_was_thrown_away(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        await world.actuator.start(launch)
        url = await until_listening(world, launch.replica_id)
        await world.actuator.close()
        world.renew()
        assert await until_listening(world, launch.replica_id) == url
        assert (await world.actuator.start(launch)).outcome is Outcome.ACCEPTED
        await world.actuator.stop(stop_of(launch))
        world.renew()
        await until_phase(world, launch.replica_id, ReplicaPhase.GONE)
        assert world.runs(launch.replica_id) == 1

    async def test_a_launch_that_can_never_work_is_rejected_in_words(self, world: ActuatorWorld) -> None:
        launch = world.bad_launch()
        with pytest.raises(ActionRejected, match="cannot execute"):
            await world.actuator.start(launch)
        assert await seen(world, launch.replica_id) is None
