"""The simulator called from Python gives what the command prints, and every request's times."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from broker.model import wire
from broker.model.errors import ConfigError
from broker.model.replica import ReplicaPhase
from simulator.report.summary import RunSummary
from simulator.run import run
from simulator.simulation import SimulationSettings
from tests.support.simulated import ELASTIC, SITE, SLOW_ENGINE, SmallRun, small_request
from traces.schema import TraceRequest

REQUESTS = [small_request(0.2 * n, output_tokens=n + 1) for n in range(30)]


def test_a_report_is_the_summary_and_every_requests_times() -> None:
    settings = SimulationSettings(tail_s=30.0, warm_up_s=5.0)
    failed = TraceRequest(6.0, 50, 0, failed=True)
    report = run(SITE, (ELASTIC,), [*REQUESTS, failed], settings=settings, profile_of=lambda launch: SLOW_ENGINE)
    assert wire.dumps(report.summary) == wire.dumps(SmallRun().run(REQUESTS))
    found = report.requests
    assert len(found) == len(REQUESTS)
    assert np.allclose(found.arrival_s, [request.arrival_s for request in REQUESTS])
    assert np.all((found.arrival_s < found.first_token_s) & (found.first_token_s <= found.end_s))
    assert found.output_tokens.tolist() == [request.output_tokens for request in REQUESTS]
    assert report.summary.end_to_end.max_s == float(np.max(found.end_s - found.arrival_s))


def test_requests_that_no_cache_could_hold_are_told_with_the_reason() -> None:
    """They were counted as rejected, and nothing said why: neither the summary nor its problems."""
    settings = SimulationSettings(tail_s=30.0, warm_up_s=5.0)
    long = [small_request(6.0 + n, prompt_tokens=40_000) for n in range(3)]
    models = (ELASTIC, replace(ELASTIC, model_id="code"))
    load = {"chat": [*REQUESTS, *long], "code": REQUESTS}
    report = run(SITE, models, load, settings=settings, profile_of=lambda launch: SLOW_ENGINE)
    assert report.summary.requests.rejected == 3
    assert report.summary.notes == (
        "3 of 33 requests for chat rejected: longer than the engine's KV cache of 32,768 tokens (profile slow); "
        "the longest has 40,020, prompt and answer together",
    )
    assert not report.summary.problems


@pytest.mark.parametrize(
    ("minimum", "warm_up_s", "notes"),
    [
        (2, 5.0, ()),
        (0, 0.0, ()),
        (
            2, 0.0,
            (
                "0 of the 2 replicas of chat's min were ready when the load began: what came first met starts, which a "
                "warm-up longer than 0s keeps out of the figures",
            ),
        ),
    ],
    ids=["warmed up", "no replica is promised", "cold"],
)  # fmt: skip
def test_a_load_that_comes_before_its_first_replicas_is_noted(
    minimum: int, warm_up_s: float, notes: tuple[str, ...]
) -> None:
    settings = SimulationSettings(tail_s=30.0, warm_up_s=warm_up_s)
    models = (replace(ELASTIC, minimum=minimum), replace(ELASTIC, model_id="idle"))
    report = run(SITE, models, {"chat": REQUESTS}, settings=settings, profile_of=lambda launch: SLOW_ENGINE)
    assert report.summary.notes == notes


def test_several_models_are_asked_side_by_side_and_told_apart() -> None:
    settings = SimulationSettings(tail_s=30.0, warm_up_s=5.0)
    models = (ELASTIC, replace(ELASTIC, model_id="code"), replace(ELASTIC, model_id="idle"))
    site = replace(SITE, pools=(replace(SITE.pools[0], gpus=12),))
    code = [small_request(0.05 + 0.5 * n, prompt_tokens=70) for n in range(20)]
    report = run(
        site, models, {"chat": REQUESTS, "code": code}, settings=settings, profile_of=lambda launch: SLOW_ENGINE
    )
    summary, found = report.summary, report.requests
    assert np.all(np.diff(found.arrival_s) >= 0)
    asked = np.array(report.models)[found.model]
    assert np.allclose(found.arrival_s[asked == "code"], [request.arrival_s for request in code])
    assert set(found.prompt_tokens[asked == "code"].tolist()) == {70}
    assert {name: figures.requests.sent for name, figures in summary.models.items()} == {"chat": 30, "code": 20}
    assert summary.requests.sent == summary.requests.finished == 50
    assert summary.output_tokens == sum(figures.output_tokens for figures in summary.models.values())
    seconds = [figures.replica_seconds[ReplicaPhase.READY] for figures in summary.models.values()]
    assert summary.replica_seconds[ReplicaPhase.READY] == pytest.approx(sum(seconds))
    assert wire.decode(RunSummary, json.loads(json.dumps(wire.encode(summary)))) == summary


def test_a_run_that_outlasts_its_tail_says_for_how_long_and_who_stood_idle() -> None:
    settings = SimulationSettings(tail_s=1.0, warm_up_s=5.0)
    models = (ELASTIC, replace(ELASTIC, model_id="idle", minimum=2))
    load = [small_request(0.0, output_tokens=400)]
    summary = run(SITE, models, load, settings=settings, profile_of=lambda launch: SLOW_ENGINE).summary
    assert summary.drained_s == pytest.approx(summary.duration_s - 1.0)
    assert summary.drained_s > 1.0
    assert summary.not_asked == {"idle": 2}


def test_a_model_behaves_alone_as_it_does_beside_others() -> None:
    settings = SimulationSettings(tail_s=30.0, warm_up_s=5.0)
    models = (ELASTIC, replace(ELASTIC, model_id="code"))
    site = replace(SITE, pools=(replace(SITE.pools[0], gpus=12),))
    whole, chat, code = (
        run(site, models, trace, settings=settings, profile_of=lambda launch: SLOW_ENGINE)
        for trace in ({"chat": REQUESTS, "code": REQUESTS}, {"chat": REQUESTS}, {"code": REQUESTS})
    )
    for name, alone in (("chat", chat), ("code", code)):
        assert whole.summary.models[name].end_to_end == alone.summary.end_to_end
        assert not alone.summary.models


def test_a_load_for_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="the load asks ghost; the policies have chat"):
        run(SITE, (ELASTIC,), {"ghost": REQUESTS})
