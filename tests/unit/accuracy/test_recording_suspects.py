"""What a suspect costs is found in requests that it held up, and in no others; intervals know blocks of time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accuracy.intervals import BLOCK_S, blocks_of, resampled, verdict
from accuracy.recorded import Noise
from accuracy.recording_suspects import SUSPECTS, Record, effect
from simulator.calibration.replay import replay
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineRequest

ENGINE = EngineProfile("small", 1.5e-3, 2e-5, 1e-4, 3e-7, 4, 2048, 128, 23, 0.0, 5e-3, "made up")
STALL_S = 0.004


def served(seed: int, stall_s: float) -> Record:
    """Requests through the engine, each then held up by what arrives while it decodes."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(0.2, 250))
    requests = [
        EngineRequest(str(index), float(at), int(rng.integers(5, 120)), int(rng.integers(20, 250)))
        for index, at in enumerate(arrivals)
    ]
    times, _ = replay(ENGINE, requests)
    during = (times.arrival > times.first_token[:, None]) & (times.arrival <= times.end[:, None])
    held_up = replace(times, end=times.end + stall_s * during.sum(axis=1))
    prompts = np.array([request.prompt_tokens for request in requests], dtype=np.float64)
    return Record(held_up, prompts, np.arange(0.0, 60.0, 0.5), ENGINE)


@pytest.mark.parametrize("stall_s", [0.0, STALL_S])
def test_the_cost_of_an_arrival_is_found(stall_s: float) -> None:
    record = served(1, stall_s)
    found = effect(record, np.full(250, True), Noise(0.1, 1.0), SUSPECTS["an arrival"])
    assert found.value == pytest.approx(stall_s, abs=0.0005)


def test_who_did_nothing_is_not_blamed() -> None:
    record = served(2, STALL_S)
    found = effect(record, np.full(250, True), Noise(0.1, 1.0), SUSPECTS["a page of /metrics"])
    assert abs(found.value) < 3 * max(found.error, 0.0003)


def test_blocks_hold_every_place_once_and_draws_hold_whole_blocks() -> None:
    at = np.array([0.0, 1.0, BLOCK_S, 4 * BLOCK_S + 1, 4 * BLOCK_S + 2])
    assert [block.tolist() for block in blocks_of(at)] == [[0, 1], [2], [3, 4]]
    for places in resampled(at)[:20]:
        drawn = places.tolist()
        assert (drawn.count(0), drawn.count(3)) == (drawn.count(1), drawn.count(4))


@pytest.mark.parametrize(
    ("difference", "words"), [((-0.3, -0.1), "better"), ((0.1, 0.3), "worse"), ((-0.1, 0.1), "not told apart")]
)
def test_only_an_interval_beside_zero_tells_better_from_worse(difference: tuple[float, float], words: str) -> None:
    assert verdict(difference) == words
