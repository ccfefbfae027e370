from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.actuator_contract import ActuatorContract
from tests.support.actuator_worlds import ActuatorWorld, LocalWorld


@pytest.mark.integration
class TestLocalActuator(ActuatorContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[ActuatorWorld]:
        world = LocalWorld(tmp_path)
        yield world
        world.end()
