"""The compiled engine gives the reference's results, exactly, and both keep what must always hold."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.profile import EngineProfile
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import Engine, EngineEvent, EngineRequest, Finished, FirstToken
from simulator.engine.single import CompiledEngine


@dataclass(frozen=True)
class Step:
    """After ``gap_s`` a request arrives, one is aborted, or somebody only looks."""

    gap_s: float
    request: EngineRequest | None = None
    abort: int | None = None


@st.composite
def profiles(draw: st.DrawFn) -> EngineProfile:
    sequences = draw(st.integers(1, 6))
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    return EngineProfile(
        name="drawn",
        base_s=draw(st.sampled_from([0.01, 0.03, 1 / 3])),
        s_per_prefill_token=draw(st.sampled_from([0.0, 1e-4])),
        s_per_decode_sequence=draw(st.sampled_from([0.0, 1e-3])),
        s_per_kv_token=draw(st.sampled_from([0.0, 7e-5, 1e-12])),
        max_num_seqs=sequences,
        max_num_batched_tokens=sequences + draw(st.integers(0, 12)),
        block_size=block_size,
        num_blocks=32 // block_size + draw(st.integers(0, 4)),  # holds one request of any size, not many
        load_time_s=0.0,
        front_end_s=draw(st.sampled_from([0.0, 0.004, 0.3])),
        provenance="drawn",
        front_end_s_per_token=draw(st.sampled_from([0.0, 0.002, 0.02])),
        wakeup_latency_s=draw(st.sampled_from([0.0, 0.003, 0.1, 0.5])),
    )


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    drawn = []
    gaps = st.sampled_from([0.0, 0.0, 0.01, 0.03, 0.1, 1.0]) | st.floats(0, 1)
    for number in range(draw(st.integers(1, 14))):
        gap_s = draw(gaps)
        kind = draw(st.sampled_from(["arrive", "arrive", "arrive", "abort", "look"]))
        if kind == "arrive":
            prompt = draw(st.integers(1, 12))
            cached = draw(st.sampled_from([0, 0, prompt - 1, prompt // 2]))
            group = draw(st.sampled_from([None, 0, 1, 2]))
            shared = 0 if group is None else draw(st.integers(0, prompt))
            request = EngineRequest(str(number), 0.0, prompt, draw(st.integers(1, 20)), cached, group, shared)
            drawn.append(Step(gap_s, request=request))
        else:
            drawn.append(Step(gap_s, abort=draw(st.integers(0, 13)) if kind == "abort" else None))
    return drawn


def look(engine: Engine) -> tuple[object, ...]:
    counters = engine.counters
    return (
        engine.running,
        engine.waiting,
        engine.kv_use,
        counters.generation_tokens,
        counters.preemptions,
        str(counters),
    )


def run(engine: Engine, drawn: list[Step], start: float) -> tuple[list[EngineEvent], list[tuple[object, ...]]]:
    now = start
    events: list[EngineEvent] = []
    looks = []
    for step in drawn:
        now += step.gap_s
        events += engine.advance(now)
        looks.append(look(engine))
        if step.request is not None:
            request = step.request
            engine.add(dataclasses.replace(request, arrival_at=now))
        elif step.abort is not None:
            looks.append((engine.abort(str(step.abort)),))
        looks.append(look(engine))
    while (at := engine.next_event_at()) is not None:
        assert at >= now
        now = at
        events += engine.advance(now)
    looks.append(look(engine))
    return events, looks


@settings(max_examples=400)
@given(profiles(), steps(), st.sampled_from([0.0, 1.7e9]))
def test_compiled_equals_the_reference_in_every_event_and_gauge(
    profile: EngineProfile, drawn: list[Step], start: float
) -> None:
    expected_events, expected_looks = run(ReferenceEngine(profile), drawn, start)
    events, looks = run(CompiledEngine(profile, start), drawn, start)
    assert events == expected_events
    assert looks == expected_looks


def test_the_drawn_cases_reach_preemption_chunked_prefill_and_shared_prefixes() -> None:
    """A generator that never fills the cache would prove nothing about what happens when it is full."""
    preempted = chunked = found = 0

    @settings(max_examples=150, database=None, derandomize=True)
    @given(profiles(), steps())
    def count(profile: EngineProfile, drawn: list[Step]) -> None:
        nonlocal preempted, chunked, found
        engine = CompiledEngine(profile)
        events, _ = run(engine, drawn, 0.0)
        told = {step.request.request_id: step.request.cached_tokens for step in drawn if step.request is not None}
        found += any(isinstance(event, Finished) and event.cached_tokens > told[event.request_id] for event in events)
        preempted += engine.counters.preemptions > 0
        chunked += any(
            step.request is not None and step.request.prompt_tokens > profile.max_num_batched_tokens for step in drawn
        )

    count()
    assert preempted >= 10
    assert chunked >= 10
    assert found >= 10


@settings(max_examples=150)
@given(profiles(), steps(), st.sampled_from([ReferenceEngine, CompiledEngine]))
def test_requests_tokens_memory_and_time_are_conserved(
    profile: EngineProfile, drawn: list[Step], kind: type[ReferenceEngine] | type[CompiledEngine]
) -> None:
    engine = kind(profile)
    events, looks = run(engine, drawn, 0.0)
    arrivals = {step.request.request_id: step.request for step in drawn if step.request is not None}
    finished = {event.request_id: event for event in events if isinstance(event, Finished)}
    assert len(finished) + engine.counters.aborted == len(arrivals)
    assert engine.counters.finished == len(finished)
    if not engine.counters.aborted:
        assert engine.counters.generation_tokens == sum(request.output_tokens for request in arrivals.values())
        assert engine.counters.prompt_tokens == sum(request.prompt_tokens for request in arrivals.values())
    assert [event.at for event in events] == sorted(event.at for event in events)
    for event in finished.values():
        assert event.queued_at <= event.first_scheduled_at < event.first_token_at <= event.at
    assert all(0 <= seen[2] <= 1 for seen in looks if len(seen) > 2 and isinstance(seen[2], float))
    assert (engine.running, engine.waiting, engine.kv_use) == (0, 0, 0.0)


@settings(max_examples=100)
@given(profiles(), steps(), st.integers(0, 13))
def test_what_happened_before_a_change_of_the_trace_does_not_change(
    profile: EngineProfile, drawn: list[Step], changed: int
) -> None:
    changed = min(changed, len(drawn) - 1)
    change_at = sum(step.gap_s for step in drawn[: changed + 1])
    before, _ = run(CompiledEngine(profile), drawn, 0.0)
    after, _ = run(CompiledEngine(profile), drawn[:changed], 0.0)
    assert [event for event in before if event.at < change_at] == [event for event in after if event.at < change_at]


def test_advancing_for_ever_finishes_everything() -> None:
    profile = EngineProfile("tiny", 0.01, 0, 0, 0, 4, 16, 4, 32, 0, 0, "chosen")
    engine = CompiledEngine(profile)
    engine.add(EngineRequest("a", 0.0, 3, 5))
    assert [type(event) for event in engine.advance(math.inf)] == [FirstToken, Finished]
    assert engine.next_event_at() is None


def test_one_engine_runs_for_years() -> None:
    engine = CompiledEngine(EngineProfile("slow", 1.0, 0, 0, 0, 4, 16, 4, 32, 0, 0, "chosen"))
    for number, day in enumerate((0, 50, 120, 800)):
        at = day * 86_400.0
        assert engine.advance(at) == []
        engine.add(EngineRequest(str(number), at, 3, 2))
        assert [event.at - at for event in engine.advance(at + 10)] == [1.0, 2.0]
