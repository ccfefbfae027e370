"""The contract of every actuator, on jobs of a pretended Slurm, with agents that report and with silent ones."""

from __future__ import annotations

import pytest

from tests.contracts.actuator_contract import ActuatorContract
from tests.support.actuator_worlds import ActuatorWorld
from tests.support.slurm_pool_world import SlurmJobsWorld


class TestSlurmActuator(ActuatorContract):
    @pytest.fixture
    def world(self) -> ActuatorWorld:
        return SlurmJobsWorld()
