"""What a run did, in figures. Pure; ``demo`` and ``simulate`` both end here, so their figures mean the same.

``broker.model.wire.encode`` of a ``RunSummary`` is its JSON form: the field names below are stable, times are
seconds from the run's start, absent figures are null. ``wire.decode(RunSummary, data)`` reads it back.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.model.plan import Decision
from broker.model.replica import ENDED, ReplicaPhase
from simulator.cluster.harm import Harm

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]


class Outcome(StrEnum):
    """How a request ended.

    FINISHED: answered in full. FAILED: an error, also when tokens had come. CUT: accepted, then ended by us (a drain
    limit, a kill). REJECTED: refused at the door. UNFINISHED: still under way when the run ended. ABANDONED: its client
    left before the first token.
    """

    FINISHED = "finished"
    FAILED = "failed"
    CUT = "cut"
    REJECTED = "rejected"
    UNFINISHED = "unfinished"
    ABANDONED = "abandoned"


class CutCause(StrEnum):
    """Why a replica ended under a request that it was answering.

    WALL_TIME: its job reached its time limit. PREEMPTED: a job of a higher tier took its nodes. NODE_FAILED: its node
    went down. DRAIN_LIMIT: the broker had waited for its last requests as long as the model's drain limit says.
    CANCELLED: somebody else cancelled its job. CRASHED: it exited by itself.
    """

    WALL_TIME = "wall_time"
    PREEMPTED = "preempted"
    NODE_FAILED = "node_failed"
    DRAIN_LIMIT = "drain_limit"
    CANCELLED = "cancelled"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Cut:
    """``requests`` of a model that were cut in one pool for one reason, when so many ``replicas`` ended."""

    model_id: str
    pool_id: str
    cause: CutCause
    requests: int
    replicas: int


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """One request as its client saw it; times are seconds from the run's start.

    ``output_tokens`` is what was received. ``token_gaps_s`` are the times between consecutive tokens, any sequence
    of floats (an ``array`` takes a quarter of a list's memory).
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    status: Outcome
    first_token_s: float | None = None
    end_s: float | None = None
    token_gaps_s: Sequence[float] = ()


OUTCOMES = tuple(Outcome)
"""A column of outcomes holds indexes of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Requests as their clients saw them, one row each in all columns but the last two; times are seconds from the
    run's start, NaN for what did not happen.

    ``output_tokens`` is what was received, ``answer_tokens`` what a whole answer has (where it is not known, what was
    received), ``status`` the index in ``OUTCOMES``; ``model`` and ``tenant`` are indexes of whoever made the table, -1
    for none. ``token_gaps_s`` are times between consecutive tokens, of all requests, each of them ``token_gap_counts``
    times. ``shared_tokens``: of each prompt what an engine may have found in its cache, at most; None where nobody
    could find anything.
    """

    arrival_s: Floats
    first_token_s: Floats
    end_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    answer_tokens: Integers
    status: Integers
    model: Integers
    tenant: Integers
    token_gaps_s: Floats
    token_gap_counts: Integers
    shared_tokens: Integers | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    @staticmethod
    def of(requests: Sequence[RequestOutcome]) -> Outcomes:
        gaps_s = np.concatenate([np.zeros(0), *(np.asarray(r.token_gaps_s, dtype=float) for r in requests)])
        received = np.array([request.output_tokens for request in requests], dtype=np.int64)
        return Outcomes(
            arrival_s=np.array([request.arrival_s for request in requests], dtype=float),
            first_token_s=np.array([request.first_token_s for request in requests], dtype=float),
            end_s=np.array([request.end_s for request in requests], dtype=float),
            prompt_tokens=np.array([request.prompt_tokens for request in requests], dtype=np.int64),
            output_tokens=received,
            answer_tokens=received,
            status=np.array([OUTCOMES.index(request.status) for request in requests], dtype=np.int8),
            model=np.zeros(len(requests), np.int16),
            tenant=np.full(len(requests), -1, np.int16),
            token_gaps_s=gaps_s,
            token_gap_counts=np.ones(len(gaps_s), np.int64),
        )


@dataclass(frozen=True, slots=True)
class ReplicaPoint:
    """From ``t_s`` on, so many replicas are in each phase (ended ones are left out, and phases with none)."""

    t_s: float
    phases: Mapping[ReplicaPhase, int]

    @staticmethod
    def of(t_s: float, phases: Iterable[ReplicaPhase]) -> ReplicaPoint:
        """The point for replicas in these phases, one each."""
        counts = Counter(phase for phase in phases if phase not in ENDED)
        return ReplicaPoint(t_s, {phase: counts[phase] for phase in ReplicaPhase if counts[phase]})


@dataclass(frozen=True, slots=True)
class Latency:
    """Exact quantiles in seconds (linear between ranks) over the ``count`` values that exist."""

    count: int
    mean_s: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    max_s: float | None = None

    @staticmethod
    def of(values: Floats) -> Latency:
        if not len(values):
            return Latency(0)
        p50, p95, p99 = (float(value) for value in np.quantile(values, _QUANTILES))
        return Latency(len(values), float(values.mean()), p50, p95, p99, float(values.max()))

    @staticmethod
    def of_counted(values: Floats, counts: Integers) -> Latency:
        """As ``of`` the array that holds each value ``counts`` times (at least once): ten million answers have a
        billion gaps between tokens."""
        if not len(values):
            return Latency(0)
        order = np.argsort(values)
        values, ends = values[order], np.cumsum(counts[order], dtype=np.int64)
        total = int(ends[-1])
        p50, p95, p99 = (_counted_quantile(values, ends, q) for q in _QUANTILES)
        mean_s = float(np.dot(values, counts[order]) / total)
        return Latency(total, mean_s, p50, p95, p99, float(values[-1]))


_QUANTILES = (0.5, 0.95, 0.99)


def _counted_quantile(values: Floats, ends: NDArray[np.int64], q: float) -> float:
    """``numpy.quantile`` of rising values, of which each is repeated up to the rank in ``ends``."""
    rank = q * (int(ends[-1]) - 1)
    low = math.floor(rank)
    share = rank - low
    below, above = (float(values[np.searchsorted(ends, at, side="right")]) for at in (low, math.ceil(rank)))
    # From the nearer end, as numpy does it.
    return below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share)


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests by outcome; they add up to ``sent``."""

    sent: int
    finished: int
    failed: int
    cut: int
    rejected: int
    unfinished: int
    abandoned: int = 0


@dataclass(frozen=True, slots=True)
class TraceCounts:
    """What became of the rows in ``window`` (as ``--window`` writes it; empty: the whole trace): ``rows`` readable, of
    which ``failed`` were not replayed; the others were sent at ``rate_scale`` times their rate. ``bad`` rows were
    skipped, in the whole file."""

    rows: int
    failed: int
    bad: int
    window: str = ""
    rate_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Partial:
    """The run was ended before its end, while it was ``doing`` this, ``reached_s`` into the load (negative: before its
    first request) of its ``span_s``, which is null where it was not known yet."""

    doing: str
    reached_s: float = 0.0
    span_s: float | None = None


@dataclass(frozen=True, slots=True)
class LoadSeries:
    """Per bin of ``bin_s``: requests that arrived, and the mean number under way."""

    bin_s: float
    arrived: tuple[int, ...]
    in_flight: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """How requests were served, and by how many replicas.

    Time to first token is over every request that got one, end to end over the finished ones, inter-token over all
    tokens received: requests without an answer are in ``requests``, not in the quantiles.
    """

    requests: RequestCounts
    prompt_tokens: int
    output_tokens: int
    time_to_first_token: Latency
    inter_token: Latency
    end_to_end: Latency
    load: LoadSeries
    replicas: tuple[ReplicaPoint, ...]
    replica_seconds: Mapping[ReplicaPhase, float]
    peak_ready: int


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """The jobs of one pool's replicas on a simulated cluster. ``queue_wait`` is over the ``started`` ones; ``states``
    counts all by Slurm's names, as they ended or as the run's end found them."""

    submitted: int
    started: int
    queue_wait: Latency
    states: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """The jobs of a simulated cluster's other users that ended after the run had begun, each followed to its end.

    ``wait`` is beside the replicas, ``wait_without`` on the same cluster with the same jobs and no replicas; ``harm``
    pairs the two job by job, by size. ``null`` pairs likewise with each submission moved by up to ``jitter_s`` in place
    of the replicas: what is no more than that is chance. ``refused`` jobs fit no partition.
    """

    jobs: int
    refused: int
    wait: Latency
    wait_without: Latency
    harm: tuple[Harm, ...]
    null: tuple[Harm, ...]
    jitter_s: float


@dataclass(frozen=True, slots=True)
class RunSummary(ServiceFigures):
    """One run: the figures of all that was asked, and in ``models`` those of each model where several were asked.
    ``queues``, by pool, and ``batch`` are of a simulated cluster.

    ``source`` is ``demo`` or ``simulate``; ``started_at`` places it in the decisions' time. ``problems`` says, in
    words, why the run is no success; empty if it is one. ``notes`` say what else is to be known of its figures.
    ``cached_tokens`` of the prompts were found in prefix caches.
    ``cuts``: why requests were cut; they add up to ``requests.cut``.
    ``partial`` is null unless somebody ended the run early: all figures are then of the time until that, in which its
    last requests could not finish. ``drained_s``: for how long the run went on beyond its load and tail, since requests
    were still open. ``not_asked``: the most replicas that models had which nobody asked, by model; all other figures
    leave them out.
    """

    source: str
    started_at: float
    duration_s: float
    decisions: tuple[Decision, ...]
    trace: TraceCounts | None = None
    problems: tuple[str, ...] = ()
    models: Mapping[str, ServiceFigures] = field(default_factory=dict)
    queues: Mapping[str, QueueFigures] = field(default_factory=dict)
    batch: BatchFigures | None = None
    cached_tokens: int = 0
    partial: Partial | None = None
    drained_s: float = 0.0
    not_asked: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()


LOAD_BINS = 120
"""Bins of the load series: what a terminal is wide."""


def summarise(
    *,
    source: str,
    started_at: float,
    duration_s: float,
    outcomes: Outcomes,
    replicas: Iterable[ReplicaPoint],
    decisions: Iterable[Decision],
    trace: TraceCounts | None = None,
    problems: Iterable[str] = (),
    models: Mapping[str, ServiceFigures] | None = None,
    cached_tokens: int = 0,
    partial: Partial | None = None,
    drained_s: float = 0.0,
    not_asked: Mapping[str, int] | None = None,
    cuts: Iterable[Cut] = (),
) -> RunSummary:
    """The summary of a run of ``duration_s``; see ``service_figures``."""
    whole = service_figures(outcomes, replicas, duration_s)
    return RunSummary(
        **{each.name: getattr(whole, each.name) for each in fields(whole)},
        source=source,
        started_at=started_at,
        duration_s=duration_s,
        decisions=tuple(decisions),
        trace=trace,
        problems=tuple(problems),
        models=models or {},
        cached_tokens=cached_tokens,
        partial=partial,
        drained_s=drained_s,
        not_asked=not_asked or {},
        cuts=tuple(cuts),
    )


def service_figures(outcomes: Outcomes, replicas: Iterable[ReplicaPoint], duration_s: float) -> ServiceFigures:
    """The figures of these requests. ``replicas`` are points in order of time; repeated ones are dropped."""
    statuses = np.bincount(outcomes.status, minlength=len(OUTCOMES)).tolist()
    finished = outcomes.status == OUTCOMES.index(Outcome.FINISHED)
    answered = ~np.isnan(outcomes.first_token_s)
    timeline = compact(replicas)
    return ServiceFigures(
        requests=RequestCounts(
            sent=len(outcomes), **{outcome.value: statuses[code] for code, outcome in enumerate(OUTCOMES)}
        ),
        prompt_tokens=int(outcomes.prompt_tokens.sum(dtype=np.int64)),
        output_tokens=int(outcomes.output_tokens.sum(dtype=np.int64)),
        time_to_first_token=Latency.of((outcomes.first_token_s - outcomes.arrival_s)[answered]),
        inter_token=Latency.of_counted(outcomes.token_gaps_s, outcomes.token_gap_counts),
        end_to_end=Latency.of((outcomes.end_s - outcomes.arrival_s)[finished]),
        load=load_series(outcomes, duration_s),
        replicas=timeline,
        replica_seconds=replica_seconds(timeline, duration_s),
        peak_ready=max((point.phases.get(ReplicaPhase.READY, 0) for point in timeline), default=0),
    )


def together(timelines: Sequence[Sequence[ReplicaPoint]]) -> Iterator[ReplicaPoint]:
    """The replicas of several models as those of one."""
    latest: list[Mapping[ReplicaPhase, int]] = [{} for _ in timelines]
    counts: Counter[ReplicaPhase] = Counter()
    changes = heapq.merge(
        *([(point.t_s, index, point.phases) for point in timeline] for index, timeline in enumerate(timelines)),
        key=lambda change: change[0],
    )
    for t_s, index, phases in changes:
        counts.subtract(latest[index])
        counts.update(phases)
        latest[index] = phases
        yield ReplicaPoint(t_s, {phase: counts[phase] for phase in ReplicaPhase if counts[phase]})


def compact(points: Iterable[ReplicaPoint]) -> tuple[ReplicaPoint, ...]:
    """Only the points at which something changed; of several at one time the last."""
    kept: list[ReplicaPoint] = []
    for point in points:
        if kept and kept[-1].t_s == point.t_s:
            kept.pop()
        if not kept or kept[-1].phases != point.phases:
            kept.append(point)
    return tuple(kept)


def replica_seconds(timeline: Sequence[ReplicaPoint], duration_s: float) -> dict[ReplicaPhase, float]:
    """Seconds spent by replicas in each phase from the first point to the run's end."""
    totals: dict[ReplicaPhase, float] = {}
    end = ReplicaPoint(duration_s, {})
    for point, following in pairwise((*timeline, end)):
        for phase, count in point.phases.items():
            totals[phase] = totals.get(phase, 0.0) + count * max(0.0, following.t_s - point.t_s)
    return {phase: totals[phase] for phase in ReplicaPhase if phase in totals}


def load_series(outcomes: Outcomes, duration_s: float) -> LoadSeries:
    """Arrivals and mean requests under way in each of ``LOAD_BINS`` equal bins."""
    bin_s = max(duration_s, 1e-9) / LOAD_BINS
    edges = np.linspace(0.0, bin_s * LOAD_BINS, LOAD_BINS + 1)
    arrivals = outcomes.arrival_s
    ends = np.where(np.isnan(outcomes.end_s), duration_s, outcomes.end_s)
    arrived = np.bincount(np.clip(arrivals / bin_s, 0, LOAD_BINS - 1).astype(int), minlength=LOAD_BINS)
    # Time under way before each edge: what has elapsed since the arrivals, less what has elapsed since the ends.
    under_way_s = _elapsed_before(edges, arrivals) - _elapsed_before(edges, ends)
    in_flight = np.diff(under_way_s) / bin_s
    return LoadSeries(
        bin_s, tuple(int(count) for count in arrived), tuple(round(max(0.0, float(mean)), 3) for mean in in_flight)
    )


def _elapsed_before(edges: Floats, times: Floats) -> Floats:
    """For each edge the sum of (edge - time) over the times before it."""
    ordered = np.sort(times)
    before = np.searchsorted(ordered, edges)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    elapsed: Floats = before * edges - sums[before]
    return elapsed
