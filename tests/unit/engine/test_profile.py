"""Profiles: what is refused, and that the stated capacity is what the engine then does."""

from __future__ import annotations

import dataclasses
import math

import pytest

from simulator.engine.profile import EngineProfile, capacity_rps
from simulator.engine.requests import EngineRequest
from simulator.engine.single import CompiledEngine
from simulator.profiles.document import load_profile

DEMO = load_profile("demo").engine


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"max_num_batched_tokens": 8}, "a full batch could not decode", id="budget below batch"),
        pytest.param({"num_blocks": 0}, "at least 1", id="no memory"),
        pytest.param({"base_s": 0.0}, "an iteration takes time", id="no time"),
        pytest.param({"s_per_kv_token": -1e-9}, "not negative", id="negative time"),
    ],
)
def test_a_profile_that_no_engine_can_have_is_refused(changes: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        dataclasses.replace(DEMO, **changes)  # type: ignore[arg-type]


def saturated_rps(profile: EngineProfile, prompt_tokens: int, output_tokens: int) -> float:
    """Requests per second that the engine finishes with a queue that never empties, without start and end."""
    engine = CompiledEngine(profile)
    # Lengths spread a little, so that sequences do not march in step.
    count = 12 * profile.max_num_seqs
    for number in range(count):
        spread = 1 + (number % 7 - 3) / 10
        engine.add(EngineRequest(str(number), 0.0, prompt_tokens, max(1, round(output_tokens * spread))))
    engine.advance(0.0)
    finished: list[float] = [event.at for event in engine.advance(math.inf) if hasattr(event, "preemptions")]
    first, last = count // 4, 3 * count // 4
    return (last - first) / (finished[last] - finished[first])


@pytest.mark.parametrize(
    ("profile", "prompt_tokens", "output_tokens"),
    [
        pytest.param("demo", 100, 100, id="limited by the batch"),
        pytest.param("demo", 200, 60, id="prefill counts"),
        pytest.param("h100-mistral-small-24b", 80, 140, id="large batch"),
    ],
)
def test_the_stated_capacity_is_what_a_saturated_engine_does(
    profile: str, prompt_tokens: int, output_tokens: int
) -> None:
    engine = load_profile(profile).engine
    stated = capacity_rps(engine, prompt_tokens, output_tokens)
    assert saturated_rps(engine, prompt_tokens, output_tokens) == pytest.approx(stated, rel=0.1)


def test_the_cache_and_the_front_end_limit_capacity_too() -> None:
    assert capacity_rps(DEMO, 2000, 100) < capacity_rps(dataclasses.replace(DEMO, num_blocks=4096), 2000, 100)
    assert capacity_rps(dataclasses.replace(DEMO, front_end_s=1.0), 10, 10) == 1.0
    assert capacity_rps(dataclasses.replace(DEMO, front_end_s_per_token=0.1), 10, 10) == 1 / (0.001 + 10 * 0.1)


def test_a_request_without_tokens_has_no_capacity() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        capacity_rps(DEMO, 100, 0)
