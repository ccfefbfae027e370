"""Like is compared with like; what is known of a difference is said, and what is not known too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cli.comparing import not_asked_words
from simulator.statistics import Days, Metric, Resampling, SweepPoint
from simulator.sweep.comparing import Measure, Subject, blocks_for, reasons_against, side_by_side

FEW = Resampling(resamples=500)


def subject(
    name: str, costs: list[list[float]], *, seeds: tuple[int, ...] = (1, 2, 3), asked: str = "a day",
    recorded: bool = False, curve: tuple[SweepPoint, ...] = (),
) -> Subject:  # fmt: skip
    metric = Metric(seeds, np.array(costs), np.ones((len(seeds), len(costs[0]))))
    return Subject(name, {"the demand": asked}, {"cost": Measure(metric, "GPU-hours", "lower")}, recorded, 0.9, curve)


CHEAP = subject("cheap", [[1.0, 2.0], [1.5, 2.5], [1.2, 2.2]])
DEAR = subject("dear", [[2.0, 3.0], [2.5, 3.5], [2.2, 3.2]])


def test_a_difference_that_is_the_same_everywhere_is_certain() -> None:
    found = side_by_side([CHEAP, DEAR], FEW)
    [row] = found.figures
    assert [value.value for value in row.values] == pytest.approx([10.4 / 6, 16.4 / 6])
    [change] = row.changes
    assert change is not None
    assert change.value == pytest.approx(1.0)
    assert change.interval.low == pytest.approx(1.0)
    assert change.p < 0.05
    assert found.seeds == (1, 2, 3)


def test_with_one_run_on_each_side_nothing_is_certain() -> None:
    found = side_by_side([subject("a", [[1.0]], seeds=(1,)), subject("b", [[5.0]], seeds=(1,))], FEW)
    [change] = found.figures[0].changes
    assert change is not None
    assert (change.interval.low, change.interval.high, change.p) == (None, None, 1.0)


@pytest.mark.parametrize("blocks", [None, Days.SEEDS, Days.OWN])
def test_seeds_that_gave_the_same_run_are_one_block(blocks: Days | None) -> None:
    """A replay without a cluster: p was 1e-16 for two copies of one run."""
    same = dict.fromkeys((1, 2, 3), "all that came of it")
    one, other = (
        replace(subject(name, [[cost]] * 3, recorded=True), outcomes=same) for name, cost in (("a", 1.0), ("b", 2.0))
    )
    found = side_by_side([one, other], FEW, blocks)
    assert (found.seeds, found.same_run) == ((1,), (2, 3))
    [change] = found.figures[0].changes
    assert change is not None
    assert (change.value, change.interval.low, change.interval.high, change.p) == (1.0, None, None, 1.0)


def test_seeds_that_one_side_tells_apart_are_blocks_of_their_own() -> None:
    same = replace(CHEAP, outcomes=dict.fromkeys((1, 2, 3), "the same"))
    drawn = replace(DEAR, outcomes={1: "this", 2: "that", 3: "this"})
    found = side_by_side([same, drawn], FEW)
    assert (found.seeds, found.same_run) == ((1, 2), (3,))


def test_only_seeds_that_all_have_are_paired() -> None:
    fewer = subject("fewer", [[2.0, 3.0], [2.2, 3.2]], seeds=(1, 3))
    found = side_by_side([CHEAP, fewer], FEW)
    assert found.seeds == (1, 3)
    [change] = found.figures[0].changes
    assert change is not None
    assert change.value == pytest.approx(1.0)


def test_p_values_are_adjusted_for_all_that_are_compared_with_the_first() -> None:
    noisy = subject("noisy", [[1.0, 2.4], [1.9, 2.0], [1.2, 2.2]])
    alone = side_by_side([CHEAP, noisy], FEW).figures[0].changes[0]
    among = side_by_side([CHEAP, noisy, replace(noisy, name="again")], FEW).figures[0].changes[0]
    assert alone is not None
    assert among is not None
    assert alone.p == alone.p_holm == among.p
    assert among.p_holm == pytest.approx(min(1.0, 2 * among.p))


def test_runs_that_were_asked_something_else_are_not_compared() -> None:
    other = subject("other", [[1.0, 2.0]] * 3, asked="a week")
    assert reasons_against([CHEAP, other]) == ["the demand differs: a day in cheap, a week in other"]


def test_sides_that_differ_in_models_that_nobody_asked_say_so() -> None:
    assert not not_asked_words(side_by_side([CHEAP, DEAR], FEW))
    words = not_asked_words(side_by_side([CHEAP, replace(DEAR, not_asked=("embed",))], FEW))
    assert "A has none; B has embed. Their GPU-hours are counted on no side. The sides differ" in words


def test_runs_without_a_common_seed_are_not_compared() -> None:
    assert reasons_against([CHEAP, subject("late", [[1.0, 2.0]], seeds=(9,))]) == [
        "no seed was run in both cheap and late"
    ]
    pairs = [
        subject(name, [[1.0, 2.0]] * 2, seeds=seeds) for name, seeds in (("a", (1, 2)), ("b", (2, 3)), ("c", (1, 3)))
    ]
    assert reasons_against(pairs) == ["no seed was run in all of them"]
    assert reasons_against([CHEAP, DEAR]) == []


def test_runs_of_other_days_or_without_a_common_figure_are_not_compared() -> None:
    assert reasons_against([CHEAP, subject("longer", [[1.0, 2.0, 3.0]] * 3)]) == [
        "the days differ: 2 in cheap, 3 in longer"
    ]
    renamed = replace(DEAR, measures={"price": DEAR.measures["cost"]})
    assert reasons_against([CHEAP, renamed]) == ["they have no figure in common"]


def curve(costs: tuple[float, ...]) -> tuple[SweepPoint, ...]:
    kept = (0.9, 0.97, 0.995)
    arrived = np.full((3, 2), 1000.0)
    return tuple(
        SweepPoint(
            float(number),
            Metric((1, 2, 3), arrived * share, arrived),
            Metric((1, 2, 3), np.full((3, 2), cost), np.ones((3, 2))),
        )
        for number, (share, cost) in enumerate(zip(kept, costs, strict=True))
    )


def test_sweeps_with_a_knob_are_compared_at_equal_attainment() -> None:
    cheap = subject("cheap", [[1.0, 2.0]] * 3, curve=curve((1.0, 2.0, 3.0)))
    dear = subject("dear", [[1.0, 2.0]] * 3, curve=curve((2.0, 4.0, 6.0)))
    found = side_by_side([cheap, dear], FEW)
    rows = {row.attainment: row for row in found.equal}
    first, second = rows[0.99].values
    assert first is not None
    assert first.value is not None
    assert second is not None
    assert second.value == pytest.approx(2 * first.value)
    [change] = rows[0.99].changes
    assert change is not None
    assert change.value == pytest.approx(first.value)
    assert change.p < 0.05


def test_an_attainment_that_one_does_not_reach_has_no_difference() -> None:
    cheap = subject("cheap", [[1.0, 2.0]] * 3, curve=curve((1.0, 2.0, 3.0)))
    found = side_by_side([cheap, cheap], FEW)
    rows = {row.attainment: row for row in found.equal}
    assert rows[0.999].values == (None, None)
    assert rows[0.999].changes == (None,)


@pytest.mark.parametrize(
    ("recorded", "days", "seeds", "expected"),
    [
        (True, 7, 3, Days.SHARED), (True, 1, 3, Days.SEEDS), (True, 1, 1, Days.SHARED), (False, 1, 3, Days.OWN),
    ],
    ids=["a recorded week", "a recorded day with seeds", "a recorded day", "generated days"],
)  # fmt: skip
def test_what_is_resampled_fits_what_the_seed_changes(recorded: bool, days: int, seeds: int, expected: Days) -> None:
    assert blocks_for(recorded=recorded, days=days, seeds=seeds) is expected
