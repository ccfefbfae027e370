"""Waits of the simulated Slurm against those of real logs.

The logs are replayed with their own arrivals, sizes, limits and run times, and each job's simulated wait is compared
with the wait in the log. Every figure stands beside its null: each job waits for the median of the log's first half.
KTH is judged in parts too: without the first tenth, since the log begins with jobs that had waited for days and the
model with an empty machine; and on the second half, since its rules were read off the log (that hardly a job runs over
09:00 or 18:00 of a weekday shows in the first half alone). Its clock stays on summer time all year.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from accuracy.base import Report, Table, Tell, shared_path
from simulator.cluster.background import arrivals
from simulator.cluster.calendar import StartRule, WeeklyWindow
from simulator.cluster.jobs import Ended
from simulator.cluster.model import SlurmModel, run_to_end
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition
from traces.batch.swf import BatchJob, open_batch_log
from traces.fit import normal_score_correlation

Floats = NDArray[np.float64]

HOUR_S = 3600.0
KTH = "traces/hpc/KTH-SP2-1996.swf.gz"
CURIE = "traces/hpc/CEA-Curie-2012-days00-17.swf.gz"
KTH_ZONE = "Etc/GMT-2"

KTH_LONG_JOBS_AT_NIGHT = StartRule(
    4 * HOUR_S,
    (*(WeeklyWindow(24 * day + 18, 24 * day + 24) for day in range(4)), WeeklyWindow(4 * 24 + 18, 7 * 24)),
    KTH_ZONE,
)
"""Jobs over four hours start from 18:00 to midnight on weekdays, at weekends at any time."""

KTH_SHIFTS = StartRule(
    0.0,
    (
        *(WeeklyWindow(24 * day + 9, 24 * day + 18) for day in range(5)),
        *(WeeklyWindow(24 * day + 18, 24 * day + 33) for day in range(4)),
        WeeklyWindow(4 * 24 + 18, 7 * 24 + 9),
    ),
    KTH_ZONE,
    ends_inside=True,
)
"""Each job ends within the shift in which it starts: day, night, or the weekend. The site's limits of 4, 15 and 60
hours are those of the shifts, less some."""


@dataclass(frozen=True, slots=True)
class WaitAccuracy:
    """Simulated waits of ``jobs`` jobs against the log's. ``mean_error_s`` is the mean absolute difference of a job's
    wait, ``skill`` what it saves of the null's; ``distance_s`` that of the two distributions (Wasserstein), which does
    not ask who waited. Ratios are of the model to the log. ``rank_correlation`` is Spearman's; a
    constant null has none."""

    log: str
    part: str
    rules: str
    jobs: int
    mean_ratio: float
    p90_ratio: float
    mean_ratio_null: float
    p90_ratio_null: float
    mean_error_s: float
    mean_error_null_s: float
    skill: float
    rank_correlation: float
    distance_s: float
    distance_null_s: float
    processor_s: float


def compare(
    log: str, part: str, rules: str, simulated: Floats, real: Floats, null_s: float, processor_s: float
) -> WaitAccuracy:
    """Waits in seconds, job by job."""
    mean, p90 = float(real.mean()), float(np.quantile(real, 0.9))
    error, error_null = float(np.abs(simulated - real).mean()), float(np.abs(null_s - real).mean())
    return WaitAccuracy(
        log=log,
        part=part,
        rules=rules,
        jobs=len(real),
        mean_ratio=round(float(simulated.mean()) / mean, 3),
        p90_ratio=round(float(np.quantile(simulated, 0.9)) / p90, 3),
        mean_ratio_null=round(null_s / mean, 3),
        p90_ratio_null=round(null_s / p90, 3),
        mean_error_s=round(error),
        mean_error_null_s=round(error_null),
        skill=round(1 - error / error_null, 3),
        rank_correlation=round(6 / math.pi * math.asin(normal_score_correlation(simulated, real) / 2), 3),
        distance_s=round(float(np.abs(np.sort(simulated) - np.sort(real)).mean())),
        distance_null_s=round(error_null),
        processor_s=round(processor_s, 2),
    )


def waits(spec: ClusterSpec, jobs: Sequence[BatchJob], starts_at: float, gpus_per_node: int) -> tuple[Floats, float]:
    """The simulated wait of each job that ran, in the log's order, and the processor time it took."""
    background = arrivals(jobs, spec.partitions[0].name, starts_at=starts_at, gpus_per_node=gpus_per_node)
    began = time.process_time()
    model = SlurmModel(spec, starts_at=starts_at, background=background)
    found = {
        event.record.job_id: event.record.started_at - event.record.submitted_at
        for event in run_to_end(model)
        if isinstance(event, Ended) and event.record.started_at is not None
    }
    return np.array([found[job_id] for job_id in sorted(found)]), time.process_time() - began


def kth(path: Path) -> list[WaitAccuracy]:
    log = open_batch_log(path)
    jobs = [job for job in log if job.run_s is not None and job.processors is not None]
    real = np.array([job.wait_s for job in jobs])
    half = len(real) // 2
    null_s = float(np.median(real[:half]))
    lines = []
    for rules, start_rules in (
        ("none", ()),
        ("over 4 h from 18:00", (KTH_LONG_JOBS_AT_NIGHT,)),
        ("within the shift", (KTH_SHIFTS,)),
    ):
        spec = ClusterSpec((NodeGroup("n", 100, 1),), (Partition("batch"),), start_rules)
        simulated, processor_s = waits(spec, jobs, log.began_at or 0.0, 1)
        for part, first in (("all", 0), ("without first tenth", len(real) // 10), ("second half", half)):
            lines.append(compare("KTH-SP2", part, rules, simulated[first:], real[first:], null_s, processor_s))
    return lines


def curie(path: Path) -> list[WaitAccuracy]:
    """Reported only: its partitions, priorities and reservations are not in the log."""
    jobs = [job for job in open_batch_log(path) if job.run_s is not None and job.processors is not None]
    real = np.array([job.wait_s for job in jobs])
    spec = ClusterSpec((NodeGroup("n", 5832, 16),), (Partition("batch"),))
    simulated, processor_s = waits(spec, jobs, 0.0, 16)
    return [compare("CEA-Curie", "all", "none", simulated, real, float(np.median(real[: len(real) // 2])), processor_s)]


def run(tell: Tell) -> Report:
    """Every log that is there, under each set of rules. Raises ``TraceError`` for a log that cannot be read."""
    lines: list[WaitAccuracy] = []
    for relative, judge in ((KTH, kth), (CURIE, curie)):
        if (path := shared_path(relative)) is not None:
            tell(f"slurm: {path.name}")
            lines += judge(path)
    if not lines:
        return Report("slurm", skipped=f"needs the shared data sets {KTH} and {CURIE}")
    table = Table(
        "slurm_waits",
        "Waits of batch jobs, simulated against logged",
        tuple(each.name for each in fields(WaitAccuracy)),
        tuple(astuple(line) for line in lines),
        n=sum(line.jobs for line in lines if line.part == "all" and line.rules == "none"),
        free=0,
        remarks=(
            "Null: each job waits for the median of the log's first half.",
            "The rule of the shifts was read off the same log, so that its rows are a residual. The 1996 log knows no "
            "GPUs; Curie is reported only, since its partitions, priorities and reservations are not in its log.",
        ),
    )
    return Report("slurm", (table,))
