"""The broker is killed -9 around every write, effect, submission and registration, with jobs and streams under way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from broker.app.faultpoints import JOB_POINTS, POINTS
from tests.faults.broker_deaths import survive
from tests.faults.conftest import SEED, Note
from tests.faults.slurm.cluster import Slurm, slurm_cluster

KILLS = 3
ALL_POINTS = (*POINTS, *JOB_POINTS)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ALL_POINTS)
async def test_killed_three_times_at_a_point_it_finds_its_jobs_and_goes_on(
    point: str, slurm: Slurm, tmp_path: Path, note: Note
) -> None:
    await survive(slurm_cluster(slurm, tmp_path, ready=1), point, KILLS, note)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", random.Random(SEED).sample(ALL_POINTS, 1))
async def test_killed_once_at_a_point_that_the_seed_chose_it_goes_on(
    point: str, slurm: Slurm, tmp_path: Path, note: Note
) -> None:
    await survive(slurm_cluster(slurm, tmp_path, ready=1), point, 1, note)
