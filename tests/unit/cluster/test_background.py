"""A log of processors becomes jobs on nodes."""

from __future__ import annotations

import pytest

from simulator.cluster.background import arrivals
from traces.batch.swf import BatchJob


def logged(processors: int | None = 4, run_s: float | None = 50.0, requested_s: float | None = 100.0) -> BatchJob:
    return BatchJob(1, 7.0, 3.0, run_s, processors, requested_s, 1, 1, None, None)


@pytest.mark.parametrize(
    ("processors", "per_node", "per_gpu", "nodes", "gpus"),
    [(1, 1, 1, 1, 1), (8, 1, 1, 8, 1), (3, 4, 1, 1, 3), (9, 4, 1, 3, 4), (33, 4, 16, 1, 3), (64, 4, 16, 1, 4)],
)
def test_processors_become_gpus_of_one_node_or_whole_nodes(
    processors: int, per_node: int, per_gpu: int, nodes: int, gpus: int
) -> None:
    (arrival,) = arrivals(
        [logged(processors)], "batch", starts_at=1000.0, gpus_per_node=per_node, processors_per_gpu=per_gpu
    )
    request = arrival.request
    assert (arrival.at, request.nodes, request.gpus, request.limit_s, request.run_s) == (1007.0, nodes, gpus, 100, 50)


def test_a_job_without_a_limit_gets_the_default_or_its_run_time() -> None:
    jobs = [logged(requested_s=None), logged(run_s=500.0, requested_s=None)]
    limits = [each.request.limit_s for each in arrivals(jobs, "batch", starts_at=0.0, default_limit_s=200.0)]
    assert limits == [200.0, 500.0]


def test_jobs_that_never_ran_are_left_out() -> None:
    jobs = [logged(processors=None), logged(run_s=None)]
    assert list(arrivals(jobs, "batch", starts_at=0.0)) == []
