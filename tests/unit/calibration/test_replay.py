"""A load through one engine: times as a client measures them, gauges as a scrape sees them."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.calibration.replay import replay
from simulator.engine.profile import EngineProfile
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import EngineRequest
from tests.support.measured import TRUE_ENGINE, poisson_requests

ONE_SECOND = EngineProfile("one-second", 1.0, 0, 0, 0, 2, 64, 4, 100, 0, 0, "an iteration lasts a second")


def at_once(count: int, output_tokens: int = 3) -> list[EngineRequest]:
    return [EngineRequest("same", 0.0, 4, output_tokens) for _ in range(count)]


def test_times_are_from_arrival_to_first_token_and_to_the_last() -> None:
    times, _ = replay(ONE_SECOND, [EngineRequest("a", 0.5, 4, 3), EngineRequest("b", 9.0, 4, 1)])
    assert times.ttft.tolist() == [1.0, 1.0]
    assert times.e2e.tolist() == [3.0, 1.0]
    assert times.tpot[0] == 1.0
    assert np.isnan(times.tpot[1])


def test_gauges_show_what_runs_and_waits_at_each_look_and_after_the_end() -> None:
    """The first begins alone, as it arrives at an idle engine; the third waits for its end."""
    _, gauges = replay(ONE_SECOND, at_once(3), sample_at=[0.5, 2.5, 3.5, 99.0])
    assert gauges.running.tolist() == [1, 2, 2, 0]
    assert gauges.waiting.tolist() == [2, 1, 0, 0]
    assert gauges.kv_use.tolist() == pytest.approx([0.01, 0.04, 0.03, 0.0])


def test_a_client_with_a_limit_sends_the_next_when_one_ends() -> None:
    times, _ = replay(ONE_SECOND, at_once(3), concurrency=1)
    assert times.arrival.tolist() == [0.0, 3.0, 6.0]
    assert times.ttft.tolist() == [1.0, 1.0, 1.0]


def test_any_engine_behind_the_interface_gives_the_same_times() -> None:
    requests = poisson_requests(20.0, 60)
    times, gauges = replay(TRUE_ENGINE, requests, sample_at=[1.0, 2.0])
    again, shown = replay(TRUE_ENGINE, requests, sample_at=[1.0, 2.0], make=ReferenceEngine)
    assert times.end.tolist() == again.end.tolist()
    assert gauges.kv_use.tolist() == shown.kv_use.tolist()
