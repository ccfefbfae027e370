"""A sweep's results for other programs: CSV, and Parquet where pyarrow is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from cli.output import errors
from simulator.report.gpu_hours import GpuHours
from simulator.report.tables import WHOLE, has_writer, parquet_of
from simulator.sweep.design import Settings
from simulator.sweep.document import StandingRow, SweepDocument, held_out_demands
from simulator.sweep.store import SUMMARY, replace_file

RANKING, CELLS_CSV, CELLS_PARQUET = "ranking.csv", "cells.csv", "cells.parquet"
WRITTEN = (SUMMARY, RANKING, CELLS_CSV, CELLS_PARQUET)


def write_tables(folder: Path, found: SweepDocument) -> None:
    """``ranking.csv``, ``cells.csv`` and ``cells.parquet``. Raises ``OSError``."""
    replace_file(folder / RANKING, ranking_csv(found).encode())
    header, rows = cell_rows(found)
    replace_file(folder / CELLS_CSV, _csv(header, rows).encode())
    if has_writer():
        replace_file(folder / CELLS_PARQUET, parquet_of(header, rows))
        return
    (folder / CELLS_PARQUET).unlink(missing_ok=True)  # an earlier sweep's would not be this one's
    errors.print(f"no Parquet file: it needs pyarrow ({WHOLE})", highlight=False, markup=False)


def ranking_csv(found: SweepDocument) -> str:
    """One row for each setting; a column for each path that is varied."""
    paths = _paths(row.settings for row in found.ranking)
    figures = [
        "gpu_hours_per_day", "gpu_hours_per_day_low", "gpu_hours_per_day_high", "in_time", "in_time_low",
        "in_time_high", "worst_hour", "first_token_p95_s",
    ]  # fmt: skip
    header = ["rank", "policy", *paths, "keeps_goal", "pareto", "missing_runs", "seeds", "blocks", *figures]
    header += [f"report_{name}" for name in figures] if held_out_demands(found.demands) else []
    rows = []
    for row in found.ranking:
        values = {setting.path: setting.value for setting in row.settings}
        interval = row.standing.cost_interval
        cells: list[object] = [
            row.rank,
            row.policy,
            *(values.get(path) for path in paths),
            row.keeps,
            row.pareto,
            row.missing,
        ]
        cells += [interval.n, interval.blocks, *_figures(row.standing)]
        if held_out_demands(found.demands):
            cells += _figures(row.held_out) if row.held_out is not None else [None] * len(figures)
        rows.append(cells)
    return _csv(header, rows)


def cell_rows(found: SweepDocument) -> tuple[list[str], list[list[Any]]]:
    """Names of columns, and one row for each run."""
    paths = _paths(result.cell.candidate.settings for result in found.cells)
    header = [
        "policy", *paths, "demand", "seed", "requests", "in_time", "finished", "output_tokens", "gpu_hours",
        "gpu_hours_busy", "gpu_hours_idle", "gpu_hours_starting", "gpu_hours_draining", "gpu_hours_withheld", "days",
        "worst_hour", "worst_hour_begin_s", "worst_five_minutes", "first_token_p50_s", "first_token_p95_s",
        "first_token_p99_s", "inter_token_p50_s", "inter_token_p95_s", "end_to_end_p50_s", "end_to_end_p95_s",
        "peak_ready", "target_changes", "key",
    ]  # fmt: skip
    rows: list[list[Any]] = []
    for result in found.cells:
        cell, run, hours = result.cell, result.figures, sum(result.figures.gpu_hours, GpuHours())
        hour, minutes = run.worst_hour, run.worst_five_minutes
        values = {setting.path: setting.value for setting in cell.candidate.settings}
        rows.append([
            cell.candidate.policy, *(values.get(path) for path in paths), cell.demand, cell.seed, int(sum(run.arrived)),
            int(sum(run.kept)), run.finished, run.output_tokens, hours.total, *astuple(hours), sum(run.days),
            hour and hour.share, hour and hour.begin_s, minutes and minutes.share, run.first_token.p50_s,
            run.first_token.p95_s, run.first_token.p99_s, run.inter_token.p50_s, run.inter_token.p95_s,
            run.end_to_end.p50_s, run.end_to_end.p95_s, run.peak_ready, run.target_changes, cell.key,
        ])  # fmt: skip
    return header, rows


def _figures(standing: StandingRow) -> list[object]:
    cost, attained = standing.cost_interval, standing.attainment_interval
    return [
        standing.cost, cost.low, cost.high, standing.attainment, attained.low, attained.high, standing.worst_hour,
        standing.first_token_p95_s,
    ]  # fmt: skip


def _paths(chosen: Iterable[Settings]) -> list[str]:
    return list(dict.fromkeys(setting.path for settings in chosen for setting in settings))


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
