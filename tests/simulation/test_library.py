"""The simulator called from Python gives what the command prints, and every request's times."""

from __future__ import annotations

import numpy as np

from broker.model import wire
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
