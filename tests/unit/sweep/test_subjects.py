"""What is one side of a comparison."""

from __future__ import annotations

from dataclasses import replace

from simulator.statistics import Days, Resampling
from simulator.sweep.document import DemandUsed, Resampled, SweepDocument
from simulator.sweep.ranking import Goal
from simulator.sweep.subjects import of_cells
from tests.unit.sweep.runs import candidate, result

RUNS = [result(candidate("rules", knob), seed=seed, cost=knob + seed) for seed in (1, 2) for knob in (1.0, 4.0)]
SWEEP = SweepDocument(
    (1, 2), (DemandUsed("calm", "all", "generated", "digest", False),), {}, 0.0, Goal(0.9, 0.9),
    Resampled.of(Resampling(Days.OWN)), tuple(RUNS), (), (), (),
)  # fmt: skip


def test_cells_that_differ_in_their_seed_only_are_one_side() -> None:
    sides = of_cells("sweep", SWEEP, [run.cell for run in RUNS])
    assert [side.measures["gpu_hours_a_day"].metric.seeds for side in sides] == [(1, 2), (1, 2)]
    assert [side.measures["gpu_hours_a_day"].metric.value for side in sides] == [2.5, 5.5]


def test_a_cell_that_is_named_twice_is_a_side_of_its_own_the_second_time() -> None:
    cell = RUNS[0].cell
    assert [side.measures["attainment"].metric.seeds for side in of_cells("sweep", SWEEP, [cell, cell])] == [(1,), (1,)]


def test_cells_of_another_demand_are_another_side() -> None:
    other = result(candidate("rules", 1.0), seed=2, demand="busy")
    demands = (*SWEEP.demands, replace(SWEEP.demands[0], name="busy"))
    sides = of_cells("sweep", replace(SWEEP, cells=(*RUNS, other), demands=demands), [RUNS[0].cell, other.cell])
    assert [next(iter(side.asked)) for side in sides] == ["the demand calm", "the demand busy"]
