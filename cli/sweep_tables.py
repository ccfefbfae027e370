"""What a sweep tells people: the ranked table, costs at equal attainment, what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.model.spec import ServiceObjective
from broker.model.units import format_count, format_duration, format_number
from cli.output import table, tell
from simulator.engine.routing import Routing
from simulator.report.document import Interval
from simulator.sweep.cells import CACHED_SHARE, settings_words
from simulator.sweep.document import (
    CurvePoint,
    RankedRow,
    RunUsed,
    StandingRow,
    SweepDocument,
    held_out_demands,
    ranked_demands,
)

_BLOCK_WORDS = {"shared": "days over all seeds", "own": "each seed's days", "seeds": "whole seeds"}
_FAILURES_SHOWN = 10


def tell_sweep(found: SweepDocument, top: int) -> None:
    """The ranking, the costs at equal attainment where policies have a knob, and what failed."""
    held_out = bool(held_out_demands(found.demands))
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
    noted = [result for result in found.cells if result.figures.notes]
    if noted:
        first = noted[0]
        cell, note = first.cell, first.figures.notes[0]
        where = f"{cell.candidate.words}, {cell.demand}, seed {cell.seed}"
        tell(
            f"{format_count(len(noted), 'run')} with notes, all of them in sweep.json; the first is of {where}: {note}."
        )
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
    on = " (on what was held out)" if held_out_demands(found.demands) else ""
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
        "" if standing.worst_hour is None else f"{standing.worst_hour:.1%}",
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
    apart = found.results.told_apart(ranked_demands(found.demands)).seeds
    words = (
        f"{n_words(apart, interval.blocks, kind.days)}; "
        f"{kind.level:.0%} intervals of {kind.resamples:,} resamples, seed {kind.seed}. "
        f"Goal: {goal.attainment:.4g} in time overall and {goal.worst_hour:.4g} in the worst hour of any run. "
        f"In time: {_objectives_words(found.objectives)}."
    )
    if all(row.standing.worst_hour is None for row in found.ranking):
        words += " No run lasts an hour: none has a worst hour, and that part of the goal cannot be judged."
    words += _run_words(found.run)
    if idle := sorted({name for result in found.cells for name in result.figures.not_asked}):
        words += f" GPU-hours are of the models that were asked; not asked, and not counted: {', '.join(idle)}."
    if unmoved := found.results.unmoved_by(CACHED_SHARE):
        words += (
            f" {CACHED_SHARE} changed no run of {', '.join(unmoved)}: where requests tell themselves who shares prompts "
            "(sessions, prefix groups), it has no effect."
        )
    words += same_run_words(len(found.seeds), len(apart))
    if interval.blocks == 1:
        words += f" With one block nothing is known of the spread: give {more_blocks(len(found.seeds), len(apart))}."
    return words


def n_words(seeds: Sequence[int], blocks: int, days: str) -> str:
    """``n = 2 seeds (1, 2), 14 blocks (each seed's days)``."""
    named = ", ".join(map(str, seeds))
    return f"n = {format_count(len(seeds), 'seed')} ({named}), {format_count(blocks, 'block')} ({_BLOCK_WORDS[days]})"


def same_run_words(seeds: int, apart: int) -> str:
    """What is said where only ``apart`` of the seeds gave runs of their own."""
    if apart == seeds:
        return ""
    if apart == 1:
        return " The seeds gave the same run: nothing in it is drawn, and they count as one."
    return f" Of {seeds} seeds {seeds - apart} gave the same run as another, and those count as one."


def more_blocks(seeds: int, apart: int) -> str:
    """What would tell more of the spread: no further seed where nothing is drawn."""
    return "more seeds or days" if seeds == apart else "more days; a further seed changes nothing"


def _run_words(run: RunUsed | None) -> str:
    """Empty where nothing was said of it."""
    if run is None:
        return ""
    parts = [f"routing {run.routing}"] if run.routing != Routing.LEAST_LOADED else []
    parts += [f"{run.cached_share:.4g} of prompts cached"] if run.cached_share else []
    if run.metrics is not None:
        parts.append(f"{run.metrics.loss:.4g} of measurements lost, the others {run.metrics.delay_s:g} s late")
    return f" Unless a setting says otherwise: {', '.join(parts)}." if parts else ""


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
