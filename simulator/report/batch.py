"""What a run and a cluster's other users did to each other: queue waits of replicas, delays of batch jobs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from simulator.cluster.harm import harm
from simulator.cluster.jobs import Job, JobRecord
from simulator.report.summary import BatchFigures, Latency, QueueFigures


def queue_figures(jobs: Iterable[Job | JobRecord]) -> QueueFigures:
    """Of one pool's jobs: those that ended, and those that the run's end found waiting or running."""
    jobs = list(jobs)
    states = Counter(job.state.value for job in jobs)
    started = sum(job.started_at is not None for job in jobs)
    return QueueFigures(len(jobs), started, _waits(jobs), dict(sorted(states.items())))


def batch_figures(
    beside: Sequence[JobRecord], alone: Sequence[JobRecord], moved: Sequence[JobRecord], *, began_at: float,
    refused: int, jitter_s: float,
) -> BatchFigures:  # fmt: skip
    """From the records of all background jobs: beside the replicas, without them, and without them but with submissions
    moved by up to ``jitter_s``. What had ended by ``began_at`` is left out: nothing could harm it."""
    concerned = [record for record in alone if record.ended_at >= began_at]
    names = {record.request.name for record in concerned}
    return BatchFigures(
        jobs=len(concerned),
        refused=refused,
        wait=_waits(record for record in beside if record.request.name in names),
        wait_without=_waits(concerned),
        harm=tuple(harm(concerned, beside)),
        null=tuple(harm(concerned, moved)),
        jitter_s=jitter_s,
    )


def _waits(jobs: Iterable[Job | JobRecord]) -> Latency:
    waits = [job.started_at - job.submitted_at for job in jobs if job.started_at is not None]
    return Latency.of(np.array(waits, float))
