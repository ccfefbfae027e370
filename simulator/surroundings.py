"""The cluster around a run: made before it, and asked afterwards what replicas and batch jobs did to each other.

The harm is a paired counterfactual: the same cluster with the same jobs and failures, without the replicas. Nobody
submits after the run's end, and all jobs are followed to theirs, so that none is lost to the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from broker.model.spec import ModelSpec, SiteSpec
from simulator.cluster.jobs import Ended, JobRecord
from simulator.cluster.model import SlurmModel, run_to_end
from simulator.cluster.places import places
from simulator.cluster.plan import ClusterPlan
from simulator.cluster.pool import SlurmPlace, SlurmPool
from simulator.report.batch import batch_figures, queue_figures
from simulator.report.summary import BatchFigures, QueueFigures
from simulator.simulation import Simulation, SimulationSettings

JITTER_S = 5.0
"""By how much the null moves the submissions of batch jobs."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``plan`` from before ``began_at``, when the replicas' run begins, to ``until_at``; ``start_at`` is the load's
    second 0."""

    plan: ClusterPlan
    seed: int
    began_at: float
    start_at: float
    until_at: float

    @staticmethod
    def of(plan: ClusterPlan, settings: SimulationSettings, seed: int, asked_s: float) -> Surroundings:
        """Of a run that is asked something for so long."""
        start_at = settings.start_at
        return Surroundings(plan, seed, start_at - settings.warm_up_s, start_at, start_at + asked_s + settings.tail_s)

    def places(self, site: SiteSpec, models: Sequence[ModelSpec]) -> Mapping[str, SlurmPlace]:
        """For ``Simulation``. Raises ``ConfigErrors`` for what could never run there, ``TraceError`` for a log."""
        return places(site, models, self.plan, self._model(), self.seed)

    def queues(self, simulation: Simulation) -> Mapping[str, QueueFigures]:
        """By pool, at the end of the run."""
        pools = simulation.pools.items()
        return {pool_id: queue_figures(pool.jobs()) for pool_id, pool in pools if isinstance(pool, SlurmPool)}

    def batch(self, simulation: Simulation, stage: Callable[[str], None]) -> BatchFigures | None:
        """After ``queues``: the cluster runs on to the end of its jobs. None if there are no other users. ``stage`` is
        told what begins."""
        if not self.plan.background:
            return None
        (host,) = simulation.clusters.values()
        stage("batch jobs beside the replicas, to their end")
        beside = host.settled()
        stage("batch jobs without replicas")
        alone = self._model()
        without = _records(alone)
        stage("batch jobs without replicas, submissions moved")
        moved = _records(self._model(JITTER_S))
        return batch_figures(beside, without, moved, began_at=self.began_at, refused=alone.refused, jitter_s=JITTER_S)

    def _model(self, jitter_s: float = 0.0) -> SlurmModel:
        return self.plan.model(
            self.seed, begins_at=self.began_at - self.plan.lead_s, start_at=self.start_at, until_at=self.until_at,
            jitter_s=jitter_s,
        )  # fmt: skip


def _records(model: SlurmModel) -> list[JobRecord]:
    return [event.record for event in run_to_end(model) if isinstance(event, Ended)]
