"""A log of batch jobs as the cluster's background, and node failures drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from simulator.cluster.jobs import JobRequest
from simulator.cluster.model import Arrival
from simulator.cluster.spec import NodeFailure
from traces.batch.swf import BatchJob


def arrivals(
    jobs: Iterable[BatchJob], partition: str, *, starts_at: float, gpus_per_node: int = 1, processors_per_gpu: int = 1,
    default_limit_s: float = 86_400.0, requeue: bool = False,
) -> Iterator[Arrival]:  # fmt: skip
    """The jobs that ran, submitted to ``partition``; ``starts_at`` is the log's second 0.

    ``processors_per_gpu`` makes GPUs of a log's processors, rounded up. A job of less than a node shares one, a larger
    one takes nodes whole. What ran longer than its limit is ended at it, as Slurm does. Jobs without a run time or
    processors, which were cancelled while they waited, are left out; those without a limit get ``default_limit_s``,
    or what they ran if that is more.
    """
    for job in jobs:
        if job.run_s is None or job.processors is None:
            continue
        gpus = math.ceil(job.processors / processors_per_gpu)
        nodes = math.ceil(gpus / gpus_per_node)
        yield Arrival(
            starts_at + job.submitted_s,
            JobRequest(
                name=str(job.job_id),
                partition=partition,
                nodes=nodes,
                gpus=min(gpus, gpus_per_node),
                limit_s=job.requested_s or max(default_limit_s, job.run_s),
                run_s=job.run_s,
                requeue=requeue,
            ),
        )


def node_failures(
    nodes: int, *, mean_between_s: float, mean_repair_s: float, starts_at: float, rng: np.random.Generator
) -> Iterator[NodeFailure]:
    """Failures without end: each node fails once in ``mean_between_s`` on average, exponentially, and is repaired
    after an exponential time."""
    at = starts_at
    while True:
        at += rng.exponential(mean_between_s / nodes)
        yield NodeFailure(at, int(rng.integers(nodes)), at + rng.exponential(mean_repair_s))
