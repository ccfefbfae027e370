"""One Slurm for each module that tries faults on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.slurm.cluster import Slurm, a_slurm
from tests.support.real_slurm import why_not


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if (reason := why_not(rest=True)) is not None:
        pytest.skip(reason)
    with a_slurm() as slurm:
        yield slurm
