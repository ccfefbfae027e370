"""What reports and sweeps have to say as sides of a comparison. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from broker.model import wire
from broker.model.spec import ServiceObjective
from simulator.report.document import QUANTILES, DayCounts, Figure, RunReport, quantile_of
from simulator.statistics import Metric
from simulator.sweep.cells import Candidate, Cell, settings_words
from simulator.sweep.comparing import Measure, Subject
from simulator.sweep.document import SweepDocument, held_out_demands, ranked_demands
from simulator.sweep.figures import RunFigures, worst_hour_of
from simulator.sweep.ranking import families

ATTAINMENT, COST = "attainment", "gpu_hours_a_day"


def of_reports(named: Sequence[tuple[str, RunReport]]) -> list[Subject]:
    """One side for each report; those that differ in their seed only are one side of several seeds."""
    groups: dict[str, list[tuple[str, RunReport]]] = {}
    for name, report in named:
        key = _run_but_its_seed(report)
        if any(other.run.seed == report.run.seed for _, other in groups.get(key, ())):
            key += f"\0{name}"  # the same once more: a side of its own
        groups.setdefault(key, []).append((name, report))
    return [_of_group(group) for group in groups.values()]


def _run_but_its_seed(report: RunReport) -> str:
    models = [replace(model, requests=0) for model in report.run.models]
    return json.dumps(
        [
            [wire.encode(model) for model in models],
            report.run.cluster,
            report.run.conditions and wire.encode(report.run.conditions),
            report.run.site and report.run.site.sha256,
            sorted(_asked(report).items()),
        ]
    )


def _of_group(group: Sequence[tuple[str, RunReport]]) -> Subject:
    names, reports = [name for name, _ in group], [report for _, report in group]
    first = reports[0]
    days = min(len(figure.numerator) for report in reports for figure in report.figures)
    measures = {}
    for figure in first.figures:
        rows = [(report.run.seed, report.figure(figure.name, figure.model_id)) for report in reports]
        there = [(seed, row) for seed, row in rows if row is not None]
        title = f"{figure.name} of {figure.model_id}" if figure.model_id else figure.name
        measures[title] = Measure(_stacked(there, days), figure.unit, figure.better)
    several = len({row.model_id for row in first.latencies}) > 1
    for row in first.latencies:
        of = (
            f" of {row.model_id}" if several and row.model_id else ""
        )  # where one was asked, figures have no name either
        measures |= _quantiles(row.what, row.model_id, of, reports, days)
    worst = [row.value for report in reports for row in report.attainment if row.kind == "worst hour"]
    return Subject(
        " + ".join(names),
        _asked(first),
        measures,
        recorded=first.run.trace is not None,
        worst_hour=min((value for value in worst if value is not None), default=None),
        not_asked=tuple(model.model_id for model in first.run.models if not model.requests),
        outcomes={report.run.seed: _outcome(report) for report in reports},
    )


def _outcome(report: RunReport) -> object:
    """Equal for runs that nothing tells apart but their seeds."""
    return (
        [(one.name, one.model_id, one.numerator, one.denominator) for one in report.figures],
        [(row.what, row.model_id, row.latency, row.by_day) for row in report.latencies],
    )


def _asked(report: RunReport) -> dict[str, str]:
    """What the run was asked and is judged by."""
    trace, asked = report.run.trace, {}
    if trace is not None:
        asked["the trace"] = f"{trace.file.name} ({trace.file.sha256[:12]})"
        asked["the window"] = trace.window or "all of it"
        asked["the rate"] = f"{trace.rate_scale:g} times by {trace.scale_method}"
    for what, file in (("the scenario", report.run.scenario), ("the simulated cluster", report.run.cluster_file)):
        if file is not None:
            asked[what] = f"{file.name} ({file.sha256[:12]})"
    for model in report.run.models:
        if model.requests:
            asked[f"what {model.model_id} promises"] = _promise(model.objective)
    asked["how much of the run there is"] = report.run.ended_early or "all"
    return asked


def _promise(objective: ServiceObjective) -> str:
    return json.dumps(wire.encode(objective), separators=(", ", ": "))


def _stacked(rows: Sequence[tuple[int, Figure]], days: int) -> Metric:
    """A late run may last into another day; what comes there belongs to its last full one."""

    def cut(values: Sequence[float]) -> list[float]:
        return [*values[: days - 1], sum(values[days - 1 :])]

    return Metric(
        tuple(seed for seed, _ in rows),
        np.array([cut(row.numerator) for _, row in rows]),
        np.array([cut(row.denominator) for _, row in rows]),
    )


def _quantiles(what: str, model_id: str, of: str, reports: Sequence[RunReport], days: int) -> dict[str, Measure]:
    """None where a report has no counts by day. ``of`` ends their names."""
    rows = [
        row
        for report in reports
        for row in report.latencies
        if (row.what, row.model_id) == (what, model_id) and len(row.by_day) >= days
    ]
    if len(rows) < len(reports):
        return {}
    seeds = tuple(report.run.seed for report in reports)
    latencies, by_day = [row.latency for row in rows], [_folded(row.by_day, days) for row in rows]
    return {
        f"{what}_{name.removesuffix('_s')}{of}": Measure(quantile_of(latencies, by_day, name, seeds), "s", "lower")
        for name in QUANTILES
    }


def _folded(by_day: Sequence[DayCounts], days: int) -> Sequence[DayCounts]:
    """As ``_stacked`` does it."""
    late = [day for day in by_day[days - 1 :] if day.counts]
    first = min((day.first for day in late), default=0)
    counts = [0] * (max((day.first + len(day.counts) for day in late), default=0) - first)
    for day in late:
        for bucket, count in enumerate(day.counts, day.first - first):
            counts[bucket] += count
    return [*by_day[: days - 1], DayCounts(first, tuple(counts))]


def of_sweep(name: str, found: SweepDocument) -> list[Subject]:
    """The best-ranked setting of each policy, judged on the held-out demands if there are any; with its curve where it
    has a knob, and then one side for each family of settings."""
    results, demands = found.results, held_out_demands(found.demands) or ranked_demands(found.demands)
    order = [Candidate(row.policy, row.settings, _knob(found, row.policy)) for row in found.ranking]
    members = families(results)
    sides: dict[object, Candidate] = {}
    for candidate in order:
        sides.setdefault(candidate.family if candidate.knob is not None else candidate.policy, candidate)
    subjects = []
    for candidate in sides.values():
        family = members.get(candidate.family, ())
        points = [results.point(one, demands) for one in family]
        curve = tuple(point for point in points if point is not None)
        subject = _of_candidate(name, found, candidate, demands)
        if subject is not None:
            runs = [results.by_seed(one, demands) for one in family or (candidate,)]
            outcomes = {seed: [by_seed.get(seed) for by_seed in runs] for seed in subject.outcomes}
            subjects.append(replace(subject, curve=curve if len(curve) > 1 else (), outcomes=outcomes))
    return subjects


def of_cells(name: str, found: SweepDocument, cells: Sequence[Cell]) -> list[Subject]:
    """Runs of a sweep; those that differ in their seed only are one side of several seeds, as with reports. A run that
    is named twice is a side of its own the second time."""
    groups: dict[tuple[Candidate, str, int], list[Cell]] = {}
    for cell in cells:
        times = sum(cell in group for group in groups.values())
        groups.setdefault((cell.candidate, cell.demand, times), []).append(cell)
    subjects = []
    for (candidate, demand, _), group in groups.items():
        only = replace(found, cells=tuple(result for result in found.cells if result.cell in group))
        short = " + ".join(cell.key[:8] for cell in group)
        subject = _of_candidate(f"{name}/{short}", only, candidate, (demand,))
        subjects += [] if subject is None else [subject]
    return subjects


def _of_candidate(name: str, found: SweepDocument, candidate: Candidate, demands: Sequence[str]) -> Subject | None:
    results = found.results
    metrics = results.metrics(candidate, demands) if candidate in results.candidates else None
    if metrics is None:
        return None
    used = {demand.name: demand for demand in found.demands}
    asked = {f"the demand {demand}": used[demand].digest[:12] for demand in demands}
    asked |= {f"what {model or 'the model'} promises": _promise(one) for model, one in found.objectives.items()}
    asked["the tail"] = f"{found.tail_s:g} s"
    return Subject(
        f"{name}: {candidate.policy} {settings_words(candidate.settings)}".strip(),
        asked,
        {ATTAINMENT: Measure(metrics[0], "share", "higher"), COST: Measure(metrics[1], "GPU-hours", "lower")},
        recorded=any(used[demand].recorded for demand in demands),
        worst_hour=worst_hour_of(results.runs(candidate, demands)),
        not_asked=not_asked_of(results.runs(candidate, demands)),
        outcomes=results.by_seed(candidate, demands),
    )


def not_asked_of(runs: Sequence[RunFigures]) -> tuple[str, ...]:
    """Models that stood idle in all of these runs."""
    common = set.intersection(*(set(run.not_asked) for run in runs)) if runs else set()
    return tuple(sorted(common))


def _knob(found: SweepDocument, policy: str) -> str | None:
    return next((r.cell.candidate.knob for r in found.cells if r.cell.candidate.policy == policy), None)
