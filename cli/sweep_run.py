"""A planned sweep, carried out: what is not done yet on all cores, each result kept as it ends, the whole at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from broker.model.units import format_count, format_duration
from cli.output import errors
from cli.progress import LINE_EVERY_S, prepare_engine
from cli.sweep_cells import CellTask, run_cell
from cli.sweep_files import write_tables
from cli.sweep_plan import Plan
from simulator.sweep.cells import CellFailure, CellResult
from simulator.sweep.document import (
    Resampled,
    RunUsed,
    SweepDocument,
    curve_row,
    dumps,
    held_out_demands,
    ranked_demands,
    ranked_row,
)
from simulator.sweep.ranking import RankBy, Results, curves, rank
from simulator.sweep.store import SUMMARY, SweepFolder, opened, replace_file
from simulator.sweep.workers import Died, Overdue, run_all

Told = Callable[[int, int], None]
"""Cells done and failed so far."""


def run_sweep(plan: Plan, folder: Path, jobs: int | None, by: RankBy) -> SweepDocument:
    """Run what the folder does not hold yet, and write its summary. Raises ``ConfigError`` for a folder that cannot be
    used, or is in use."""
    with opened(folder) as kept:
        results = {cell.key: found for cell in plan.cells if (found := kept.result(cell)) is not None}
        failures = {failure.cell.key: failure for failure in plan.failed}
        waiting = [task for task in plan.tasks if task.cell.key not in results]
        _tell_start(plan, kept, len(results), len(waiting))
        if waiting:
            prepare_engine()
            workers = min(len(waiting), jobs or len(os.sched_getaffinity(0)))
            with _progress(len(waiting), workers, len(failures)) as told:
                _run(waiting, workers, plan.settings.cell_time_limit_s, kept, results, failures, told)
        document = summarised(plan, results, failures, by)
        replace_file(folder / SUMMARY, dumps(document).encode())
        write_tables(folder, document)
    return document


def _run(
    waiting: list[CellTask], jobs: int, limit_s: float | None, kept: SweepFolder, results: dict[str, CellResult],
    failures: dict[str, CellFailure], told: Told,
) -> None:  # fmt: skip
    done = 0
    with closing(run_all(run_cell, waiting, jobs=jobs, preload=("cli.sweep_cells",), limit_s=limit_s)) as ended:
        for task, answer in ended:
            match answer:
                case CellResult():
                    kept.keep(answer)
                    results[task.cell.key] = answer
                    done += 1
                case CellFailure():
                    failures[task.cell.key] = answer
                case Died() | Overdue():
                    failures[task.cell.key] = CellFailure(task.cell, answer.cause)
            told(done, len(failures))


def summarised(
    plan: Plan, results: dict[str, CellResult], failures: dict[str, CellFailure], by: RankBy
) -> SweepDocument:
    """The whole, in the sweep's own order whatever ended first."""
    cells = tuple(results[cell.key] for cell in plan.cells if cell.key in results)
    found = Results(cells, plan.settings.seeds)
    resampling = plan.resampling(found)
    ranked, held_out = ranked_demands(plan.demands), held_out_demands(plan.demands)
    ranking = rank(found, ranked, held_out, plan.goal, resampling, by)
    on, side = (held_out, "report") if held_out else (ranked, "all")
    return SweepDocument(
        seeds=tuple(plan.settings.seeds),
        demands=plan.demands,
        objectives=plan.objectives,
        tail_s=plan.settings.tail_s,
        goal=plan.goal,
        resampling=Resampled.of(resampling),
        cells=cells,
        failed=tuple(failures[cell.key] for cell in plan.cells if cell.key in failures),
        ranking=tuple(ranked_row(number, row) for number, row in enumerate(ranking, 1)),
        curves=tuple(curve_row(curve, side) for curve in curves(found, on, resampling)),
        run=RunUsed(plan.settings.run.routing, plan.settings.run.cached_share, plan.settings.run.metrics),
    )


# -- progress


def _tell_start(plan: Plan, kept: SweepFolder, done: int, waiting: int) -> None:
    words = format_count(len(plan.cells), "cell")
    if done:
        words += f", {done:,} of them done before"
    if plan.failed:
        words += f", {len(plan.failed):,} cannot be run"
    errors.print(f"{words}; {waiting:,} to run", highlight=False)
    if strangers := kept.strangers(list(plan.cells)):
        errors.print(
            f"{format_count(strangers, 'result')} of other settings, files or versions in {kept.path} left alone",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def time_left(ended: int, count: int, workers: int, elapsed_s: float) -> str:
    """How long it will go on; empty until the workers, whose first cells begin with their own start, have had two each:
    judged by the first alone, four cells of seconds were to take half an hour."""
    if ended >= count or ended < max(3, 2 * workers):
        return ""
    return f"about {format_duration(round(elapsed_s / ended * (count - ended)))} left"


@contextmanager
def _progress(count: int, workers: int, failed_before: int) -> Iterator[Told]:
    """A bar on a terminal; elsewhere a plain line now and then, and at the end."""
    began = time.monotonic()

    def left(ended: int) -> str:
        return time_left(ended, count, workers, time.monotonic() - began)

    if not errors.is_terminal:
        yield _lines(count, failed_before, left)
        return
    columns = (TextColumn("sweeping"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=count, failed=failed_before, left="")

        def tell(done: int, failed: int) -> None:
            ended = done + failed - failed_before
            bar.update(task, completed=ended, failed=failed, left=left(ended))

        yield tell


def _lines(count: int, failed_before: int, left: Callable[[int], str]) -> Told:
    told_at = time.monotonic()

    def tell(done: int, failed: int) -> None:
        nonlocal told_at
        now, ended = time.monotonic(), done + failed - failed_before
        if now - told_at >= LINE_EVERY_S or ended == count:
            told_at = now
            words = ", ".join(filter(None, (f"{failed:,} failed", left(ended))))
            errors.print(f"sweeping: {ended:,} of {count:,} cells, {words}", highlight=False)

    return tell
