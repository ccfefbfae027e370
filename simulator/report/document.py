"""``report.json``: everything that a run's page shows, as one versioned document.

``dumps`` and ``loads`` write and read it; the envelope is that of ``broker.model.wire`` (``tidegate.run_report/1``).
Times that end in ``_s`` are seconds from the run's second 0 (the first arrival of the replayed part), those that end in
``_at`` are epoch seconds. What does not exist is null: an attainment where nothing arrived, an end of an interval where
nothing is known of the spread. docs/report.md says what each figure means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from broker.model import wire
from broker.model.spec import ServiceObjective
from simulator.quantiles import Quantile
from simulator.report.summary import BatchFigures, Cut, Latency, QueueFigures, RequestCounts
from simulator.statistics import Metric
from traces.conditions import MetricFaults


@dataclass(frozen=True, slots=True)
class FileUsed:
    """A file by its name, without its folder, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class TraceUsed:
    """``rows`` readable ones of the part replayed, of which ``failed`` were not sent; ``bad`` ones of the whole file
    were skipped. ``began_at``: the trace's own date, None where it has none."""

    file: FileUsed
    rows: int
    failed: int
    bad: int
    window: str
    rate_scale: float
    scale_method: str
    began_at: float | None


@dataclass(frozen=True, slots=True)
class ModelUsed:
    """``parameters`` of the policy as JSON text. ``requests``: how many asked for the model."""

    model_id: str
    policy: str
    parameters: str
    pools: tuple[str, ...]
    gpus: int
    minimum: int
    maximum: int
    profile: str
    objective: ServiceObjective
    requests: int


@dataclass(frozen=True, slots=True)
class CoefficientUsed:
    """``method`` as in ``simulator.profiles.profile.Method``: measured, fitted, derived, floor, default, chosen."""

    name: str
    value: float
    method: str
    source: str


@dataclass(frozen=True, slots=True)
class ProfileUsed:
    """``extrapolated``: where the run went beyond what was measured, in words; empty if nowhere, or if nothing was."""

    name: str
    hardware: str
    model: str
    tensor_parallel: int
    summary: str
    coefficients: tuple[CoefficientUsed, ...]
    extrapolated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConditionsUsed:
    """What the run took for granted: how requests were routed, the share of prompts that prefix caches held where the
    load does not tell, how measurements reached the broker, how often they were taken, and the tail after the load."""

    routing: str
    cached_share: float
    metrics: MetricFaults
    scrape_interval_s: float
    summary_interval_s: float
    tail_s: float


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What was run: a trace or a scenario, and with ``cluster_file`` on a simulated cluster. ``started_at`` places
    second 0; ``dated``: that is a date of the load's own and not a stand-in.
    ``ended_early`` says why a report is of a part of the run only; empty if it is whole."""

    version: str
    seed: int
    started_at: float
    dated: bool
    duration_s: float
    warm_up_s: float
    cluster: str
    policies: FileUsed | None = None
    site: FileUsed | None = None
    trace: TraceUsed | None = None
    scenario: FileUsed | None = None
    cluster_file: FileUsed | None = None
    models: tuple[ModelUsed, ...] = ()
    profiles: tuple[ProfileUsed, ...] = ()
    ended_early: str = ""
    conditions: ConditionsUsed | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """``n`` seeds, ``blocks`` days resampled with ``resampling_seed``; ``low`` and ``high`` (``level``) are None with a
    single block, of which no spread is known."""

    low: float | None
    high: float | None
    level: float
    n: int
    blocks: int
    resampling_seed: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: the sum of ``numerator`` over the sum of ``denominator``, each by day of the run, so that it can be
    resampled, paired and compared without the run. ``model_id`` is empty for all models together. ``better`` is
    ``higher``, ``lower`` or empty. ``extrapolated``: it rests on coefficients outside what they were measured at."""

    name: str
    model_id: str
    unit: str
    better: str
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    value: float | None
    interval: Interval
    extrapolated: bool = False

    def metric(self, seed: int) -> Metric:
        """The figure as ``simulator.statistics`` takes it: one row, of the run's ``seed``."""
        return Metric((seed,), np.array([self.numerator]), np.array([self.denominator]))


@dataclass(frozen=True, slots=True)
class AttainmentRow:
    """``kept`` of ``arrivals`` in time. ``kind``: overall, class, tenant, prompt length, worst hour, worst five
    minutes; ``name`` says which. ``begin_s`` and ``length_s`` are set for the worst stretches, which have no interval:
    they are the worst of many."""

    kind: str
    name: str
    kept: int
    arrivals: int
    value: float | None
    interval: Interval | None = None
    begin_s: float | None = None
    length_s: float | None = None


@dataclass(frozen=True, slots=True)
class GpuHoursRow:
    """GPU-hours and what they went to; the parts add up to ``total``. ``kind``: ``all``; ``pool``; ``model``; ``none``,
    what dedicated pools held beyond all models' replicas; ``asked``, what figures, sweeps and comparisons count: the
    models that were asked and what dedicated pools held for them; ``warm_up``, what was allocated before second 0,
    which is in no other row. Pools add up to all, and so do models and ``none``."""

    pool_id: str
    busy: float
    idle: float
    starting: float
    draining: float
    withheld: float
    total: float
    kind: str = "pool"
    model_id: str = ""


@dataclass(frozen=True, slots=True)
class DayCounts:
    """How many times of one day lie in each bucket of ``simulator.quantiles``, from the bucket ``first`` on."""

    first: int
    counts: tuple[int, ...]


QUANTILES: Mapping[str, float] = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99}
"""Those of a ``Latency``, by the names that they have there and in ``LatencyRow.intervals``."""


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """``what``: ttft, tpot (each request's mean time per output token after the first) or end_to_end, over the requests
    that have one. ``limits``: those of the objective, in words. ``model_id`` is empty for all models together.
    ``intervals``: of the quantiles, by their names in ``latency``. ``by_day``: what they are resampled from; empty for
    single models where a document would have too much of it."""

    what: str
    model_id: str
    latency: Latency
    limits: str = ""
    extrapolated: bool = False
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    by_day: tuple[DayCounts, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """The common axis of all series: bin i lasts from ``begin_s + i * bin_s`` on, ``bin_s`` long."""

    begin_s: float
    bin_s: float
    bins: int


Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over the grid. ``labels`` tell what of it (model, phase, pool, tier, quantile). ``low`` and ``high``
    are the least and the greatest value within each bin, empty where the value is no mean."""

    name: str
    unit: str
    labels: Mapping[str, str]
    values: Values
    low: Values = ()
    high: Values = ()


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """Between two changes of the target decisions with one reason ``code`` are one row: ``count`` of them from ``t_s``
    to ``until_s``, with the words of the first. A change stands for itself, with its ``trail``."""

    t_s: float
    until_s: float
    count: int
    model_id: str
    before: int
    target: int
    code: str
    words: str
    policy: str
    trail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DecisionCounts:
    """``shown`` rows are in the document; all of them are in ``decisions.parquet``."""

    decisions: int
    changes: int
    rows: int
    shown: int


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """The clairvoyant plan, executed. ``gpu_hours_gap``: how much more the run took, as a share of the plan's; None
    where the plan attained less than the run, since costs are compared at equal service; negative where the plan, which
    is a heuristic, took more than the run."""

    gpu_hours: float
    attainment: float
    worst_hour: float | None
    gpu_hours_gap: float | None
    knows: str


@dataclass(frozen=True, slots=True)
class Oracle:
    """``left_out`` says why there is none; all figures are then None. ``allowance``: the share of misses that the bound
    was given, which is the run's own. ``run_gpu_hours``: what is held against bound and plan, of the replicas of models
    that were asked, from second 0 on; the plan's are of the same. ``dedicated_gpu_hours``: what dedicated pools held
    beyond all replicas of the run, which is in neither. ``gap``: how much more the run took, as a share of the
    bound."""

    left_out: str = ""
    allowance: float | None = None
    step_s: float | None = None
    run_gpu_hours: float | None = None
    dedicated_gpu_hours: float = 0.0
    bound_gpu_hours: float | None = None
    gap: float | None = None
    clairvoyant: Clairvoyant | None = None
    clairvoyant_left_out: str = ""


@dataclass(frozen=True, slots=True)
class RunReport:
    """The document. ``queues``, by pool, and ``batch`` are of a simulated cluster: waits of the replicas' jobs, and the
    harm to those of others. ``cuts``: why requests were cut. ``problems`` say, in words, why the run is no success, and
    ``notes`` what a reader must know before trusting a figure."""

    run: RunDescription
    requests: RequestCounts
    figures: tuple[Figure, ...]
    attainment: tuple[AttainmentRow, ...]
    latencies: tuple[LatencyRow, ...]
    gpu_hours: tuple[GpuHoursRow, ...]
    grid: Grid
    series: tuple[Series, ...]
    decision_counts: DecisionCounts
    decisions: tuple[DecisionRow, ...]
    oracle: Oracle
    queues: Mapping[str, QueueFigures] = field(default_factory=dict)
    batch: BatchFigures | None = None
    cuts: tuple[Cut, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def figure(self, name: str, model_id: str = "") -> Figure | None:
        return next((one for one in self.figures if (one.name, one.model_id) == (name, model_id)), None)


def quantile_of(
    latencies: Sequence[Latency], by_day: Sequence[Sequence[DayCounts]], name: str, seeds: tuple[int, ...]
) -> Quantile:
    """The quantile that ``QUANTILES`` has under that name as ``simulator.statistics`` takes it: one row for each of
    ``seeds``, all of as many days."""
    first = min((day.first for days in by_day for day in days if day.counts), default=0)
    end = max((day.first + len(day.counts) for days in by_day for day in days if day.counts), default=0)
    counts = np.zeros((len(seeds), len(by_day[0]), end - first))
    for row, days in enumerate(by_day):
        for place, day in enumerate(days):
            if day.counts:
                counts[row, place, day.first - first : day.first - first + len(day.counts)] = day.counts
    exact = [getattr(latency, name) for latency in latencies]
    return Quantile(seeds, QUANTILES[name], first, counts, tuple(math.nan if one is None else one for one in exact))


def dumps(report: RunReport) -> str:
    """The document's text."""
    return wire.dumps(report) + "\n"


def loads(text: str | bytes) -> RunReport:
    """The inverse. Raises ``WireError`` for what is no such document, or a newer version."""
    report: RunReport = wire.loads(RunReport, text)
    return report


def number(value: float) -> float | None:
    """None for what JSON has no form for."""
    return value if math.isfinite(value) else None
