"""Fits a ``BatchProfile`` to a log in the Standard Workload Format. To repeat a shipped fit:

    python -m traces.batch.fit LOG --name NAME --provenance TEXT > traces/batch/profiles/NAME.json

A profile holds no row of its log: the ends of a distribution are means of ten jobs, and a size is named only if ten
jobs have it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from broker.model.errors import TidegateError, TraceError
from broker.model.wire import encode
from traces.batch.generate import EPOCH_MONDAY_S, WEEK_HOURS, BatchProfile, Floats, Quantiles, SizeClass
from traces.batch.swf import BatchJob, open_batch_log
from traces.fit import normal_score_correlation

_CLASSES = (0, 1, 4, 16, 64, 256, 1024, 4096, 2**62)
_PROBABILITIES = (0.0, 0.01, *(n / 40 for n in range(1, 40)), 0.99, 1.0)
_LEAST_JOBS = 100
_LEAST_OF_A_SIZE = 10
_MOST_SIZES = 12
_SHORTEST_S = 1.0
_LEAST_WEEKS = 8
_BIN_S = 3600.0
_LEAST_PER_BIN = 20
"""Within a bin the rate counts as constant; fewer arrivals would take the burstiness out together with the trend."""


def fit_batch_profile(
    jobs: Iterable[BatchJob], *, name: str, provenance: str, processors: int, began_at: float | None
) -> BatchProfile:
    """The profile of the jobs that ran. ``began_at``: the log's second 0 in epoch seconds, None if unknown.

    Raises ``TraceError`` for fewer than 100 jobs.
    """
    ran = [job for job in jobs if job.run_s is not None and job.processors is not None]
    if len(ran) < _LEAST_JOBS:
        raise TraceError(f"{len(ran)} jobs that ran are too few to fit a profile; it takes {_LEAST_JOBS}")
    at = np.array([job.submitted_s for job in ran])
    return BatchProfile(
        name=name,
        provenance=provenance,
        jobs=len(ran),
        processors=processors,
        rate_per_s=float(f"{(len(ran) - 1) / (at[-1] - at[0]):.6g}"),
        arrival_cv=round(_arrival_cv(at), 4),
        weekly_shape=() if began_at is None else weekly_shape(at + began_at),
        classes=tuple(_size_class(each, len(ran)) for each in _by_size(ran)),
    )


def weekly_shape(at: Floats) -> tuple[float, ...]:
    """Rate of each hour of the week over the mean, from epoch seconds; () for less than eight weeks."""
    hours = ((at - EPOCH_MONDAY_S) // 3600).astype(np.int64)
    weeks = (hours[-1] - hours[0]) // WEEK_HOURS
    if weeks < _LEAST_WEEKS:
        return ()
    whole = hours[hours < hours[0] + weeks * WEEK_HOURS] % WEEK_HOURS
    counts = np.bincount(whole, minlength=WEEK_HOURS)
    return tuple(round(float(count), 3) for count in counts / counts.mean())


def _arrival_cv(at: Floats) -> float:
    """Of the gaps in a time that runs with the rate of bins of an hour, or longer ones of 20 arrivals on average."""
    bins = max(1, min(int((at[-1] - at[0]) / _BIN_S), len(at) // _LEAST_PER_BIN))
    edges = np.linspace(at[0], at[-1], bins + 1)
    counts, _ = np.histogram(at, edges)
    gaps = np.diff(np.interp(at, edges, np.concatenate(([0.0], np.cumsum(counts)))))
    return float(gaps.std() / gaps.mean())


def _by_size(jobs: Sequence[BatchJob]) -> list[list[BatchJob]]:
    """Classes of a hundred jobs at least: smaller ones join the next smaller."""
    classes: list[list[BatchJob]] = []
    for low, high in pairwise(_CLASSES):
        members = [job for job in jobs if job.processors is not None and low < job.processors <= high]
        if classes and (len(members) < _LEAST_JOBS or len(classes[-1]) < _LEAST_JOBS):
            classes[-1] += members
        elif members:
            classes.append(members)
    return classes


def _size_class(jobs: Sequence[BatchJob], of: int) -> SizeClass:
    sizes = np.array([job.processors or 1 for job in jobs])
    runs = np.array([max(job.run_s or 0.0, _SHORTEST_S) for job in jobs])
    limits = np.array([max(job.requested_s or run_s, _SHORTEST_S) for job, run_s in zip(jobs, runs, strict=True)])
    used = np.minimum(1.0, runs / limits)
    common = [
        int(size) for size, count in Counter(sizes.tolist()).most_common(_MOST_SIZES) if count >= _LEAST_OF_A_SIZE
    ]
    named = np.array(sorted(common) or [int(np.median(sizes))])
    nearest = np.abs(np.log(sizes[:, None] / named[None, :])).argmin(axis=1)
    weights = np.bincount(nearest, minlength=len(named)) / len(jobs)
    return SizeClass(
        share=round(len(jobs) / of, 5),
        processors=tuple(int(size) for size in named),
        weights=tuple(round(float(weight), 4) for weight in weights),
        limit_s=_quantiles(limits),
        used=_quantiles(used),
        correlation=round(normal_score_correlation(limits, used), 3),
    )


def _quantiles(values: Floats) -> Quantiles:
    found = np.quantile(values, _PROBABILITIES)
    ends = np.sort(values)
    found[0], found[-1] = ends[:_LEAST_OF_A_SIZE].mean(), ends[-_LEAST_OF_A_SIZE:].mean()
    return Quantiles(_PROBABILITIES, tuple(float(f"{value:.4g}") for value in np.maximum.accumulate(found)))


def main(arguments_given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m traces.batch.fit", description="Fit a profile to a log of jobs.")
    parser.add_argument("log")
    parser.add_argument("--name", required=True)
    parser.add_argument("--provenance", required=True)
    parser.add_argument("--skip-bad", action="store_true", help="count malformed rows instead of stopping at the first")
    arguments = parser.parse_args(arguments_given)
    try:
        log = open_batch_log(arguments.log, skip_bad=arguments.skip_bad)
        profile = fit_batch_profile(
            log,
            name=arguments.name,
            provenance=arguments.provenance,
            processors=log.processors,
            began_at=log.began_at,
        )
    except TidegateError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(encode(profile), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
