"""What a trace says of shared prefixes reaches the replicas, each with a cache of its own; routing decides who hits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from broker.model import wire
from broker.model.spec import ModelSpec
from simulator.demand import demand_of_scenario
from simulator.engine.routing import Routing
from simulator.report.summary import RunSummary
from tests.support.simulated import ELASTIC, SmallRun, small_request
from traces.clients import ClientRules
from traces.generate import LoadProfile, generate
from traces.lengths import lognormal_quantiles
from traces.profiles import load_profile
from traces.rates import steady
from traces.scenario import GeneratedSource, Load, Scenario
from traces.schema import Requests, TraceRequest, as_requests
from traces.sessions import SessionShape

FOUR = replace(ELASTIC, minimum=4, maximum=4)
CONVERSATION = [
    TraceRequest(0.0, 64, 20, prefix_group=2**60, prefix_tokens=0),
    TraceRequest(20.0, 148, 20, prefix_group=2**60, prefix_tokens=84),
    TraceRequest(40.0, 232, 20, prefix_group=2**60, prefix_tokens=168),
]


def profile() -> LoadProfile:
    """Sessions of five requests on average, whose prompts repeat what was said."""
    shape = SessionShape(5.0, 4.0, 0.5, lognormal_quantiles(60.0, 0.5, 2_000), longest_tokens=4_000)
    return replace(
        load_profile("azure2023_conv"), sessions=shape, prompt=lognormal_quantiles(200.0, 0.5, 1_000),
        output=lognormal_quantiles(30.0, 0.5, 200),
    )  # fmt: skip


def conversations() -> Requests:
    return generate(profile(), steady(2.0, 240.0), seed=3)


def summary_of(requests: Iterable[TraceRequest], model: ModelSpec = ELASTIC, **conditions: object) -> RunSummary:
    return SmallRun(model=model, conditions=conditions).run(requests)


def test_a_conversation_computes_again_only_what_is_new() -> None:
    """Blocks of 16: of 64 + 20 tokens 80 are found, then 160 of 148 + 20; an answer's last token is in no cache."""
    assert summary_of(CONVERSATION).cached_tokens == 80 + 160


def test_a_trace_that_tells_no_prefixes_finds_none() -> None:
    alone = [replace(request, prefix_group=None, prefix_tokens=0) for request in CONVERSATION]
    assert summary_of(alone).cached_tokens == 0


def test_caches_are_the_replicas_own() -> None:
    """Round-robin over four replicas: the three requests of a conversation find nothing."""
    assert summary_of(CONVERSATION, FOUR, routing=Routing.ROUND_ROBIN).cached_tokens == 0
    assert summary_of(CONVERSATION, FOUR, routing=Routing.PREFIX_AFFINE).cached_tokens == 240


def test_prefix_affine_routing_finds_more_than_the_others_and_answers_sooner() -> None:
    found = {rule: summary_of(conversations(), FOUR, routing=rule) for rule in Routing}
    assert len({summary.requests.finished for summary in found.values()}) == 1
    cached = {rule: summary.cached_tokens / summary.prompt_tokens for rule, summary in found.items()}
    assert cached[Routing.PREFIX_AFFINE] > 1.5 * cached[Routing.ROUND_ROBIN]
    assert cached[Routing.PREFIX_AFFINE] > cached[Routing.LEAST_LOADED]
    first_token_s = {rule: summary.time_to_first_token.mean_s or 0.0 for rule, summary in found.items()}
    assert first_token_s[Routing.PREFIX_AFFINE] < first_token_s[Routing.ROUND_ROBIN]


@pytest.mark.parametrize("rule", Routing)
def test_the_same_sessions_are_the_same_run_whatever_blocks_they_come_in(rule: Routing) -> None:
    whole = conversations()
    rows = list(whole)
    parted = Requests(lambda: (next(as_requests(rows[n : n + 37]).blocks()) for n in range(0, len(rows), 37)))
    runs = [summary_of(requests, routing=rule) for requests in (whole, parted)]
    assert wire.dumps(runs[0]) == wire.dumps(runs[1])


def test_clients_who_wait_for_their_answers_find_them_in_the_cache() -> None:
    loads = tuple(Load("chat", name, GeneratedSource(profile(), 0.5), ClientRules()) for name in ("people", "others"))
    run = SmallRun(model=FOUR, conditions={"routing": Routing.PREFIX_AFFINE})
    summary = run.simulation.run(demand_of_scenario(Scenario(60.0, loads), seed=1))
    assert summary.requests.finished == summary.requests.sent > 30
    assert summary.cached_tokens > 0.4 * summary.prompt_tokens


def test_outcomes_tell_what_could_be_found_at_most() -> None:
    """What the oracle may leave out: its bound must hold for a run whose caches were perfect."""
    run = SmallRun()
    run.run([*CONVERSATION, small_request(60.0)])
    assert run.simulation.outcomes.shared_tokens is not None
    assert run.simulation.outcomes.shared_tokens.tolist() == [0, 84, 168, 0]
    alone = SmallRun()
    alone.run([small_request(0.0)])
    assert alone.simulation.outcomes.shared_tokens is None


def test_a_share_holds_for_requests_whose_trace_tells_nothing_else() -> None:
    alone = [small_request(2.0 * n, prompt_tokens=100) for n in range(10)]
    assert summary_of(alone, cached_share=0.25).cached_tokens == 250
    assert summary_of(alone, cached_share=1.0).cached_tokens == 990, "one token of each prompt is computed"
    assert summary_of(CONVERSATION, cached_share=0.5).cached_tokens == 240, "the trace knows better"


def test_a_request_that_is_routed_again_finds_what_the_other_replica_holds() -> None:
    """Its group goes with it: what it shares is a fact of the request, not of the first attempt."""
    run = SmallRun(warm_up_s=0.0)
    held = run.run([replace(request, arrival_s=0.001 * n) for n, request in enumerate(CONVERSATION)])
    assert held.requests.finished == 3
    assert held.cached_tokens > 0
