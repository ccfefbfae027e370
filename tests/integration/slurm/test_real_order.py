"""The simulated Slurm starts jobs as a real one does (needs Slurm's packages and root)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from accuracy.acc_slurm_real import (
    CYCLE_S,
    NODES,
    OPTIONS,
    PARTITIONS,
    as_it_ran,
    draw,
    out_of_order,
    run_for_real,
    simulate,
    sturdy_load,
)
from tests.support.real_slurm import RealSlurm, why_not


def test_pairs_that_start_the_other_way_round_are_counted_and_small_differences_let_be() -> None:
    assert out_of_order([0.0, 5.0, 9.0], [1.0, 2.0, 3.0]) == 0
    assert out_of_order([5.0, 0.0, 9.0], [1.0, 2.0, 3.0]) == 1
    assert out_of_order([5.0, 4.0, 9.0], [1.0, 2.0, 3.0], margin_s=2.0) == 0
    assert out_of_order([5.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == 0


def test_a_drawn_load_comes_in_order_and_fits_the_cluster() -> None:
    load = draw(seed=3)
    assert all(earlier.at < later.at for earlier, later in pairwise(load))
    assert all(1 <= each.request.nodes <= NODES for each in load)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_slurm_starts_the_jobs_in_the_simulated_order() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    arrivals = sturdy_load(rushes=1)
    with RealSlurm(NODES, PARTITIONS, OPTIONS) as slurm:
        folder = slurm.folder
        real = run_for_real(slurm, arrivals, lambda words: None)
    assert not folder.exists()
    simulated = simulate(as_it_ran(arrivals, real))
    assert out_of_order(real.started, simulated.started, CYCLE_S) == 0
    assert out_of_order(real.started, real.submitted, CYCLE_S) > 0
