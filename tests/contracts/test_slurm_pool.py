from __future__ import annotations

import pytest

from tests.contracts.actuator_contract import ActuatorContract
from tests.support.actuator_worlds import ActuatorWorld, SlurmWorld


class TestSlurmPool(ActuatorContract):
    @pytest.fixture
    def world(self) -> ActuatorWorld:
        return SlurmWorld()
