"""What a cluster is: nodes, partitions, the site's rules on starts, maintenance, failures."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from broker.model.errors import ConfigError
from simulator.cluster.calendar import StartRule
from simulator.cluster.nodes import NodeSet, node_range


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """``count`` equal nodes with ``gpus`` each, named ``name`` and a number from 0."""

    name: str
    count: int
    gpus: int


class PreemptMode(StrEnum):
    """What happens to a partition's jobs when a partition of a higher tier needs their nodes; as in Slurm."""

    OFF = "off"
    CANCEL = "cancel"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True)
class Partition:
    """``groups``: its nodes, all of them if empty; partitions may share nodes. Jobs of a higher ``tier`` go first,
    and take nodes from running jobs of lower tiers whose ``preempt`` mode allows it, ``grace_s`` after a warning."""

    name: str
    groups: tuple[str, ...] = ()
    max_limit_s: float = math.inf
    tier: int = 0
    preempt: PreemptMode = PreemptMode.OFF
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """No job runs into [``begins_at``, ``ends_at``) on ``nodes``; one that began before it was announced runs on."""

    name: str
    nodes: NodeSet
    begins_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """One node is down from ``at`` until ``repaired_at``; its jobs end."""

    at: float
    node: int
    repaired_at: float


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster and how it schedules.

    A job's rank is its partition's tier, then its priority plus ``priority_per_hour`` for each hour since its
    submission, then the order of submission. ``backfill_depth``: how many waiting jobs one pass looks at (Slurm's
    ``bf_max_job_test``). Raises ``ConfigError`` for what cannot be meant.
    """

    groups: tuple[NodeGroup, ...]
    partitions: tuple[Partition, ...]
    start_rules: tuple[StartRule, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    priority_per_hour: float = 0.0
    backfill_depth: int = 500
    requeue_delay_s: float = 120.0

    def __post_init__(self) -> None:
        groups, names = [group.name for group in self.groups], [partition.name for partition in self.partitions]
        if not groups or len(set(groups)) < len(groups):
            raise ConfigError("a cluster needs groups of nodes, each with a name of its own", field="groups")
        if not names or len(set(names)) < len(names):
            raise ConfigError("a cluster needs partitions, each with a name of its own", field="partitions")
        if any(group.count < 1 or group.gpus < 1 for group in self.groups):
            raise ConfigError("a group without nodes, or of nodes without GPUs, can run nothing", field="groups")
        unknown = sorted({name for partition in self.partitions for name in partition.groups} - set(groups))
        if unknown:
            raise ConfigError(f"no group of nodes is named {', '.join(unknown)}", field="partitions")

    @property
    def gpus_by_node(self) -> list[int]:
        return [group.gpus for group in self.groups for _ in range(group.count)]

    def nodes_of(self, partition: Partition) -> NodeSet:
        return self.nodes_of_groups(partition.groups)

    def nodes_of_groups(self, names: Collection[str]) -> NodeSet:
        """All nodes if no group is named."""
        nodes, first = 0, 0
        for group in self.groups:
            if not names or group.name in names:
                nodes |= node_range(first, group.count)
            first += group.count
        return nodes

    def largest_node(self, partition: str) -> int:
        """GPUs of the largest node of a partition. Raises ``KeyError`` if there is none of that name."""
        groups = {each.name: each.groups for each in self.partitions}[partition]
        return max(group.gpus for group in self.groups if not groups or group.name in groups)
