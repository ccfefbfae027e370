"""The cheapest that keeps the goal is first, what misses it is below, and only whole seeds count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from simulator.statistics import Days, Resampling
from simulator.sweep.cells import Candidate, CellResult
from simulator.sweep.design import Setting
from simulator.sweep.ranking import Goal, RankBy, Ranked, Results, curves, families, pareto_front, rank
from tests.unit.sweep.runs import candidate, result

GOAL = Goal(0.95, 0.9)
FEW = Resampling(resamples=200)


def ranked(runs: Sequence[CellResult], by: RankBy = RankBy.COST, seeds: Sequence[int] = (1,)) -> list[Ranked]:
    return rank(Results(runs, seeds), ["calm"], [], GOAL, FEW, by)


def order(runs: Sequence[CellResult], by: RankBy = RankBy.COST) -> list[str]:
    return [row.candidate.policy for row in ranked(runs, by)]


CHEAP = result(candidate("cheap"), kept=[96.0], cost=5.0)
CAREFUL = result(candidate("careful"), kept=[100.0], cost=20.0)
MISSES = result(candidate("misses"), kept=[94.0], cost=1.0)
BAD_HOUR = result(candidate("bad hour"), kept=[99.0], cost=2.0, worst=0.5)
MISSES_MORE = result(candidate("misses more"), kept=[50.0], cost=0.5)


def test_those_that_keep_the_goal_come_first_by_cost_and_the_others_by_how_near_they_are() -> None:
    runs = [MISSES_MORE, CAREFUL, BAD_HOUR, MISSES, CHEAP]
    assert order(runs) == ["cheap", "careful", "bad hour", "misses", "misses more"]


def test_another_figure_orders_within_those_that_keep_the_goal_only() -> None:
    assert order([MISSES, CHEAP, CAREFUL], RankBy.ATTAINMENT) == ["careful", "cheap", "misses"]


def test_the_worst_hour_is_a_constraint_and_not_a_footnote() -> None:
    [row] = ranked([BAD_HOUR])
    assert row.standing.attainment.value == 0.99
    assert not row.keeps


def test_where_no_run_lasts_an_hour_the_goals_worst_hour_is_not_judged() -> None:
    short = result(candidate("short"), seed=1, kept=[99.0], worst=None)
    [row] = ranked([short])
    assert row.standing.worst_hour is None
    assert row.keeps
    assert [row.candidate.policy for row in ranked([short, CHEAP], RankBy.WORST_HOUR)] == ["cheap", "short"]
    [missed] = ranked([result(candidate("short"), kept=[94.0], worst=None)])
    assert not missed.keeps, "the share of all arrivals is judged all the same"


def test_what_costs_less_in_another_world_beats_nothing() -> None:
    """A run whose prompts are cached by half is cheaper whatever it does."""

    def under(share: float, policy: str) -> Candidate:
        return Candidate(policy, (Setting("run.cached_share", share), Setting("run.routing", "round-robin")))

    runs = [result(under(0.0, "a"), cost=10.0), result(under(0.0, "b"), cost=11.0), result(under(0.5, "a"), cost=5.0)]
    fronts = {(row.candidate.policy, row.candidate.world[0].value): row.pareto for row in ranked(runs)}
    assert fronts == {("a", 0.0): True, ("b", 0.0): False, ("a", 0.5): True}


def test_equals_stay_in_the_order_of_the_sweep() -> None:
    twins = [result(candidate(name)) for name in ("b", "a", "c")]
    assert order(twins) == ["b", "a", "c"]


def test_the_order_hangs_on_what_was_tuned_on_alone() -> None:
    runs = [CHEAP, CAREFUL]
    runs += [result(candidate("cheap"), demand="held out", kept=[0.0], cost=99.0)]
    runs += [result(candidate("careful"), demand="held out", cost=3.0)]
    rows = rank(Results(runs, [1]), ["calm"], ["held out"], GOAL, FEW)
    assert [row.candidate.policy for row in rows] == ["cheap", "careful"]
    assert rows[0].held_out is not None
    assert rows[0].held_out.cost.value == 99.0


def test_figures_are_over_the_seeds_of_which_no_run_failed() -> None:
    who = candidate("unlucky")
    runs = [result(who, seed=1, cost=10.0), result(who, seed=3, cost=20.0)]
    [row] = ranked(runs, seeds=(1, 2, 3))
    assert row.missing == 1
    assert row.standing.cost.n == 2
    assert row.standing.cost.value == 15.0


def test_a_seed_counts_only_if_all_demands_were_run() -> None:
    who = candidate("half")
    results = Results([result(who, seed=1), result(who, seed=1, demand="bursts"), result(who, seed=2)], [1, 2])
    assert results.whole_seeds(who, ["calm", "bursts"]) == (1,)
    assert rank(Results([result(who)], [1]), ["calm", "bursts"], [], GOAL, FEW) == []


def test_seeds_that_gave_the_same_run_are_one_block() -> None:
    """A replay without a cluster: every interval had no width."""
    who, other = candidate("replayed"), candidate("other")
    runs = [result(one, seed=seed) for one in (who, other) for seed in (1, 2, 3) if (one, seed) != (other, 1)]
    whole_seeds = replace(FEW, days=Days.SEEDS)
    for row in rank(Results(runs, (1, 2, 3)), ["calm"], [], GOAL, whole_seeds):
        assert (row.standing.cost.n, row.standing.cost.blocks, row.standing.cost.low) == (1, 1, -math.inf)
        assert row.missing == (row.candidate == other)
    drawn = [*runs, result(candidate("drawn"), seed=1), result(candidate("drawn"), seed=2, cost=11.0)]
    assert Results(drawn, (1, 2, 3)).told_apart(["calm"]).seeds == (1, 2)


def test_days_of_several_demands_stand_side_by_side() -> None:
    who = candidate("both")
    results = Results([result(who, kept=[1.0, 2.0]), result(who, demand="bursts", kept=[3.0])], [1])
    metrics = results.metrics(who, ["calm", "bursts"])
    assert metrics is not None
    assert metrics[0].numerator.tolist() == [[1.0, 2.0, 3.0]]
    assert results.days(["calm", "bursts"]) == 3


costs = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=12))
def test_nobody_beats_those_on_the_front_and_somebody_beats_all_others(points: list[tuple[float, float]]) -> None:
    named = {candidate(str(number)): point for number, point in enumerate(points)}
    front = pareto_front(named)

    def beaten(one: Candidate) -> bool:
        cost, kept = named[one]
        return any((c <= cost and k >= kept and (c, k) != (cost, kept)) for c, k in named.values())

    assert front == {one for one in named if not beaten(one)}


def test_settings_of_one_knob_make_a_curve_and_a_single_one_does_not() -> None:
    runs = [
        result(candidate("rules", knob), seed=seed, kept=[kept], cost=cost)
        for knob, kept, cost in ((1.0, 99.9, 20.0), (5.0, 97.0, 10.0), (9.0, 90.0, 5.0))
        for seed in (1, 2)
    ]
    runs += [result(candidate("alone", 1.0), seed=seed) for seed in (1, 2)]
    results = Results(runs, [1, 2])
    assert [len(members) for members in families(results).values()] == [3, 1]
    [curve] = curves(results, ["calm"], FEW)
    assert curve.policy == "rules"
    costs_at = {at.attainment: None if at.cost is None else at.cost.value for at in curve.costs}
    assert costs_at[0.95] is not None
    assert 5.0 < costs_at[0.95] < 10.0
    assert costs_at[0.999] is None, "two hundred requests cannot show so much"
