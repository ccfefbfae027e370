"""``tidegate sweep``: many simulations on all cores, ranked."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from broker.model.units import format_count
from cli.interrupts import Interrupts
from cli.output import errors, fail, print_json, tell, told_errors


class RankedBy(StrEnum):
    """As ``simulator.sweep.ranking.RankBy``, which brings numpy along."""

    COST = "cost"
    ATTAINMENT = "attainment"
    WORST_HOUR = "worst-hour"
    FIRST_TOKEN = "first-token"


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep's file, sweep.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results (default: the file's name without its ending, in the present folder).", show_default=False)] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, max=4096, help="Processes at once (default: one for each core).", show_default=False)] = None,
    rank_by: Annotated[RankedBy, typer.Option("--rank-by", help="What orders the table; those that miss the goal are below in any case.")] = RankedBy.COST,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the table; all are in the files.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="All results as one JSON document.")] = False,
) -> None:  # fmt: skip
    """Run every combination of policies, their values, traces and seeds, and rank them by cost at kept service.

    Results are kept as they end: started again, with the same command, a sweep goes on where it was stopped (by Ctrl-C,
    SIGTERM, a closed terminal, or anything worse).
    """
    folder, begun = out if out is not None else Path(file.stem), False
    with told_errors(), Interrupts().heard() as interrupts:
        try:
            with interrupts.waiting():  # modules that are half imported cannot be imported again
                from cli.sweep_files import WRITTEN
                from cli.sweep_plan import plan_sweep
                from cli.sweep_run import run_sweep
                from cli.sweep_tables import tell_sweep
                from simulator.sweep.ranking import RankBy
            interrupts.require_none()
            plan = plan_sweep(file)
            begun = True
            found = run_sweep(plan, folder, jobs, RankBy(rank_by.value))
            interrupts.require_none()
        except KeyboardInterrupt:
            kept = f"what is done is kept in {folder}: the same command goes on from there"
            errors.print(
                f"stopped; {kept if begun else 'nothing was run yet'}", highlight=False, markup=False, soft_wrap=True
            )
            raise
    if as_json:
        from broker.model import wire

        print_json(wire.encode(found))
    else:
        tell_sweep(found, top)
        written = [name for name in WRITTEN if (folder / name).exists()]
        tell(f"All of it is in {folder}: {', '.join(written)}.")
    if found.failed:
        cells = format_count(len(found.cells) + len(found.failed), "cell")
        raise fail(f"{len(found.failed)} of {cells} failed")
