"""Whether reports and sweeps that somebody hands in can be what they say: the schema knows types only. Pure.

Each function raises ``WireError`` with the field of the first thing that no run can have left.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.model.errors import WireError
from simulator.quantiles import BUCKETS
from simulator.report.document import LatencyRow, RunReport
from simulator.sweep.document import SweepDocument
from simulator.sweep.figures import RunFigures, Worst

LARGEST = 1e18
"""Sums of such values, and their squares, are still numbers."""


def require_sound_report(report: RunReport) -> None:
    if not report.figures:
        raise WireError("a report has at least one figure", field="figures")
    for index, figure in enumerate(report.figures):
        field = f"figures[{index}]"
        _require_numbers(figure.numerator, f"{field}.numerator", least=-LARGEST)
        _require_numbers(figure.denominator, f"{field}.denominator")
        _require_as_many(figure.denominator, figure.numerator, f"{field}.denominator")
    for index, latency in enumerate(report.latencies):
        _require_counts(latency, len(report.figures[0].numerator), f"latencies[{index}]")
    for index, row in enumerate(report.attainment):
        if row.value is not None and not 0 <= row.value <= 1:
            raise WireError(f"{row.value:g} is no share from 0 to 1", field=f"attainment[{index}].value")


def _require_counts(row: LatencyRow, days: int, field: str) -> None:
    if row.by_day and len(row.by_day) != days:
        raise WireError(f"has {len(row.by_day)} days where there are {days}", field=f"{field}.by_day")
    for index, day in enumerate(row.by_day):
        if not 0 <= day.first <= day.first + len(day.counts) <= BUCKETS:
            raise WireError(f"there are {BUCKETS:,} buckets", field=f"{field}.by_day[{index}]")
        if day.counts:
            _require_numbers(day.counts, f"{field}.by_day[{index}].counts")


def require_sound_sweep(document: SweepDocument) -> None:
    known = {demand.name for demand in document.demands}
    if not known:
        raise WireError("a sweep has at least one demand", field="demands")
    days: dict[str, Sequence[float]] = {}
    for index, result in enumerate(document.cells):
        field, demand = f"cells[{index}]", result.cell.demand
        if demand not in known:
            raise WireError(f"there is no demand {demand!r}", field=f"{field}.cell.demand")
        _require_run(result.figures, f"{field}.figures")
        _require_as_many(result.figures.days, days.setdefault(demand, result.figures.days), f"{field}.figures.days")


def _require_run(run: RunFigures, field: str) -> None:
    _require_numbers(run.days, f"{field}.days")
    for name, values in (
        ("kept", run.kept), ("arrived", run.arrived), ("gpu_hours", [day.total for day in run.gpu_hours]),
    ):  # fmt: skip
        _require_numbers(values, f"{field}.{name}")
        _require_as_many(values, run.days, f"{field}.{name}")
    for index, (kept, arrived) in enumerate(zip(run.kept, run.arrived, strict=True)):
        if kept > arrived:
            raise WireError(f"{kept:g} in time of {arrived:g} that arrived", field=f"{field}.kept[{index}]")
    _require_window(run.worst_hour, f"{field}.worst_hour")
    _require_window(run.worst_five_minutes, f"{field}.worst_five_minutes")


def _require_window(worst: Worst | None, field: str) -> None:
    if worst is not None and (not 0 <= worst.kept <= worst.arrivals or not worst.arrivals):
        raise WireError(f"{worst.kept} in time of {worst.arrivals} that arrived", field=field)


def _require_numbers(values: Sequence[float], field: str, *, least: float = 0.0) -> None:
    if not values:
        raise WireError("is empty; a run has at least one day", field=field)
    for index, value in enumerate(values):
        if not least <= value <= LARGEST:
            raise WireError(f"{value:g} is no figure of a run", field=f"{field}[{index}]")


def _require_as_many(values: Sequence[float], others: Sequence[float], field: str) -> None:
    if len(values) != len(others):
        raise WireError(f"has {len(values)} days where there are {len(others)}", field=field)
