"""Measurements that come late or not at all: the core holds, and the same seed is the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import wire
from broker.model.observation import GatewayReport
from broker.model.plan import Launch, Stop
from broker.model.reading import Freshness
from broker.model.signals import Signal
from broker.model.snapshot import ModelSnapshot
from simulator.run import run
from simulator.simulation import SimulationSettings
from tests.support.simulated import ELASTIC, SITE, SLOW_ENGINE, SmallRun, small_request, workloads
from traces.clients import ClientRules
from traces.conditions import PERFECT, MetricFaults
from traces.profiles import load_profile
from traces.scenario import GeneratedSource, Load, Scenario
from traces.schema import TraceRequest

BURST_THEN_CALM = [small_request(0.05 * n, output_tokens=40) for n in range(80)] + [
    small_request(60.0 + n) for n in range(9)
]
BLIND = MetricFaults(loss=1.0, report_loss=1.0)


def run_with(faults: MetricFaults, requests: Sequence[TraceRequest] = BURST_THEN_CALM, seed: int = 1) -> SmallRun:
    run = SmallRun(conditions={"metrics": faults, "seed": seed})
    assert run.run(requests).requests.finished == len(requests)
    return run


def steps(run: SmallRun) -> list[str]:
    return [wire.dumps(record) for record in run.store.steps]


def seen(run: SmallRun, kind: type[Any]) -> list[Any]:
    return [each for record in run.store.steps for each in record.observations if isinstance(each, kind)]


def effects(run: SmallRun, kind: type[Any]) -> list[Any]:
    return [each for record in run.store.steps for each in record.effects if isinstance(each, kind)]


def test_a_core_that_sees_nothing_holds_the_minimum_and_its_replica_serves() -> None:
    run = run_with(BLIND)
    assert len(effects(run, Launch)) == ELASTIC.minimum
    assert not effects(run, Stop)
    assert not seen(run, GatewayReport)


def test_a_scenario_tells_how_its_measurements_travel_unless_the_settings_do() -> None:
    people = Load("chat", "people", GeneratedSource(load_profile("azure2023_conv"), 3.0), ClientRules())
    asked = Scenario(30.0, (people,), metrics=BLIND)

    def peak(**settings: Any) -> int:
        more = SimulationSettings(tail_s=5.0, warm_up_s=5.0, **settings)
        return run(SITE, (ELASTIC,), asked, settings=more, profile_of=lambda launch: SLOW_ENGINE).summary.peak_ready

    assert peak() == ELASTIC.minimum
    assert peak(metrics=PERFECT) > ELASTIC.minimum


def test_a_core_that_goes_blind_scales_nothing_in_however_calm_it_becomes() -> None:
    sighted = run_with(PERFECT)
    assert effects(sighted, Stop)
    # Of this seed the outage begins 3.4 s into the burst; it lasts to the end.
    blinded = run_with(MetricFaults(outage_every_s=20.0, outage_s=1e9), seed=42)
    assert len(effects(blinded, Launch)) > ELASTIC.minimum
    assert not effects(blinded, Stop)
    last = seen(blinded, ModelSnapshot)[-1]
    assert last.readings[Signal.REQUESTS_PER_REPLICA].freshness is Freshness.STALE


def test_loss_and_delay_change_what_is_seen_and_not_what_the_same_seed_decides() -> None:
    faults = MetricFaults(loss=0.3, report_loss=0.2, delay_s=0.5, outage_every_s=30.0, outage_s=5.0)
    first, again, other = run_with(faults), run_with(faults), run_with(faults, seed=2)
    assert steps(first) == steps(again)
    assert steps(first) != steps(other)
    assert steps(first) != steps(run_with(PERFECT))


def test_a_delayed_report_is_seen_as_late_as_it_came_and_as_old_as_it_is() -> None:
    run = run_with(MetricFaults(delay_s=2.0, delay_sigma=0.0))
    ages = {round(report.received_at - report.observed_at, 6) for report in seen(run, GatewayReport)}
    assert ages == {2.0}
    late = {round(snapshot.received_at - snapshot.observed_at, 6) for snapshot in seen(run, ModelSnapshot)}
    assert max(late) < 2.0, "snapshots are of the present, whatever they know"


@settings(max_examples=15)
@given(workloads(most=30), st.floats(0.0, 1.0), st.floats(0.0, 8.0), st.integers(0, 2**32))
def test_whatever_is_lost_or_late_every_request_is_served_and_no_drain_cuts_one(
    requests: list[TraceRequest], loss: float, delay_s: float, seed: int
) -> None:
    run_with(MetricFaults(loss=loss, report_loss=loss, delay_s=delay_s, outage_every_s=20.0), requests, seed)
