"""Small clusters and jobs for tests."""

from __future__ import annotations

from collections.abc import Iterable

from simulator.cluster.jobs import Ended, JobEvent, JobRecord, JobRequest
from simulator.cluster.model import SlurmModel, run_to_end
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition


def cluster(nodes: int = 4, gpus: int = 1, *partitions: Partition, **settings: object) -> ClusterSpec:
    groups = (NodeGroup("n", nodes, gpus),)
    return ClusterSpec(groups, partitions or (Partition("batch"),), **settings)  # type: ignore[arg-type]


def job(
    name: str, nodes: int = 1, limit_s: float = 100.0, run_s: float | None = -1.0, *, gpus: int = 1,
    partition: str = "batch", priority: float = 0.0, requeue: bool = False,
) -> JobRequest:  # fmt: skip
    """A job that runs as long as its limit, unless ``run_s`` says otherwise."""
    ran_s = limit_s if run_s == -1.0 else run_s
    return JobRequest(name, partition, nodes, gpus, limit_s, ran_s, priority, requeue)


def records(model: SlurmModel) -> dict[str, JobRecord]:
    """Run to the end: what became of each job, by name."""
    return by_name(run_to_end(model))


def by_name(events: Iterable[JobEvent]) -> dict[str, JobRecord]:
    return {event.record.request.name: event.record for event in events if isinstance(event, Ended)}


def started(model: SlurmModel) -> dict[str, float | None]:
    """Run to the end: when each job started, by name."""
    return {name: record.started_at for name, record in records(model).items()}
