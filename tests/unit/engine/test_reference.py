"""The scheduler's rules, one by one, on engines small enough to follow by hand."""

from __future__ import annotations

import dataclasses

import pytest

from simulator.engine.profile import EngineProfile
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import EngineEvent, EngineRequest, Finished, FirstToken

ONE_SECOND = EngineProfile("one-second", 1.0, 0, 0, 0, 4, 8, 4, 100, 0, 0, "an iteration lasts a second")


def profile(**changes: object) -> EngineProfile:
    return dataclasses.replace(ONE_SECOND, **changes)  # type: ignore[arg-type]


def engine_with(*requests: EngineRequest, **changes: object) -> ReferenceEngine:
    engine = ReferenceEngine(profile(**changes))
    for request in requests:
        engine.add(request)
    return engine


def first_tokens(events: list[EngineEvent]) -> dict[str, float]:
    return {event.request_id: event.at for event in events if isinstance(event, FirstToken)}


def ends(events: list[EngineEvent]) -> dict[str, float]:
    return {event.request_id: event.at for event in events if isinstance(event, Finished)}


def test_a_prompt_within_the_budget_gives_its_first_token_after_one_iteration_and_one_more_each_iteration() -> None:
    events = engine_with(EngineRequest("a", 0.5, 8, 3)).advance(100)
    assert first_tokens(events) == {"a": 1.5}
    assert ends(events) == {"a": 3.5}


def test_the_iteration_time_is_the_sum_of_its_four_terms() -> None:
    engine = engine_with(
        EngineRequest("a", 0.0, 8, 2), s_per_prefill_token=0.1, s_per_decode_sequence=0.01, s_per_kv_token=0.001
    )
    events = engine.advance(100)
    assert first_tokens(events) == {"a": 1.0 + 8 * 0.1}
    assert ends(events) == {"a": pytest.approx(1.8 + 1.0 + 0.01 + 8 * 0.001)}


def test_a_request_that_arrives_during_an_iteration_joins_the_next() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 4, 5))
    engine.advance(1.2)
    engine.add(EngineRequest("b", 1.2, 4, 1))
    assert (engine.running, engine.waiting) == (1, 0)
    engine.advance(1.2)
    assert (engine.running, engine.waiting) == (1, 1)
    assert first_tokens(engine.advance(100)) == {"b": 3.0}


def test_a_long_prompt_is_computed_in_chunks_beside_the_decodes() -> None:
    events = engine_with(EngineRequest("a", 0.0, 4, 6), EngineRequest("b", 0.0, 18, 1)).advance(100)
    # 8 tokens each iteration: 4 of a and 4 of b, then 7 of b beside a's decode, then the last 7.
    assert first_tokens(events) == {"a": 1.0, "b": 3.0}
    assert ends(events)["a"] == 6.0


def test_cached_tokens_cost_no_prefill_but_hold_blocks() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 20, 2, cached_tokens=16))
    assert first_tokens(engine.advance(1.0)) == {"a": 1.0}
    assert engine.kv_use == pytest.approx(6 / 100)  # 5 blocks for 20 tokens, one more for the token being decoded
    assert engine.counters.cached_tokens == 16


def test_requests_are_admitted_in_order_up_to_max_num_seqs() -> None:
    requests = [EngineRequest(name, 0.0, 1, 3) for name in "abc"]
    engine = engine_with(*requests, max_num_seqs=2)
    engine.advance(0.5)
    assert (engine.running, engine.waiting) == (2, 1)
    assert first_tokens(engine.advance(100)) == {"a": 1.0, "b": 1.0, "c": 4.0}


def test_a_prompt_that_does_not_fit_whole_is_not_admitted_and_holds_up_those_behind_it() -> None:
    requests = [EngineRequest("a", 0.0, 4, 4), EngineRequest("b", 0.0, 12, 1), EngineRequest("c", 0.0, 1, 1)]
    events = engine_with(*requests, num_blocks=4).advance(100)
    assert first_tokens(events) == {"a": 1.0, "b": 6.0, "c": 6.0}  # b's chunks of 8 and 4 after a's end at 4


def test_a_decode_without_a_block_preempts_the_latest_which_computes_all_again() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 4, 6), EngineRequest("b", 0.0, 4, 6), num_blocks=3)
    events = engine.advance(100)
    # At the second iteration both want a second block and one is free: b goes, and nobody is admitted meanwhile.
    assert first_tokens(events) == {"a": 1.0, "b": 1.0}
    assert ends(events) == {"a": 6.0, "b": 11.0}
    assert engine.counters.preemptions == 1
    assert engine.counters.generation_tokens == 12


def test_an_abort_frees_blocks_at_once_while_the_iteration_runs_on() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 4, 6), EngineRequest("b", 0.0, 4, 6))
    engine.advance(1.5)
    assert engine.abort("a")
    assert engine.running == 1
    assert engine.kv_use == pytest.approx(2 / 100)
    assert engine.next_event_at() == 2.0
    assert ends(engine.advance(100)) == {"b": 6.0}


def test_aborting_what_has_ended_is_no_error() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 1, 1))
    engine.advance(100)
    assert not engine.abort("a")
    assert engine.counters.aborted == 0


def test_the_front_end_passes_one_request_after_the_other_and_the_gauges_do_not_see_it() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 1, 1), EngineRequest("b", 0.0, 1, 1), front_end_s=0.25)
    engine.advance(0.1)
    assert (engine.running, engine.waiting) == (0, 0)
    finished = [event for event in engine.advance(100) if isinstance(event, Finished)]
    assert [(event.queued_at, event.first_scheduled_at, event.at) for event in finished] == [
        (0.25, 0.25, 1.25),
        (0.5, 1.25, 2.25),
    ]


def test_streamed_tokens_take_their_turn_in_the_front_end_before_requests_that_come_later() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 1, 4), front_end_s_per_token=0.25)
    engine.advance(1.125)
    engine.add(EngineRequest("b", 1.125, 1, 1))
    finished = {event.request_id: event for event in engine.advance(100) if isinstance(event, Finished)}
    assert (finished["b"].queued_at, finished["b"].first_scheduled_at) == (1.25, 2.0)


def test_an_engine_that_sleeps_wakes_before_it_begins_and_takes_along_what_came_meanwhile() -> None:
    engine = engine_with(EngineRequest("a", 1.0, 1, 2), EngineRequest("b", 1.25, 1, 1), wakeup_latency_s=0.5)
    engine.advance(1.25)
    assert (engine.running, engine.waiting) == (0, 2)
    assert first_tokens(engine.advance(100)) == {"a": 2.5, "b": 2.5}


@pytest.mark.parametrize(
    ("at", "first_token"),
    [
        pytest.param(1.25, 2.5, id="while it runs"),
        pytest.param(1.5, 2.5, id="as it ends"),
        pytest.param(1.75, 3.25, id="when it sleeps again"),
    ],
)
def test_only_an_engine_that_sleeps_has_to_wake(at: float, first_token: float) -> None:
    engine = engine_with(EngineRequest("a", 0.0, 1, 1), EngineRequest("b", at, 1, 1), wakeup_latency_s=0.5)
    assert first_tokens(engine.advance(100))["b"] == first_token


def shared(name: str, at: float, prompt: int, prefix: int, output: int = 1) -> EngineRequest:
    return EngineRequest(name, at, prompt, output, prefix_group=7, prefix_tokens=prefix)


def cached(events: list[EngineEvent]) -> dict[str, int]:
    return {event.request_id: event.cached_tokens for event in events if isinstance(event, Finished)}


def test_a_prefix_is_computed_once_and_found_in_whole_blocks_by_the_rest_of_its_group() -> None:
    requests = [shared("a", 0.0, 8, 6), shared("b", 5.0, 8, 6), EngineRequest("other", 10.0, 8, 1)]
    engine = engine_with(*requests)
    assert cached(engine.advance(100)) == {"a": 0, "b": 4, "other": 0}
    assert engine.counters.cached_tokens == 4


def test_a_prefix_that_is_the_whole_prompt_leaves_a_block_to_compute() -> None:
    assert cached(engine_with(shared("a", 0.0, 8, 8), shared("b", 5.0, 8, 8)).advance(100)) == {"a": 0, "b": 4}


def test_a_prefix_that_is_being_computed_is_found_by_who_comes_in_the_same_iteration() -> None:
    events = engine_with(shared("a", 0.0, 5, 4), shared("b", 0.0, 5, 4)).advance(100)
    assert cached(events) == {"a": 0, "b": 4}
    assert first_tokens(events) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("between", "found"),
    [
        pytest.param(4, 8, id="the free blocks are older than it"),
        pytest.param(32, 8, id="the other blocks just suffice"),
        pytest.param(36, 4, id="its end is taken first"),
        pytest.param(39, 0, id="all is taken"),
    ],
)
def test_a_prefix_that_nobody_uses_is_lost_from_its_end_as_its_blocks_are_taken(between: int, found: int) -> None:
    # 10 blocks. The prefix's 2 are the last freed; "big" takes blocks for ``between`` tokens and gives them back.
    requests = [shared("a", 0.0, 8, 8), EngineRequest("big", 10.0, between, 1), shared("b", 20.0, 12, 8)]
    engine = engine_with(*requests, num_blocks=10, max_num_batched_tokens=64)
    assert cached(engine.advance(100))["b"] == found


def test_a_preempted_sequence_finds_its_own_prefix_again() -> None:
    requests = [EngineRequest("a", 0.0, 4, 6), shared("b", 0.0, 4, 4, output=6)]
    engine = engine_with(*requests, num_blocks=3)
    finished = {event.request_id: event for event in engine.advance(100) if isinstance(event, Finished)}
    assert (finished["b"].preemptions, finished["b"].cached_tokens) == (1, 0)  # a's second block was the one freed


def test_a_conversation_finds_its_last_prompt_and_the_answer_to_it_in_whole_blocks() -> None:
    """Blocks of 4: the first turn leaves 8 + 5 tokens, of which the last one's block is not full."""
    turns = [shared("a", 0.0, 8, 0, output=6), shared("b", 20.0, 18, 14), shared("c", 40.0, 24, 19)]
    assert cached(engine_with(*turns, num_blocks=20, max_num_batched_tokens=64).advance(100)) == {
        "a": 0,
        "b": 12,
        "c": 16,
    }


def test_iterations_tell_who_got_a_token() -> None:
    iterations = engine_with(EngineRequest("a", 0.0, 6, 2), EngineRequest("b", 0.0, 4, 1)).iterations(100)
    assert [(iteration.prefill_tokens, iteration.emitted) for iteration in iterations] == [
        (8, ("a",)),
        (2, ("a", "b")),
    ]


def test_a_request_larger_than_the_whole_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 420 tokens of KV cache"):
        engine_with(EngineRequest("a", 0.0, 400, 20))


def test_nothing_to_do_has_no_next_event() -> None:
    assert ReferenceEngine(ONE_SECOND).next_event_at() is None


def test_requests_wait_for_the_tokens_that_the_front_end_streams() -> None:
    engine = engine_with(EngineRequest("a", 0.0, 4, 3), front_end_s=0.25, front_end_s_per_token=0.5)
    engine.advance(1.3)  # a's first token came out at 1.25 and takes the front end until 1.75
    engine.add(EngineRequest("b", 1.3, 4, 1))
    assert [(event.request_id, event.queued_at) for event in engine.advance(100) if isinstance(event, Finished)] == [
        ("a", 0.25),
        ("b", 2.0),
    ]
