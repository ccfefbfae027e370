"""Which settings are best, and how surely: by cost among those that keep the goal, the others below them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from simulator.statistics import CostAt, Estimate, Metric, Resampling, SweepPoint, cost_at, estimates
from simulator.sweep.cells import Candidate, CellResult
from simulator.sweep.design import Settings
from simulator.sweep.figures import RunFigures, worst_hour_of

EQUAL_ATTAINMENTS = (0.95, 0.99, 0.999)


class RankBy(StrEnum):
    """COST: GPU-hours a day. FIRST_TOKEN: the mean over the runs of their 95th percentile."""

    COST = "cost"
    ATTAINMENT = "attainment"
    WORST_HOUR = "worst-hour"
    FIRST_TOKEN = "first-token"


@dataclass(frozen=True, slots=True)
class Goal:
    """What must be kept: the share in time of all arrivals, and that of the worst hour of any run that lasts one."""

    attainment: float
    worst_hour: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate on some demands: GPU-hours a day, the share in time over all runs, and the worst of their hours (None
    where no run lasts one, so that it is neither kept nor missed)."""

    cost: Estimate
    attainment: Estimate
    worst_hour: float | None
    first_token_p95_s: float

    def keeps(self, goal: Goal) -> bool:
        kept_hour = self.worst_hour is None or self.worst_hour >= goal.worst_hour
        return self.attainment.value >= goal.attainment and kept_hour


@dataclass(frozen=True, slots=True)
class Ranked:
    """``pareto``: no other in the same world costs less and attains as much, or attains more and costs no more.
    ``held_out`` is the same
    candidate on the demands that had no part in the ranking; None where there are none, or where a run is missing.
    ``missing``: runs that failed; figures are over the seeds for which none did."""

    candidate: Candidate
    standing: Standing
    keeps: bool
    pareto: bool
    missing: int
    held_out: Standing | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """What a policy costs at equal attainments, along its knob."""

    policy: str
    settings: Settings
    points: int
    costs: tuple[CostAt, ...]


class Results:
    """The results of a sweep by candidate, demand and seed."""

    def __init__(self, results: Sequence[CellResult], seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self._results = tuple(results)
        self.candidates = tuple(dict.fromkeys(result.cell.candidate for result in results))
        self._figures: dict[Candidate, dict[tuple[str, int], RunFigures]] = {}
        for result in results:
            known = self._figures.setdefault(result.cell.candidate, {})
            known.setdefault((result.cell.demand, result.cell.seed), result.figures)

    def whole_seeds(self, candidate: Candidate, demands: Sequence[str]) -> tuple[int, ...]:
        """Those for which the candidate was run on all demands."""
        known = self._figures[candidate]
        return tuple(seed for seed in self.seeds if all((demand, seed) in known for demand in demands))

    def runs(self, candidate: Candidate, demands: Sequence[str]) -> list[RunFigures]:
        return [run for runs in self.by_seed(candidate, demands).values() for run in runs]

    def by_seed(self, candidate: Candidate, demands: Sequence[str]) -> dict[int, tuple[RunFigures, ...]]:
        """Of the whole seeds, one run for each demand."""
        known = self._figures[candidate]
        seeds = self.whole_seeds(candidate, demands)
        return {seed: tuple(known[demand, seed] for demand in demands) for seed in seeds}

    def days(self, demands: Sequence[str]) -> int:
        """Of all demands together; those of which no run is there count for nothing."""
        lengths = {demand: len(run.days) for known in self._figures.values() for (demand, _), run in known.items()}
        return sum(lengths.get(demand, 0) for demand in demands)

    def metrics(self, candidate: Candidate, demands: Sequence[str]) -> tuple[Metric, Metric] | None:
        """Attainment and GPU-hours a day, the days of all demands side by side; None without a whole seed."""
        known, seeds = self._figures[candidate], self.whole_seeds(candidate, demands)
        if not seeds:
            return None

        def rows(days_of: Callable[[RunFigures], Sequence[float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
            return np.array([[day for demand in demands for day in days_of(known[demand, seed])] for seed in seeds])

        return (
            Metric(seeds, rows(lambda run: run.kept), rows(lambda run: run.arrived)),
            Metric(seeds, rows(lambda run: [day.total for day in run.gpu_hours]), rows(lambda run: run.days)),
        )

    def told_apart(self, demands: Sequence[str]) -> Results:
        """The same with the first seed alone of those of which all runs on these demands are alike: where nothing is
        drawn a second seed is the same run again, and says no more of the spread."""
        first = stand_ins(self.seeds, lambda one, other: self._alike(one, other, demands))
        if all(seed == one for seed, one in first.items()):
            return self
        named = [
            replace(one, cell=replace(one.cell, seed=first.get(one.cell.seed, one.cell.seed))) for one in self._results
        ]
        return Results(named, tuple(dict.fromkeys(first.values())))

    def _alike(self, one: int, other: int, demands: Sequence[str]) -> bool:
        """Whether these seeds' runs are the same, as far as both have them."""
        both = [
            (known, demand)
            for known in self._figures.values()
            for demand in demands
            if (demand, one) in known and (demand, other) in known
        ]
        return bool(both) and all(known[demand, one] == known[demand, other] for known, demand in both)

    def unmoved_by(self, path: str) -> tuple[str, ...]:
        """The demands of which no run changed where this setting alone did; none where it was tried at one value."""
        groups: dict[tuple[str, int, str, Settings], list[RunFigures]] = {}
        for candidate, known in self._figures.items():
            rest = tuple(setting for setting in candidate.settings if setting.path != path)
            if len(rest) < len(candidate.settings):
                for (demand, seed), run in known.items():
                    groups.setdefault((demand, seed, candidate.policy, rest), []).append(run)
        tried = {key: runs for key, runs in groups.items() if len(runs) > 1}
        moved = {demand for (demand, *_), runs in tried.items() if any(run != runs[0] for run in runs)}
        return tuple(dict.fromkeys(demand for demand, *_ in tried if demand not in moved))

    def point(self, candidate: Candidate, demands: Sequence[str]) -> SweepPoint | None:
        metrics = self.metrics(candidate, demands)
        return None if metrics is None else SweepPoint(0.0, *metrics)


def rank(
    results: Results, demands: Sequence[str], held_out: Sequence[str], goal: Goal, resampling: Resampling,
    by: RankBy = RankBy.COST,
) -> list[Ranked]:  # fmt: skip
    """All candidates of which at least one seed is whole, the best first; only ``demands`` count for the order."""
    standings = _standings(results.told_apart(demands), demands, resampling)
    beside = _standings(results.told_apart(held_out), held_out, resampling) if held_out else {}
    points = {one: (s.cost.value, s.attainment.value) for one, s in standings.items()}
    worlds = {one.world for one in points}
    front = {best for world in worlds for best in pareto_front({o: at for o, at in points.items() if o.world == world})}
    wanted = len(results.seeds) * len(demands)
    ranked = [
        Ranked(
            candidate,
            standing,
            keeps=standing.keeps(goal),
            pareto=candidate in front,
            missing=wanted - len(results.runs(candidate, demands)),
            held_out=beside.get(candidate),
        )
        for candidate, standing in standings.items()
    ]
    return sorted(ranked, key=lambda row: _order(row, by))


def stand_ins(seeds: Sequence[int], alike: Callable[[int, int], bool]) -> dict[int, int]:
    """For each seed the first whose runs are like its own."""
    first: dict[int, int] = {}
    for seed in seeds:
        first[seed] = next((one for one in dict.fromkeys(first.values()) if alike(one, seed)), seed)
    return first


def pareto_front(points: Mapping[Candidate, tuple[float, float]]) -> set[Candidate]:
    """Those of (cost, attainment) that no other beats in one and equals in the other."""
    front: set[Candidate] = set()
    best = -math.inf
    for cost in sorted({cost for cost, _ in points.values()}):
        reached = max(attained for at, attained in points.values() if at == cost)
        if reached > best:
            best = reached
            front.update(one for one, point in points.items() if point == (cost, reached))
    return front


def curves(results: Results, demands: Sequence[str], resampling: Resampling) -> list[Curve]:
    """One for each family of candidates whose knob was tried at two settings or more."""
    found, results = [], results.told_apart(demands)
    for family, members in families(results).items():
        points = [point for one in members if (point := results.point(one, demands)) is not None]
        if len(points) > 1:
            costs = cost_at(points, EQUAL_ATTAINMENTS, resampling)
            found.append(Curve(*family, len(points), costs))
    return found


def families(results: Results) -> dict[tuple[str, Settings], list[Candidate]]:
    """Candidates that differ in their knob only, of policies that have one."""
    found: dict[tuple[str, Settings], list[Candidate]] = {}
    for candidate in results.candidates:
        if candidate.knob is not None:
            found.setdefault(candidate.family, []).append(candidate)
    return found


def _standings(results: Results, demands: Sequence[str], resampling: Resampling) -> dict[Candidate, Standing]:
    """By candidate; those with the same seeds are resampled together."""
    metrics = {one: found for one in results.candidates if (found := results.metrics(one, demands)) is not None}
    standings = {}
    for seeds in dict.fromkeys(found[0].seeds for found in metrics.values()):
        alike = [one for one, found in metrics.items() if found[0].seeds == seeds]
        estimated = estimates([metric for one in alike for metric in metrics[one]], resampling)
        for one, attained, cost in zip(alike, estimated[::2], estimated[1::2], strict=True):
            runs = results.runs(one, demands)
            first = [run.first_token.p95_s for run in runs if run.first_token.p95_s is not None]
            standings[one] = Standing(
                cost,
                attained,
                worst_hour=worst_hour_of(runs),
                first_token_p95_s=sum(first) / len(first) if first else math.inf,
            )
    return {one: standings[one] for one in metrics}


def _order(row: Ranked, by: RankBy) -> tuple[object, ...]:
    """Those that miss the goal below all others, and the nearer to it the higher, whatever is ranked by. Equals stay in
    the sweep's order."""
    standing = row.standing
    figures = {
        RankBy.COST: standing.cost.value,
        RankBy.ATTAINMENT: -standing.attainment.value,
        RankBy.WORST_HOUR: math.inf if standing.worst_hour is None else -standing.worst_hour,
        RankBy.FIRST_TOKEN: standing.first_token_p95_s,
    }
    if not row.keeps and by is RankBy.COST:
        return True, -standing.attainment.value, standing.cost.value
    return not row.keeps, figures[by], standing.cost.value
