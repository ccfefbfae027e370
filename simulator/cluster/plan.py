"""A cluster as a run finds it, without its chance: what ``cluster.yaml`` says.

Everything drawn comes from the run's seed, each kind from a stream of its own, and in the order of the cluster's own
time: whatever a policy submits, the batch users submit the same jobs and the same nodes fail.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from broker.model.errors import ConfigError, TraceError
from simulator.cluster.background import arrivals, node_failures
from simulator.cluster.harm import jittered
from simulator.cluster.model import Arrival, SlurmModel
from simulator.cluster.spec import ClusterSpec, Maintenance, NodeFailure
from simulator.cold_start import ColdStart, ColdStarts, NodeCaches
from traces.batch.generate import BatchProfile, generate
from traces.batch.swf import BatchJob, BatchLog, open_batch_log
from traces.randomness import stream


class BatchSource(Protocol):
    """Where the jobs of one background come from."""

    def jobs(self, seed: int, name: str, starts_at: float) -> Iterator[BatchJob]:
        """In order of submission, which counts from ``starts_at``."""
        ...


@dataclass(frozen=True, slots=True)
class LoggedJobs:
    """The jobs of a Standard Workload Format file from its second ``begin_s`` on."""

    path: Path
    begin_s: float = 0.0
    skip_bad: bool = False

    def jobs(self, seed: int, name: str, starts_at: float) -> Iterator[BatchJob]:
        """Raises ``TraceError`` for a log that cannot be read, or ends before ``begin_s``."""
        return self._of(open_batch_log(self.path, skip_bad=self.skip_bad))

    def bad_rows(self, lasts_s: float) -> tuple[int, str]:
        """How many rows ``skip_bad`` leaves out of so many seconds, and what is wrong with the first of them."""
        log = open_batch_log(self.path, skip_bad=self.skip_bad)
        for job in self._of(log):
            if job.submitted_s >= lasts_s:
                break
        return log.statistics.bad, log.statistics.first_bad

    def _of(self, log: BatchLog) -> Iterator[BatchJob]:
        last_s, begun = 0.0, False
        for job in log:
            last_s = job.submitted_s
            if last_s >= self.begin_s:
                begun = True
                yield replace(job, submitted_s=last_s - self.begin_s)
        if not begun:
            raise TraceError(
                f"its last job is submitted in second {last_s:g}, before the background begins in second "
                f"{self.begin_s:g} of the log; give an earlier `begin` in the cluster's file",
                path=str(self.path),
            )


@dataclass(frozen=True, slots=True)
class GeneratedJobs:
    """Jobs in the shape of a fitted profile, at ``rate_scale`` times its log's rate."""

    profile: BatchProfile
    rate_scale: float = 1.0

    def jobs(self, seed: int, name: str, starts_at: float) -> Iterator[BatchJob]:
        rng = stream(seed, "cluster", "background", name)
        return generate(self.profile, rng, starts_at=starts_at, rate_scale=self.rate_scale)


@dataclass(frozen=True, slots=True)
class Background:
    """Batch jobs of one source, submitted to one partition; see ``arrivals`` for the other fields."""

    name: str
    source: BatchSource
    partition: str
    processors_per_gpu: int = 1
    default_limit_s: float = 86_400.0
    requeue: bool = False


@dataclass(frozen=True, slots=True)
class PlannedMaintenance:
    """Announced before the run; ``begins_s`` counts from its start. ``groups``: of nodes, all if empty."""

    name: str
    begins_s: float
    lasts_s: float
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failures:
    """Each node fails once in ``mean_between_s`` on average and is repaired after ``mean_repair_s`` on average."""

    mean_between_s: float
    mean_repair_s: float


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A cluster, its other users and its misfortunes.

    ``lead_s``: how long before a run it begins, so that the queue is not empty. ``cold_starts``: how replicas of the
    models start there; others take their profiles' load times. ``cache_gib``: what a node keeps of models.
    ``exit_s``: how long a replica takes to exit when told. Raises ``ConfigError`` for what names no part of it.
    """

    spec: ClusterSpec
    background: tuple[Background, ...] = ()
    maintenance: tuple[PlannedMaintenance, ...] = ()
    failures: Failures | None = None
    cold_starts: Mapping[str, ColdStart] = field(default_factory=dict)
    cache_gib: float = math.inf
    lead_s: float = 0.0
    exit_s: float = 0.0

    def __post_init__(self) -> None:
        partitions = [partition.name for partition in self.spec.partitions]
        for load in self.background:
            if load.partition not in partitions:
                raise ConfigError(
                    f"no partition {load.partition!r}; there are {', '.join(partitions)}",
                    field=f"background.{load.name}.partition",
                )
        for each in self.maintenance:
            self.spec.nodes_of_groups(each.groups)

    def model(
        self, seed: int, *, begins_at: float, start_at: float, until_at: float, jitter_s: float = 0.0
    ) -> SlurmModel:
        """The cluster from ``begins_at`` on, its maintenance counted from ``start_at``; nobody of the background
        submits, and no node fails, at ``until_at`` or later. ``jitter_s`` moves each submission by up to so much: the
        null that harm is held against."""
        jobs: Iterable[Arrival] = takewhile(lambda arrival: arrival.at < until_at, self._arrivals(seed, begins_at))
        if jitter_s > 0:
            jobs = jittered(jobs, jitter_s, stream(seed, "cluster", "jitter"))
        failures = takewhile(lambda failure: failure.at < until_at, self._failures(seed, begins_at))
        holds = tuple(
            Maintenance(each.name, self.spec.nodes_of_groups(each.groups), start_at + each.begins_s,
                        start_at + each.begins_s + each.lasts_s)
            for each in self.maintenance
        )  # fmt: skip
        return SlurmModel(
            replace(self.spec, maintenance=holds), starts_at=begins_at, background=jobs, failures=failures
        )

    def starts(self, seed: int) -> ColdStarts:
        """The starts of one run, its caches empty."""
        return ColdStarts(seed, self.cold_starts, NodeCaches(self.cache_gib))

    def _arrivals(self, seed: int, begins_at: float) -> Iterator[Arrival]:
        return heapq.merge(
            *(self._of(load, seed, begins_at) for load in self.background), key=lambda arrival: arrival.at
        )

    def _of(self, load: Background, seed: int, begins_at: float) -> Iterator[Arrival]:
        """Each job under a name of its own: logs have numbers twice, and harm is counted job by job."""
        largest = self.spec.largest_node(load.partition)
        found = arrivals(
            load.source.jobs(seed, load.name, begins_at), load.partition, starts_at=begins_at, gpus_per_node=largest,
            processors_per_gpu=load.processors_per_gpu, default_limit_s=load.default_limit_s, requeue=load.requeue,
        )  # fmt: skip
        for number, arrival in enumerate(found):
            yield replace(arrival, request=replace(arrival.request, name=f"{load.name}/{number}"))

    def _failures(self, seed: int, begins_at: float) -> Iterator[NodeFailure]:
        if self.failures is None:
            return iter(())
        return node_failures(
            len(self.spec.gpus_by_node), mean_between_s=self.failures.mean_between_s,
            mean_repair_s=self.failures.mean_repair_s, starts_at=begins_at, rng=stream(seed, "cluster", "failures"),
        )  # fmt: skip
