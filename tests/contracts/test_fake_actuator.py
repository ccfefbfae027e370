from __future__ import annotations

import pytest

from tests.contracts.actuator_contract import ActuatorContract
from tests.support.actuator_worlds import ActuatorWorld, FakeWorld


class TestFakeActuator(ActuatorContract):
    @pytest.fixture
    def world(self) -> ActuatorWorld:
        return FakeWorld()
