"""Clients in a simulation leave, ask again and go on as their answers let them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from broker.model import wire
from broker.model.spec import ModelSpec
from simulator.checks.level import CheckLevel
from simulator.crowd import Crowd
from simulator.demand import demand_of_scenario
from simulator.ledger import ABANDONED, FINISHED
from simulator.report.summary import Outcomes, RunSummary
from tests.support.simulated import ELASTIC, SmallRun
from traces.clients import ClientRules, Ending
from traces.generate import LoadProfile
from traces.lengths import lognormal_quantiles
from traces.scenario import GeneratedSource, Load, Scenario
from traces.sessions import Script, SessionShape

FIXED = replace(ELASTIC, maximum=1)
ADDED = lognormal_quantiles(20, 0.3, 100)
PEOPLE = LoadProfile("people", "Chosen for tests.", 0, 1.0, ADDED, ADDED, 0.0)
TALKERS = replace(PEOPLE, sessions=SessionShape(turns=3.0, pause_median_s=2.0, pause_sigma=0.3, added=ADDED))


def scenario(rules: ClientRules, profile: LoadProfile = PEOPLE, rate_per_s: float = 8.0) -> Scenario:
    source = GeneratedSource(profile, rate_per_s, tenants={"physics": 1.0})
    return Scenario(30.0, (Load("chat", "people", source, rules),))


def run(asked: Scenario, model: ModelSpec = FIXED) -> tuple[RunSummary, Outcomes]:
    small = SmallRun(model=model, checks=CheckLevel.FULL)
    return small.simulation.run(demand_of_scenario(asked, seed=1)), small.simulation.outcomes


def test_clients_without_patience_leave_an_overloaded_service() -> None:
    summary, requests = run(scenario(ClientRules(patience_median_s=2.0, patience_sigma=0.0)))
    counted = summary.requests
    assert counted.abandoned > 20
    assert counted.finished + counted.abandoned == counted.sent
    left = requests.status == ABANDONED
    waited_s = (requests.end_s - requests.arrival_s)[left]
    assert np.all(np.isnan(requests.first_token_s[left]))
    assert np.all((waited_s > 2.0 - 1e-6) & (waited_s < 2.1 + 1e-6))
    served = requests.status == FINISHED
    assert np.all((requests.first_token_s - requests.arrival_s)[served] <= 2.1 + 1e-6)


def test_clients_who_ask_again_make_an_overload_worse() -> None:
    leaving, _ = run(scenario(ClientRules(patience_median_s=2.0)))
    asking, requests = run(scenario(ClientRules(patience_median_s=2.0, retries=3, retry_pause_s=0.5)))
    assert asking.requests.sent > leaving.requests.sent
    assert np.all(np.diff(requests.arrival_s) >= 0)
    assert requests.arrival_s[-1] < 30.0


def test_a_session_goes_on_only_after_its_answer() -> None:
    demand = demand_of_scenario(scenario(ClientRules(), TALKERS), seed=1)
    crowd = Crowd(demand.requests, demand.reacting, until_s=30.0)
    first, who = crowd.asked_before(5.0)
    assert len(first) == sum(script.first.sum() for script in scripts_until(5.0))
    crowd.sent(0, who)
    for row in crowd.open_rows:
        crowd.ended(row, Ending.ANSWERED, at_s=6.0, now_s=6.05)
    following, _ = crowd.asked_before(30.0)
    again = np.isin(following.session, first.session)
    assert again.any()
    assert np.all(following.arrival_s[again] > 6.05)


def scripts_until(end_s: float) -> list[Script]:
    (load,) = scenario(ClientRules(), TALKERS).reacting(seed=1)
    return [Script(s.block, s.first & (s.block.arrival_s < end_s), s.pause_s) for s in load.scripts]


def test_requests_that_nobody_waits_for_come_as_in_an_open_loop() -> None:
    calm = scenario(ClientRules())
    asked = replace(calm, loads=(*calm.loads, replace(calm.loads[0], name="busy", rules=ClientRules(2.0))))
    demand = demand_of_scenario(asked, seed=1)
    assert [load.name for load in demand.reacting] == ["busy"]
    small = SmallRun(model=FIXED)
    small.simulation.run(demand)
    alone = [request.arrival_s for request in calm.requests(seed=1)]
    both = np.round(small.simulation.outcomes.arrival_s, 4)
    assert np.isin(np.round(alone, 4), both).mean() > 0.99
    assert small.simulation.tenants == ("physics",)


def test_two_runs_of_the_same_clients_are_the_same_to_the_last_byte() -> None:
    asked = scenario(ClientRules(patience_median_s=3.0, retries=2))
    assert wire.dumps(run(asked)[0]) == wire.dumps(run(asked)[0])


def test_the_clients_are_the_same_whatever_the_policy_does() -> None:
    asked = scenario(ClientRules(patience_median_s=3.0, retries=2))
    (_, few), (_, many) = run(asked), run(asked, replace(ELASTIC, minimum=4))
    (load,) = asked.reacting(seed=1)
    openings = {round(question.at_s, 4) for question in load.clients.openings(load.scripts)}
    for requests in (few, many):
        assert openings <= set(np.round(requests.arrival_s, 4).tolist())


@pytest.mark.parametrize("rules", [ClientRules(), ClientRules(retries=1), ClientRules(patience_median_s=1.0)])
def test_a_load_reacts_if_its_rules_say_so(rules: ClientRules) -> None:
    assert scenario(rules).loads[0].reacts == (rules != ClientRules())
