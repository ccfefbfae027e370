"""The account of one model's requests, cut into summaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tally import ModelTally, Outcome, SummaryName, Tallies

NAME = SummaryName("gw", "boot", 7)


def test_a_cut_tells_what_happened_since_the_last_one() -> None:
    tally = ModelTally()
    first, second = tally.arrive(100.0), tally.arrive(101.0)
    tally.first_token(first, 0.5)
    tally.tokens_between(0.3, 3)
    tally.end(first, Outcome.FINISHED, 11, 4)
    summary = tally.cut("chat", NAME, 105.0, 1.0)
    assert (summary.arrived, summary.finished, summary.in_flight, summary.waiting) == (2, 1, 1, 1)
    assert (summary.gateway_id, summary.boot_id, summary.sequence) == ("gw", "boot", 7)
    assert summary.oldest_waiting_since == 101.0
    assert summary.queue_age.quantile(0.5) == pytest.approx(4.0, rel=0.05)
    assert summary.inter_token.count == 3
    assert summary.inter_token.quantile(0.5) == pytest.approx(0.1, rel=0.05)
    tally.end(second, Outcome.REJECTED, None, None)
    later = tally.cut("chat", NAME, 106.0, 1.0)
    assert (later.arrived, later.finished, later.rejected, later.in_flight) == (0, 0, 1, 0)
    assert (later.time_to_first_token.count, later.inter_token.count, later.prompt_tokens.count) == (0, 0, 0)
    assert tally.time_to_first_token.total() == 1, "the metrics' histogram counts since the start"


def test_a_request_whose_user_left_is_no_failure() -> None:
    tally = ModelTally()
    tally.end(tally.arrive(1.0), Outcome.ABANDONED, None, None)
    summary = tally.cut("chat", NAME, 2.0, 1.0)
    assert (summary.finished, summary.failed) == (1, 0)


def test_who_waits_again_keeps_its_place_in_the_queue() -> None:
    tally = ModelTally()
    first, _ = tally.arrive(1.0), tally.arrive(2.0)
    tally.no_longer_waiting(first)
    tally.wait_again(first, 1.0)
    assert tally.cut("chat", NAME, 3.0, 1.0).oldest_waiting_since == 1.0


def test_a_model_without_requests_is_summed_up_as_zero() -> None:
    tallies = Tallies()
    tallies.of("chat")
    (summary,) = tallies.cut(NAME, 5.0, 1.0)
    assert (summary.arrived, summary.waiting, summary.oldest_waiting_since) == (0, 0, None)


def test_a_model_that_is_no_longer_served_is_forgotten_with_its_last_request() -> None:
    tallies = Tallies()
    number = tallies.of("chat").arrive(1.0)
    tallies.keep(["other"])
    assert [model_id for model_id, _ in tallies.items()] == ["chat"]
    tallies.of("chat").end(number, Outcome.FINISHED, None, None)
    tallies.keep(["other"])
    assert tallies.items() == []


steps = st.lists(st.sampled_from(["arrive", "token", "end", "cut"]), max_size=60)


@given(steps)
def test_every_request_is_counted_exactly_once(steps: list[str]) -> None:
    tally = ModelTally()
    open_requests: list[int] = []
    summaries = []
    for now, step in enumerate(steps):
        if step == "arrive":
            open_requests.append(tally.arrive(float(now)))
        elif step == "token" and open_requests:
            tally.first_token(open_requests[0], 1.0)
        elif step == "end" and open_requests:
            outcome = list(Outcome)[now % len(Outcome)]
            tally.end(open_requests.pop(now % len(open_requests)), outcome, 1, 1)
        elif step == "cut":
            summaries.append(tally.cut("chat", NAME, float(now), 1.0))
    summaries.append(tally.cut("chat", NAME, 100.0, 1.0))
    ended = sum(summary.finished + summary.failed + summary.rejected for summary in summaries)
    assert sum(summary.arrived for summary in summaries) == ended + len(open_requests)
    assert summaries[-1].in_flight == len(open_requests)
