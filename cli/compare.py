"""``tidegate compare``: runs side by side, with what is known of their differences."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Exit, fail, print_json, told_errors


class Blocks(StrEnum):
    """As ``simulator.statistics.Days``, which brings numpy along."""

    AUTO = "auto"
    SHARED = "shared"
    OWN = "own"
    SEEDS = "seeds"


def compare(
    inputs: Annotated[list[Path], typer.Argument(metavar="FOLDERS", help="Folders that `simulate --out` or `sweep` wrote, or cells of a sweep (DIR/cells/KEY.json). The first is what the others are compared with.")],
    blocks: Annotated[Blocks, typer.Option("--blocks", help="What is resampled: days over all seeds, each seed's own days, or whole seeds.")] = Blocks.AUTO,
    level: Annotated[float, typer.Option("--level", min=0.5, max=0.9999, help="The intervals' level.")] = 0.95,
    resamples: Annotated[int, typer.Option("--resamples", min=100, max=1_000_000, help="How many resamples.")] = 4000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the resampling.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:  # fmt: skip
    """Set runs side by side: figures, differences from the first with intervals, costs at equal attainment.

    The last are told where sweeps have a knob.

    Reports that differ in their seed only are one side, and so are cells of a sweep. Runs that were not asked the same, or are judged by different
    limits, are refused.
    """
    from broker.model import wire
    from cli.comparing import read_subjects, tell_comparison
    from simulator.statistics import Days, Resampling
    from simulator.sweep.comparing import reasons_against, side_by_side

    with told_errors():
        subjects = read_subjects(inputs)
    if len(subjects) < 2:
        raise fail(
            f"{subjects[0].name} is alone; name another folder to compare it with. A sweep has one side for each of its "
            "policies: name cells for settings of one policy (cells.csv has their keys)",
            Exit.USAGE,
        )
    if reasons := reasons_against(subjects):
        raise fail("these runs cannot be compared:\n" + "\n".join(reasons))
    days = None if blocks is Blocks.AUTO else Days(blocks.value)
    found = side_by_side(subjects, Resampling(level=level, resamples=resamples, seed=seed), days)
    if as_json:
        print_json(wire.encode(found))
    else:
        tell_comparison(found)
