"""What a sweep says below its table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cli.sweep_tables import tell_sweep
from simulator.statistics import Resampling
from simulator.sweep.cells import Candidate, CellResult
from simulator.sweep.design import Setting
from simulator.sweep.document import DemandUsed, Resampled, SweepDocument, ranked_row
from simulator.sweep.ranking import Goal, Results, rank
from tests.unit.sweep.runs import candidate, result

GOAL = Goal(0.9, 0.9)
FEW = Resampling(resamples=200)


def told(runs: Sequence[CellResult], capsys: pytest.CaptureFixture[str]) -> str:
    """On one line."""
    seeds = tuple(dict.fromkeys(run.cell.seed for run in runs))
    ranking = rank(Results(runs, seeds), ["calm"], [], GOAL, FEW)
    demand = DemandUsed("calm", "all", "trace", "digest", True)
    rows = tuple(ranked_row(number, row) for number, row in enumerate(ranking, 1))
    tell_sweep(SweepDocument(seeds, (demand,), {}, 0.0, GOAL, Resampled.of(FEW), tuple(runs), (), rows, ()), 20)
    return " ".join(capsys.readouterr().out.split())


def test_where_no_run_lasts_an_hour_it_says_that_this_part_of_the_goal_cannot_be_judged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "No run lasts an hour: none has a worst hour, and that part of the goal cannot be judged."
    assert words in told([result(candidate("short"), worst=None)], capsys)
    assert words not in told([result(candidate("long"))], capsys)


def test_a_cached_share_that_changed_no_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def runs(*costs: float) -> list[CellResult]:
        tried = [Candidate("rules", (Setting("run.cached_share", share),)) for share in (0.0, 0.5)]
        return [result(one, cost=cost) for one, cost in zip(tried, costs, strict=True)]

    words = "run.cached_share changed no run of calm: where requests tell themselves who shares prompts"
    assert words in told(runs(10.0, 10.0), capsys)
    assert words not in told(runs(10.0, 9.0), capsys)
    assert words not in told(runs(10.0, 10.0)[:1], capsys)


def test_seeds_that_gave_the_same_run_are_told_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    same = [result(candidate("replayed"), seed=seed) for seed in (1, 2)]
    words = told(same, capsys)
    assert "n = 1 seed (1), 1 block (" in words
    assert "The seeds gave the same run: nothing in it is drawn, and they count as one." in words
    assert "give more days; a further seed changes nothing." in words
    drawn = told([same[0], result(candidate("replayed"), seed=2, cost=11.0)], capsys)
    assert "n = 2 seeds (1, 2)" in drawn
    assert "the same run" not in drawn
