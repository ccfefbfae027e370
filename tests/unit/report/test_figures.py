"""Figures of hand-made runs of several days: by day, with intervals, by model, tenant and prompt length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from broker.model.plan import Decision
from broker.model.replica import ReplicaPhase, Tier
from broker.model.spec import (
    EngineSpec,
    LongerPrompts,
    ModelSpec,
    PolicySpec,
    PoolSpec,
    ServiceObjective,
    SiteSpec,
)
from simulator.profiles.document import load_profile
from simulator.report.compose import Source, compose
from simulator.report.document import QUANTILES, AttainmentRow, RunReport, dumps, loads, quantile_of
from simulator.report.facts import Facts
from simulator.report.figures import spread_of
from simulator.report.gpu_hours import PhaseInterval
from simulator.report.page import page_of
from simulator.report.recorder import BusyTime, Recorded, ReplicaInterval
from simulator.report.summary import OUTCOMES, Outcome, Outcomes

DAY_S = 86_400.0
PROFILE = "h100-mistral-nemo-12b"
SLO = ServiceObjective(1.0, 0.1, (LongerPrompts(1000, 5.0),))


def model(model_id: str) -> ModelSpec:
    return ModelSpec(model_id, EngineSpec(("serve",), profile=PROFILE), PolicySpec("threshold"), slo=SLO)


def facts(*, days: int = 4, models: int = 2, tiers: tuple[Tier, ...] = (Tier.BASELINE,), requests: int = 400) -> Facts:
    """Requests at a steady rate, every second one with a long prompt; a fourth of the short ones comes too late. Each
    model has a replica of one GPU from the first second to the last, busy half of the time, in a pool of 4."""
    names = tuple(f"model-{number}" for number in range(models))
    arrival_s = np.linspace(0.0, days * DAY_S - 60.0, requests)
    row = np.arange(requests)
    prompts = np.where(row % 2 == 0, 100, 2000)
    # The share that is late differs between days, or no interval would have a width.
    late = (row % 8 == 0) & (arrival_s % (2 * DAY_S) < 1.5 * DAY_S)
    first_token_s = arrival_s + np.where(late, 2.0, 0.5)
    outcomes = Outcomes(
        arrival_s=arrival_s, first_token_s=first_token_s, end_s=first_token_s + 0.45, prompt_tokens=prompts,
        output_tokens=np.full(requests, 10), answer_tokens=np.full(requests, 10),
        status=np.full(requests, OUTCOMES.index(Outcome.FINISHED)), model=(row % models).astype(np.int16),
        tenant=np.where(row % 5 == 0, -1, row % 2).astype(np.int16), token_gaps_s=np.full(requests, 0.05),
        token_gap_counts=np.full(requests, 9),
    )  # fmt: skip
    end_s = days * DAY_S
    replicas = tuple(
        ReplicaInterval(
            f"{name}-0-g1", name, Tier.BASELINE,
            PhaseInterval("pool", ReplicaPhase.READY, day * DAY_S, (day + 1) * DAY_S, 1, DAY_S / 2),
        )
        for name in names
        for day in range(days)
    )  # fmt: skip
    busy = BusyTime(np.array([0.0, end_s]), {(name, "pool"): np.array([0.0, end_s / 2]) for name in names})
    recorded = Recorded(
        SiteSpec("hpc", (PoolSpec("pool", "simulated", 4, tiers=tiers),)), tuple(map(model, names)), 0.0, end_s,
        replicas, busy, dict.fromkeys(names, load_profile(PROFILE).engine),
    )  # fmt: skip
    decisions: tuple[Decision, ...] = ()
    return Facts(outcomes, names, ("physics", "library"), recorded, decisions, 1_700_000_000.0, end_s)


def told(of: Facts | None = None) -> RunReport:
    return compose(of or facts(), Source("0.1.0", 3, dated=True))


def rows(report: RunReport, kind: str) -> dict[str, AttainmentRow]:
    return {row.name: row for row in report.attainment if row.kind == kind}


def test_days_are_blocks_and_give_an_interval_around_the_figure() -> None:
    figure = told().figure("attainment")
    assert figure is not None
    assert (len(figure.numerator), figure.interval.blocks, figure.interval.n) == (4, 4, 1)
    assert figure.value is not None
    assert figure.interval.low is not None
    assert figure.interval.high is not None
    assert figure.interval.low < figure.value < figure.interval.high


@pytest.mark.parametrize("what", ["ttft", "tpot", "end_to_end"])
def test_quantiles_have_intervals_around_them_and_can_be_had_from_the_document(what: str) -> None:
    report = loads(dumps(told()))
    row = next(row for row in report.latencies if (row.what, row.model_id) == (what, ""))
    assert set(row.intervals) == set(QUANTILES)
    for name, of in row.intervals.items():
        value = getattr(row.latency, name)
        assert (of.n, of.blocks) == (1, 4)
        assert of.low is not None
        assert of.high is not None
        assert of.low <= value * (1 + 1e-9)
        assert of.high >= value * (1 - 1e-9)
        assert quantile_of([row.latency], [row.by_day], name, (3,)).value == pytest.approx(value)
    assert sum(sum(day.counts) for day in row.by_day) == row.latency.count


@pytest.mark.parametrize("models", [1, 2])
def test_a_printed_run_has_the_intervals_of_its_report(models: int) -> None:
    """A terminal showed quantiles of which nobody knew how sure they were, where the page said it."""
    of = facts(models=models)
    spread = spread_of(of, 3)
    assert spread.words == "n = 1 seed (3), 4 day blocks; 95% intervals by bootstrap over days, resampling seed 1"
    report = {(row.what, row.model_id): row.intervals for row in told(of).latencies}
    whole = "" if models > 1 else "model-0"
    assert spread.intervals == {
        "time_to_first_token": report["ttft", whole], "end_to_end": report["end_to_end", whole],
    }  # fmt: skip


def test_a_printed_run_of_one_day_says_that_nothing_is_known_of_its_spread() -> None:
    spread = spread_of(facts(days=1), 3)
    assert spread.words == "n = 1 seed (3), 1 day block, of which no spread is known: no intervals"
    assert not spread.intervals


@pytest.mark.parametrize(
    ("last_s", "duration_s", "lengths"),
    [
        (DAY_S - 1.0, DAY_S + 60.0, (1 + 60 / DAY_S,)),
        (1.4 * DAY_S, 1.4 * DAY_S + 60.0, (1.4 + 60 / DAY_S,)),
        (1.6 * DAY_S, 1.6 * DAY_S + 60.0, (1.0, 0.6 + 60 / DAY_S)),
    ],
    ids=["a day and its tail", "a day and less than half", "a day and more than half"],
)
def test_what_is_no_day_is_no_block(last_s: float, duration_s: float, lengths: tuple[float, ...]) -> None:
    """The minute after a day's load was a second block: the interval said that two days agree."""
    of = facts(days=2)
    arrival_s = of.outcomes.arrival_s * (last_s / of.outcomes.arrival_s[-1])
    report = told(replace(of, outcomes=replace(of.outcomes, arrival_s=arrival_s), duration_s=duration_s))
    figure = report.figure("gpu_hours_a_day")
    assert figure is not None
    assert figure.denominator == pytest.approx(lengths)
    assert (figure.interval.low is None) == (len(lengths) == 1)
    assert len(report.latencies[0].by_day) == figure.interval.blocks == len(lengths)


def test_what_the_terminal_tells_of_a_run_stands_in_its_document_and_on_its_page() -> None:
    report = told(replace(facts(), notes=("log.swf: 3 rows left out",), problems=("a step failed",), drained_s=90.0))
    assert report.notes[:2] == (
        "log.swf: 3 rows left out.",
        "Requests were still open when load and tail had ended: the run went on for 1m30s.",
    )
    assert report.problems == ("a step failed",)
    assert loads(dumps(report)) == report


def test_a_day_that_is_not_whole_counts_for_as_long_as_it_was() -> None:
    whole = facts(days=2)
    figure = told(Facts(
        whole.outcomes, whole.models, whole.tenants, whole.recorded, (), whole.started_at, 1.5 * DAY_S + 0.25 * DAY_S
    )).figure("gpu_hours_a_day")  # fmt: skip
    assert figure is not None
    assert figure.denominator == (1.0, 0.75)


def test_the_rate_of_requests_is_that_of_their_arrivals_however_long_the_last_ones_take() -> None:
    whole = facts(days=2)
    late = replace(whole, duration_s=3.5 * DAY_S)
    for of in (whole, late):
        figure = told(of).figure("requests")
        assert figure is not None
        assert figure.value == pytest.approx(400 / (2 * DAY_S - 60.0))


def test_shares_are_told_by_class_tenant_and_prompt_length_and_add_up() -> None:
    report = told()
    overall = rows(report, "overall")[""]
    for kind in ("class", "tenant", "prompt length"):
        parts = rows(report, kind)
        assert sum(row.arrivals for row in parts.values()) == overall.arrivals == 400
        assert sum(row.kept for row in parts.values()) == overall.kept
    assert set(rows(report, "tenant")) == {"(none)", "physics", "library"}
    assert rows(report, "prompt length")["model-0, over 1000 tokens"].arrivals == 0
    assert rows(report, "prompt length")["model-1, over 1000 tokens"].value == 1.0


def test_many_tenants_are_told_by_name_as_far_as_they_ask_most() -> None:
    many = facts(models=1)
    names = tuple(f"tenant {number}" for number in range(300))
    outcomes = many.outcomes
    tenant = np.minimum(np.arange(len(outcomes)), 299).astype(np.int16)
    columns = {name: getattr(outcomes, name) for name in Outcomes.__slots__} | {"tenant": tenant}
    report = told(Facts(Outcomes(**columns), many.models, names, many.recorded, (), 0.0, many.duration_s))
    found = rows(report, "tenant")
    assert len(found) == 101
    assert found["tenant 299"].arrivals == 101
    assert found["(200 others)"].arrivals == 200


@pytest.mark.parametrize(("tiers", "withheld"), [((Tier.BASELINE,), 2 * 96.0), ((Tier.BASELINE, Tier.ELASTIC), 0.0)])
def test_what_a_dedicated_pool_holds_beyond_use_is_withheld(tiers: tuple[Tier, ...], withheld: float) -> None:
    report = told(facts(tiers=tiers))
    whole = report.gpu_hours[0]
    assert (whole.busy, whole.idle, whole.withheld) == pytest.approx((96.0, 96.0, withheld))
    line = next(one for one in report.series if one.labels.get("part") == "withheld")
    assert set(line.values) == {withheld / 96.0}
    assert {value for one in report.series if one.labels.get("part") == "busy" for value in one.values} == {1.0}


def with_warm_up_and_an_idle_model(of: Facts) -> Facts:
    """Everything was there two minutes before second 0, and so was a model that nobody asks, on a GPU all along."""
    begin_s = -120.0
    idle = [
        ReplicaInterval(
            "embed-0-g1", "embed", Tier.BASELINE, PhaseInterval("pool", ReplicaPhase.READY, since, until, 1)
        )
        for since, until in ((begin_s, 0.0), (0.0, of.duration_s))
    ]
    warming = [
        replace(one, interval=replace(one.interval, begin_s=begin_s, end_s=0.0, busy_s=0.0))
        for one in of.recorded.replicas
        if one.interval.begin_s == 0.0
    ]
    recorded = replace(
        of.recorded, begin_s=begin_s, models=(*of.recorded.models, model("embed")),
        replicas=(*warming, *of.recorded.replicas, *idle),
    )  # fmt: skip
    return replace(of, recorded=recorded)


def test_no_model_is_busier_than_its_own_gpus_though_another_stands_idle() -> None:
    of = facts()
    seconds = {("model-0", "pool"): np.array([0.0, 1.01 * of.duration_s]), ("model-1", "pool"): np.zeros(2)}
    busy = replace(of.recorded.busy, seconds=seconds)
    report = told(replace(of, recorded=replace(of.recorded, busy=busy)))
    assert {value for one in report.series if one.labels.get("part") == "busy" for value in one.values} == {1.0}


@pytest.mark.parametrize(
    ("duration_s", "kinds"),
    [(200.0, set()), (1800.0, {"worst five minutes"}), (3660.0, {"worst five minutes", "worst hour"})],
    ids=["three minutes", "half an hour", "an hour"],
)
def test_a_run_shorter_than_the_stretch_has_no_worst_one(duration_s: float, kinds: set[str]) -> None:
    report = told(replace(facts(days=1), duration_s=duration_s))
    assert {row.kind for row in report.attainment if row.kind.startswith("worst")} == kinds


ELASTIC_TOO = (Tier.BASELINE, Tier.ELASTIC)


def test_rates_are_no_more_than_the_gpus_can_give_since_the_warm_up_is_told_apart() -> None:
    before, after = told(facts(tiers=ELASTIC_TOO)), told(with_warm_up_and_an_idle_model(facts(tiers=ELASTIC_TOO)))
    for name in ("gpu_hours_a_day", "goodput_per_gpu", "gpu_s_per_request", "idle_gpu_hours_a_day"):
        one, other = before.figure(name), after.figure(name)
        assert one is not None
        assert other is not None
        assert other.value == pytest.approx(one.value)
    (warm_up,) = [row for row in after.gpu_hours if row.kind == "warm_up"]
    assert warm_up.total == pytest.approx(3 * 120 / 3600)


def test_a_model_that_nobody_asked_is_in_the_total_and_by_name_but_in_no_figure_of_what_was_asked() -> None:
    report = told(with_warm_up_and_an_idle_model(facts(tiers=ELASTIC_TOO)))
    hours = {(row.kind, row.model_id): row.total for row in report.gpu_hours}
    assert hours["all", ""] == pytest.approx(3 * 96.0)
    assert hours["model", "embed"] == pytest.approx(96.0)
    assert hours["asked", ""] == pytest.approx(2 * 96.0)
    whole, idle = report.figure("gpu_hours_a_day"), report.figure("gpu_hours_a_day", "embed")
    assert whole is not None
    assert idle is not None
    assert (whole.value, idle.value) == pytest.approx((48.0, 24.0))
    assert report.figure("attainment", "embed") is None


@pytest.mark.parametrize("tiers", [(Tier.BASELINE,), ELASTIC_TOO], ids=["dedicated", "shared"])
def test_models_and_what_belongs_to_none_add_up_to_all(tiers: tuple[Tier, ...]) -> None:
    report = told(with_warm_up_and_an_idle_model(facts(tiers=tiers)))
    for part in ("busy", "idle", "starting", "draining", "withheld", "total"):
        of = [getattr(row, part) for row in report.gpu_hours if row.kind in ("model", "none")]
        assert sum(of) == pytest.approx(getattr(report.gpu_hours[0], part))
    (unused,) = [row for row in report.gpu_hours if row.kind == "none"]
    assert unused.total == unused.withheld == pytest.approx(96.0 if tiers == (Tier.BASELINE,) else 0.0)


def test_gpus_count_by_the_weight_of_their_pool() -> None:
    of = facts()
    heavy = replace(of.recorded.site.pools[0], options={"gpu_weight": 2.0})
    replicas = tuple(replace(one, interval=replace(one.interval, gpu_weight=2.0)) for one in of.recorded.replicas)
    recorded = replace(of.recorded, site=SiteSpec("hpc", (heavy,)), replicas=replicas)
    before, after = told(of), told(replace(of, recorded=recorded))
    assert after.gpu_hours[0].total == pytest.approx(2 * before.gpu_hours[0].total)
    for light, double in zip(before.series, after.series, strict=True):
        if light.name == "gpus":
            assert double.values == tuple(2 * (value or 0.0) for value in light.values)


def test_lengths_beyond_what_was_measured_mark_what_rests_on_them() -> None:
    report = told()
    marked = {figure.name for figure in report.figures if figure.extrapolated}
    assert {"attainment", "ttft_mean", "gpu_s_per_request"} <= marked
    assert not {"requests", "gpu_hours_a_day", "busy_gpu_hours_a_day", "target_changes_a_day"} & marked
    assert any("extrapolated" in note for note in report.notes)
    assert report.run.profiles[0].extrapolated


def test_a_page_of_a_month_of_many_models_stays_small() -> None:
    report = told(facts(days=28, models=64, requests=20_000))
    assert loads(dumps(report)) == report
    assert report.grid.bins * len(report.series) < 200_000
    assert len(page_of(report)) < 1_500_000
