"""What a sweep tells: a ranked table for people, CSV for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from broker.model.spec import ServiceObjective
from broker.model.units import format_duration, format_number
from cli.output import table, tell
from simulator.report.document import Interval
from simulator.report.gpu_hours import GpuHours
from simulator.sweep.cells import settings_words
from simulator.sweep.design import Settings
from simulator.sweep.document import CurvePoint, RankedRow, StandingRow, SweepDocument

BLOCK_WORDS = {"shared": "days over all seeds", "own": "each seed's days", "seeds": "whole seeds"}
_FAILURES_SHOWN = 10


def tell_sweep(found: SweepDocument, top: int) -> None:
    """The ranking, the costs at equal attainment where policies have a knob, and what failed."""
    held_out = bool(found.held_out)
    if found.ranking:
        shown = found.ranking[:top]
        extra = ("GPU-h/day, report", "in time, report", "worst hour, report") if held_out else ()
        columns = ("rank", "policy", "values", "GPU-h/day", "in time", "worst hour", "goal", "front", *extra)
        title = "Settings by cost, those that keep the goal first" + (
            " (tuned on; report beside it)" if held_out else ""
        )
        table(title, columns, [_row(row, held_out) for row in shown], whole=("rank", "policy"), lesser=("front",))
        if len(found.ranking) > top:
            tell(f"{len(found.ranking) - top} more are in ranking.csv (--top).")
        tell(_how(found, found.ranking[0].standing.cost_interval))
    _tell_curves(found)
    for failure in found.failed[:_FAILURES_SHOWN]:
        cell = failure.cell
        tell(f"failed: {cell.candidate.words}, {cell.demand}, seed {cell.seed}: {failure.cause}")
    if len(found.failed) > _FAILURES_SHOWN:
        tell(f"{len(found.failed) - _FAILURES_SHOWN} more failed; all are in sweep.json.")


def _tell_curves(found: SweepDocument) -> None:
    """One row for each policy with a knob, one column for each attainment."""
    if not found.curves:
        return
    shares = [f"{point.attainment:.1%} in time" for point in found.curves[0].points]
    rows = [
        [curve.policy, settings_words(curve.settings), curve.settings_tried, *map(_cost_words, curve.points)]
        for curve in found.curves
    ]
    on = " (on what was held out)" if found.held_out else ""
    title = f"GPU-hours a day at equal attainment, read off along each policy's knob{on}"
    table(title, ("policy", "values", "settings", *shares), rows, whole=("policy",))


def _row(row: RankedRow, held_out: bool) -> list[object]:
    cells: list[object] = [row.rank, row.policy, settings_words(row.settings), *_standing(row.standing)]
    cells += ["kept" if row.keeps else "missed", "front" if row.pareto else ""]
    if row.missing:
        cells[2] = f"{cells[2]} ({row.missing} runs failed)".strip()
    if held_out:
        cells += _standing(row.held_out) if row.held_out is not None else ["", "", ""]
    return cells


def _standing(standing: StandingRow) -> list[object]:
    return [
        f"{format_number(standing.cost)} {_range(standing.cost_interval)}".strip(),
        f"{standing.attainment:.2%} {_range(standing.attainment_interval, percent=True)}".strip(),
        f"{standing.worst_hour:.1%}",
    ]


def _range(interval: Interval, *, percent: bool = False) -> str:
    """An end is unknown with a single block, and where too many resamples do not reach an attainment."""
    if interval.low is None and interval.high is None:
        return ""
    ends = (interval.low, interval.high)
    words = ["unknown" if end is None else f"{end:.2%}" if percent else format_number(end) for end in ends]
    return f"[{', '.join(words)}]"


def _how(found: SweepDocument, interval: Interval) -> str:
    kind, goal = found.resampling, found.goal
    words = (
        f"n = {interval.n} seeds ({', '.join(map(str, found.seeds))}), {interval.blocks} blocks ({BLOCK_WORDS[kind.days]}); "
        f"{kind.level:.0%} intervals of {kind.resamples:,} resamples, seed {kind.seed}. "
        f"Goal: {goal.attainment:.4g} in time overall and {goal.worst_hour:.4g} in the worst hour of any run. "
        f"In time: {_objectives_words(found.objectives)}."
    )
    if idle := sorted({name for result in found.cells for name in result.figures.not_asked}):
        words += f" GPU-hours are of the models that were asked; not asked, and not counted: {', '.join(idle)}."
    if interval.blocks == 1:
        words += " With one block nothing is known of the spread: give more seeds or days."
    return words


def _objectives_words(objectives: Mapping[str, ServiceObjective]) -> str:
    alike = len(set(objectives.values())) == 1
    named = [(f"{model}: " if model and not alike else "") + objective_words(one) for model, one in objectives.items()]
    return "; ".join(dict.fromkeys(named))


def objective_words(objective: ServiceObjective) -> str:
    """``first token within 2s (5s beyond 4,000 tokens), 0.1s per further token``."""
    longer = [
        f"{format_duration(one.first_token_s)} beyond {one.over_tokens:,} tokens" for one in objective.longer_prompts
    ]
    beyond = f" ({', '.join(longer)})" if longer else ""
    first, each = format_duration(objective.first_token_s), format_duration(objective.per_token_s)
    return f"first token within {first}{beyond}, {each} per further token on average"


def _cost_words(point: CurvePoint) -> str:
    if point.cost is None or point.interval is None:
        return "not reached"
    sign = "at most " if point.at_most else ""
    return f"{sign}{format_number(point.cost)} {_range(point.interval)}"


# -- files


def ranking_csv(found: SweepDocument) -> str:
    """One row for each setting; a column for each path that is varied."""
    paths = _paths(row.settings for row in found.ranking)
    figures = [
        "gpu_hours_per_day", "gpu_hours_per_day_low", "gpu_hours_per_day_high", "in_time", "in_time_low",
        "in_time_high", "worst_hour", "first_token_p95_s",
    ]  # fmt: skip
    header = ["rank", "policy", *paths, "keeps_goal", "pareto", "missing_runs", "seeds", "blocks", *figures]
    header += [f"report_{name}" for name in figures] if found.held_out else []
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
        if found.held_out:
            cells += _figures(row.held_out) if row.held_out is not None else [None] * len(figures)
        rows.append(cells)
    return _csv(header, rows)


def cells_csv(found: SweepDocument) -> str:
    """One row for each run."""
    paths = _paths(result.cell.candidate.settings for result in found.cells)
    header = [
        "policy", *paths, "demand", "seed", "requests", "in_time", "finished", "output_tokens", "gpu_hours",
        "gpu_hours_busy", "gpu_hours_idle", "gpu_hours_starting", "gpu_hours_draining", "gpu_hours_withheld", "days",
        "worst_hour", "worst_hour_begin_s", "worst_five_minutes", "first_token_p50_s", "first_token_p95_s",
        "first_token_p99_s", "inter_token_p50_s", "inter_token_p95_s", "end_to_end_p50_s", "end_to_end_p95_s",
        "peak_ready", "target_changes", "key",
    ]  # fmt: skip
    rows = []
    for result in found.cells:
        cell, run, hours = result.cell, result.figures, sum(result.figures.gpu_hours, GpuHours())
        values = {setting.path: setting.value for setting in cell.candidate.settings}
        rows.append([
            cell.candidate.policy, *(values.get(path) for path in paths), cell.demand, cell.seed, int(sum(run.arrived)),
            int(sum(run.kept)), run.finished, run.output_tokens, hours.total, *astuple(hours), sum(run.days),
            run.worst_hour.share, run.worst_hour.begin_s, run.worst_five_minutes.share, run.first_token.p50_s,
            run.first_token.p95_s, run.first_token.p99_s, run.inter_token.p50_s, run.inter_token.p95_s,
            run.end_to_end.p50_s, run.end_to_end.p95_s, run.peak_ready, run.target_changes, cell.key,
        ])  # fmt: skip
    return _csv(header, rows)


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
