from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.contracts.actuator_contract import ActuatorContract
from tests.support.actuator_worlds import ActuatorWorld, LocalWorld, launch_of, seen, until_listening


@pytest.mark.integration
class TestLocalActuator(ActuatorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[ActuatorWorld]:
        world = LocalWorld(tmp_path)
        yield world
        world.end()

    async def test_a_replica_is_told_by_its_process(self, world: ActuatorWorld) -> None:
        launch = launch_of(world.cluster)
        await world.actuator.start(launch)
        await until_listening(world, launch.replica_id)
        replica = await seen(world, launch.replica_id)
        assert replica is not None
        assert psutil.Process(int(replica.runs_as.removeprefix("process "))).is_running()
