"""The cluster model: processor seconds for a generated log of 28,000 jobs, the queue short or never empty."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from benchmarks.base import Measurement
from simulator.cluster.jobs import Ended, JobRequest
from simulator.cluster.model import Arrival, SlurmModel, run_to_end
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition

JOBS = 28_000
TARGET_S = 2.0
MEAN_NODE_SECONDS = 24_500.0
"""Of one such job on a hundred nodes, as drawn."""


def background(nodes: int, gpus: int, load: float, seed: int) -> Iterator[Arrival]:
    """Jobs of half a minute to half a day that ask for ``load`` of the cluster on average."""
    rng = random.Random(seed)
    at = 0.0
    for number in range(JOBS):
        limit_s = min(43_200.0, rng.lognormvariate(8.0, 1.5) + 30.0)
        size = min(nodes, round(rng.lognormvariate(1.5, 1.2)) + 1)
        share = gpus if size > 1 or rng.random() < 0.5 else rng.randint(1, gpus)
        run_s = limit_s * rng.betavariate(0.7, 1.4)
        yield Arrival(at, JobRequest(str(number), "batch", size, share, limit_s, run_s))
        at += rng.expovariate(load * nodes / MEAN_NODE_SECONDS)


def processor_s(nodes: int, gpus: int, load: float) -> tuple[float, float]:
    """Processor time of a run, and the mean wait in seconds."""
    cluster = ClusterSpec((NodeGroup("n", nodes, gpus),), (Partition("batch"),))
    jobs = list(background(nodes, gpus, load, seed=1))
    began = time.process_time()
    model = SlurmModel(cluster, background=jobs)
    waits_s = [
        event.record.started_at - event.record.submitted_at
        for event in run_to_end(model)
        if isinstance(event, Ended) and event.record.started_at is not None
    ]
    seconds = time.process_time() - began
    assert len(waits_s) == JOBS
    return seconds, sum(waits_s) / JOBS


def run() -> list[Measurement]:
    measurements = []
    for name, nodes, gpus, load, target_s in (
        ("slurm_model", 100, 1, 0.7, TARGET_S),
        ("slurm_model_gpus", 100, 8, 0.7, TARGET_S),
        ("slurm_model_crowded", 100, 1, 0.9, 2 * TARGET_S),
    ):
        seconds, wait_s = processor_s(nodes, gpus, load)
        details = {"jobs": JOBS, "nodes": nodes, "gpus": gpus, "load": load, "mean_wait_s": round(wait_s)}
        measurements.append(Measurement(name, round(seconds, 2), "s", target_s, details=details))
    return measurements
