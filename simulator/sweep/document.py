"""``sweep.json``: all that a sweep found, as one versioned document (``tidegate.sweep_document/1``).

It holds nothing of when or where the sweep ran, so that one which was interrupted and resumed ends in the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.model import wire
from broker.model.spec import ServiceObjective
from simulator.report.document import Interval
from simulator.statistics import Days, Resampling
from simulator.sweep.cells import CellFailure, CellResult
from simulator.sweep.comparing import interval_of
from simulator.sweep.design import Settings
from simulator.sweep.ranking import Curve, Goal, Ranked, Results, Standing
from traces.conditions import MetricFaults


@dataclass(frozen=True, slots=True)
class DemandUsed:
    """``side``: all, tune or report. ``digest``: of everything that makes its requests but the seed. ``recorded``: it
    replays a file rather than drawing from a distribution."""

    name: str
    side: str
    kind: str
    digest: str
    recorded: bool


@dataclass(frozen=True, slots=True)
class Resampled:
    """How the intervals were made; see ``simulator.statistics.Resampling``."""

    days: Days
    level: float
    resamples: int
    seed: int

    @staticmethod
    def of(resampling: Resampling) -> Resampled:
        return Resampled(resampling.days, resampling.level, resampling.resamples, resampling.seed)

    def resampling(self) -> Resampling:
        return Resampling(self.days, self.level, self.resamples, self.seed)


@dataclass(frozen=True, slots=True)
class StandingRow:
    """GPU-hours a day, share in time, the worst hour's share (None where no run lasts an hour) and the mean of the
    runs' P95 of the first token."""

    cost: float
    cost_interval: Interval
    attainment: float
    attainment_interval: Interval
    worst_hour: float | None
    first_token_p95_s: float | None


@dataclass(frozen=True, slots=True)
class RankedRow:
    rank: int
    policy: str
    settings: Settings
    keeps: bool
    pareto: bool
    missing: int
    standing: StandingRow
    held_out: StandingRow | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """``cost`` is None where the knob does not reach the attainment."""

    attainment: float
    cost: float | None
    interval: Interval | None
    reached: float
    at_most: bool


@dataclass(frozen=True, slots=True)
class CurveRow:
    """``side``: which demands it was read off on."""

    policy: str
    settings: Settings
    side: str
    settings_tried: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class RunUsed:
    """Under what runs took place whose settings say nothing else. ``metrics`` None: as their scenario says, or
    perfect."""

    routing: str
    cached_share: float
    metrics: MetricFaults | None


@dataclass(frozen=True, slots=True)
class SweepDocument:
    """``ranking`` and ``curves`` follow from ``cells``; they are here so that nobody has to compute them again.
    ``objectives`` by model; that of the model which the traces ask has no name."""

    seeds: tuple[int, ...]
    demands: tuple[DemandUsed, ...]
    objectives: Mapping[str, ServiceObjective]
    tail_s: float
    goal: Goal
    resampling: Resampled
    cells: tuple[CellResult, ...]
    failed: tuple[CellFailure, ...]
    ranking: tuple[RankedRow, ...]
    curves: tuple[CurveRow, ...]
    run: RunUsed | None = None

    @property
    def results(self) -> Results:
        return Results(self.cells, self.seeds)


def ranked_demands(demands: Iterable[DemandUsed]) -> tuple[str, ...]:
    """The demands that a ranking is made of."""
    return tuple(demand.name for demand in demands if demand.side != "report")


def held_out_demands(demands: Iterable[DemandUsed]) -> tuple[str, ...]:
    """Those on which what was ranked is told beside it."""
    return tuple(demand.name for demand in demands if demand.side == "report")


def dumps(document: SweepDocument) -> str:
    return wire.dumps(document) + "\n"


def loads(text: str | bytes) -> SweepDocument:
    """The inverse. Raises ``WireError`` for what is no such document, or a newer version."""
    document: SweepDocument = wire.loads(SweepDocument, text)
    return document


def ranked_row(number: int, row: Ranked) -> RankedRow:
    held_out = None if row.held_out is None else _standing_row(row.held_out)
    return RankedRow(
        number, row.candidate.policy, row.candidate.settings, row.keeps, row.pareto, row.missing,
        _standing_row(row.standing), held_out,
    )  # fmt: skip


def curve_row(curve: Curve, side: str) -> CurveRow:
    points = (
        CurvePoint(
            at.attainment,
            None if at.cost is None else at.cost.value,
            None if at.cost is None else interval_of(at.cost),
            at.reached,
            at.at_most,
        )
        for at in curve.costs
    )
    return CurveRow(curve.policy, curve.settings, side, curve.points, tuple(points))


def _standing_row(standing: Standing) -> StandingRow:
    first = standing.first_token_p95_s
    return StandingRow(
        standing.cost.value, interval_of(standing.cost), standing.attainment.value, interval_of(standing.attainment),
        standing.worst_hour, first if math.isfinite(first) else None,
    )  # fmt: skip
