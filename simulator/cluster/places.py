"""A site's Slurm pools on a simulated cluster: how they ask for jobs, and what could never run there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.model.errors import ActionRejected, ConfigError, ConfigErrors
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from simulator.cluster.model import SlurmModel
from simulator.cluster.plan import ClusterPlan
from simulator.cluster.pool import ReplicaJobs, SlurmPlace, replica_request

SLURM = "slurm"
"""The kind of the pools that are put on the cluster."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """``words`` say why a part of the files (``pools``, its name, an option of it; or ``models`` ...) cannot be run."""

    at: tuple[str, ...]
    words: str


def places(
    site: SiteSpec, models: Sequence[ModelSpec], plan: ClusterPlan, cluster: SlurmModel, seed: int
) -> Mapping[str, SlurmPlace]:
    """By pool. Raises ``ConfigErrors`` for what the cluster could never run."""
    if found := list(misfits(site, models, cluster)):
        raise ConfigErrors([ConfigError(each.words, field=".".join(each.at)) for each in found])
    starts = plan.starts(seed)
    return {
        pool.pool_id: SlurmPlace(cluster, replica_jobs(pool, plan.exit_s), starts)
        for pool in site.pools
        if pool.kind == SLURM
    }


def replica_jobs(pool: PoolSpec, exit_s: float = 0.0) -> ReplicaJobs:
    """What a pool's options ask for each replica."""
    options = pool.options
    per_node = options.get("gpus_per_node")
    return ReplicaJobs(
        str(options["partition"]), float(str(options["time_limit_s"])), exit_s=exit_s,
        gpus_per_node=int(str(per_node)) if per_node is not None else None,
    )  # fmt: skip


def misfits(site: SiteSpec, models: Sequence[ModelSpec], cluster: SlurmModel) -> Iterator[Misfit]:
    """What the cluster could never run, each with the part of the files that should be changed."""
    partitions = {partition.name: partition for partition in cluster.spec.partitions}
    for pool in site.pools:
        if pool.kind != SLURM:
            continue
        asks = replica_jobs(pool)
        partition = partitions.get(asks.partition)
        if partition is None:
            words = f"the cluster has no partition {asks.partition!r}; there are {', '.join(partitions)}"
            yield Misfit(("pools", pool.pool_id, "partition"), words)
        elif asks.limit_s > partition.max_limit_s:
            words = f"{asks.limit_s:g} s is over the limit of partition {asks.partition}, {partition.max_limit_s:g} s"
            yield Misfit(("pools", pool.pool_id, "time_limit"), words)
        elif (asks.gpus_per_node or 0) > (largest := cluster.spec.largest_node(asks.partition)):
            words = (
                f"{asks.gpus_per_node} is over the GPUs of the largest node of partition {asks.partition}, {largest}"
            )
            yield Misfit(("pools", pool.pool_id, "gpus_per_node"), words)
        else:
            for model in models:
                if model.maximum and (not model.pools or pool.pool_id in model.pools):
                    try:
                        cluster.check(replica_request(model.model_id, model.gpus, asks, cluster))
                    except ActionRejected as error:
                        yield Misfit(("models", model.model_id, "gpus"), f"pool {pool.pool_id}: {error}")
