"""A compiled fleet gives the times of reference engines behind the same router, and is read as of the time it is at."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.fleet import NO_GROUP, EngineFleet
from simulator.engine.profile import EngineProfile
from simulator.engine.reference import ReferenceEngine
from simulator.engine.requests import EngineRequest, Finished, FirstToken
from simulator.engine.routing import Routing
from simulator.engine.ticks import TICKS_PER_S
from tests.unit.engine.test_compiled import Step, profiles, steps

ONE_SECOND = EngineProfile("one-second", 1.0, 0, 0, 0, 4, 64, 4, 100, 0, 0, "an iteration lasts a second")
SLACK = 2


class ReferenceFleet:
    """Reference engines behind a router that is advanced to every arrival, the plain way."""

    def __init__(self, profiles: list[EngineProfile], rule: Routing) -> None:
        self.engines = [ReferenceEngine(profile) for profile in profiles]
        self.finished: dict[int, tuple[int, Finished]] = {}
        self.first_tokens: dict[int, float] = {}
        self.refused: dict[int, float] = {}
        self.in_flight: list[set[int]] = [set() for _ in profiles]
        self._rule = rule
        self._chosen = [0] * len(profiles)
        self._routed = 0
        self._affine: dict[int, int] = {}

    def advance(self, now: float) -> None:
        for r, engine in enumerate(self.engines):
            for event in engine.advance(now):
                if isinstance(event, FirstToken):
                    self.first_tokens[int(event.request_id)] = event.at
                else:
                    self.finished[int(event.request_id)] = (r, event)
                    self.in_flight[r].remove(int(event.request_id))

    def add(self, request: EngineRequest) -> None:
        self.advance(request.arrival_at)
        r = self._choose(request)
        try:
            self.engines[r].add(request)
        except ValueError:
            self.refused[int(request.request_id)] = request.arrival_at
        else:
            self.in_flight[r].add(int(request.request_id))

    def abort(self, number: int) -> bool:
        for r, engine in enumerate(self.engines):
            if engine.abort(str(number)):
                self.in_flight[r].remove(number)
                return True
        return False

    def _choose(self, request: EngineRequest) -> int:
        self._routed += 1
        if self._rule is Routing.ROUND_ROBIN:
            return (self._routed - 1) % len(self.engines)
        chosen = min(range(len(self.engines)), key=lambda r: (len(self.in_flight[r]), self._chosen[r], r))
        if self._rule is Routing.PREFIX_AFFINE and request.prefix_group is not None:
            affine = self._affine.get(request.prefix_group)
            least = len(self.in_flight[chosen])
            if affine is not None and len(self.in_flight[affine]) <= least + max(SLACK, least // 2):
                chosen = affine
            self._affine[request.prefix_group] = chosen
        self._chosen[chosen] = self._routed
        return chosen


def submit(fleet: EngineFleet, requests: list[EngineRequest]) -> None:
    fleet.submit(
        [request.arrival_at for request in requests],
        [request.prompt_tokens for request in requests],
        [request.output_tokens for request in requests],
        [int(request.request_id) for request in requests],
        cached_tokens=[request.cached_tokens for request in requests],
        group=[NO_GROUP if request.prefix_group is None else request.prefix_group for request in requests],
        prefix_tokens=[request.prefix_tokens for request in requests],
    )


def gauges(fleet: EngineFleet) -> list[tuple[object, ...]]:
    columns = (fleet.running(), fleet.waiting(), fleet.kv_use(), fleet.in_flight())
    counters = [fleet.counters(r) for r in range(len(columns[0]))]
    return list(zip(*(column.tolist() for column in columns), counters, strict=True))


def reference_gauges(fleet: ReferenceFleet) -> list[tuple[object, ...]]:
    return [
        (engine.running, engine.waiting, engine.kv_use, len(fleet.in_flight[r]), engine.counters)
        for r, engine in enumerate(fleet.engines)
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1000)
@given(st.lists(profiles(), min_size=1, max_size=3), steps(), st.sampled_from(Routing))
def test_a_fleet_gives_the_reference_times_whatever_is_preempted_chunked_cached_or_aborted(
    drawn_profiles: list[EngineProfile], drawn: list[Step], rule: Routing
) -> None:
    reference = ReferenceFleet(drawn_profiles, rule)
    fleet = EngineFleet()
    fleet.route(0, [fleet.start(profile) for profile in drawn_profiles], rule, SLACK)
    now = 0.0
    coming: list[EngineRequest] = []
    for number, step in enumerate(drawn):
        now += step.gap_s
        if step.request is not None:
            request = dataclasses.replace(step.request, request_id=str(number), arrival_at=now)
            reference.add(request)
            coming.append(request)
            continue
        submit(fleet, coming)
        coming = []
        fleet.run_until(now)
        reference.advance(now)
        if step.abort is not None:
            assert fleet.abort(step.abort) == reference.abort(step.abort)
        assert gauges(fleet) == reference_gauges(reference)
    submit(fleet, coming)
    fleet.run_until(math.inf)
    reference.advance(math.inf)
    assert gauges(fleet) == reference_gauges(reference)

    done, first, refused = fleet.take_completions(), fleet.take_first_tokens(), fleet.take_refusals()
    assert dict(zip(refused.request.tolist(), refused.at.tolist(), strict=True)) == pytest.approx(reference.refused)
    assert dict(zip(first.request.tolist(), first.at.tolist(), strict=True)) == pytest.approx(
        reference.first_tokens, rel=1e-9
    )
    assert sorted(done.request.tolist()) == sorted(reference.finished)
    for index, number in enumerate(done.request.tolist()):
        r, expected = reference.finished[number]
        assert (done.replica[index], done.preemptions[index]) == (r, expected.preemptions)
        assert done.cached_tokens[index] == expected.cached_tokens
        times = (done.queued_at[index], done.first_scheduled_at[index], done.first_token_at[index], done.at[index])
        expected_times = (expected.queued_at, expected.first_scheduled_at, expected.first_token_at, expected.at)
        assert times == pytest.approx(expected_times, rel=1e-9)


def one_second_fleet(replicas: int, rule: Routing = Routing.LEAST_LOADED, slack: int = 8) -> EngineFleet:
    fleet = EngineFleet()
    fleet.route(0, [fleet.start(ONE_SECOND) for _ in range(replicas)], rule, slack)
    return fleet


def replicas_of(fleet: EngineFleet) -> list[int]:
    """The replica of each request, by its number."""
    fleet.run_until(math.inf)
    done = fleet.take_completions()
    return [int(r) for r in done.replica[np.argsort(done.request)]]


def test_a_router_does_not_see_the_departure_at_the_end_of_an_iteration_that_still_runs() -> None:
    fleet = one_second_fleet(2)
    # Replica 0 is busy until 2.0 and replica 1 until 1.5: at 1.2 each has one, and 0 was chosen longer ago.
    fleet.submit([0.0, 0.5, 1.2], 4, [2, 1, 1], [0, 1, 2])
    assert replicas_of(fleet) == [0, 1, 0]


def test_a_request_that_comes_as_an_iteration_begins_waits_for_the_next_though_nobody_looked_in_between() -> None:
    fleet = one_second_fleet(1)
    fleet.submit([0.0, 2.0], 1, [9, 1], [0, 1])
    fleet.run_until(math.inf)
    assert fleet.take_first_tokens().at.tolist() == [1.0, 4.0]


def test_a_group_stays_where_its_prefix_is_until_that_replica_has_too_much_more_to_do() -> None:
    fleet = one_second_fleet(2, Routing.PREFIX_AFFINE, slack=1)
    fleet.submit([0.0, 0.1, 0.2, 0.3], 8, 5, [0, 1, 2, 3], group=3, prefix_tokens=4)
    assert replicas_of(fleet) == [0, 0, 1, 1]


def test_pools_have_their_own_endpoints_and_rule() -> None:
    fleet = EngineFleet()
    first, second, third = (fleet.start(ONE_SECOND) for _ in range(3))
    fleet.route(0, [third])
    fleet.route(5, [first, second], Routing.ROUND_ROBIN)
    fleet.submit([0.0, 0.1, 0.2, 0.3], 1, 1, [0, 1, 2, 3], pool=[5, 0, 5, 5])
    assert replicas_of(fleet) == [first, third, second, first]


def test_requests_that_nobody_can_serve_are_told_apart_with_their_time() -> None:
    fleet = one_second_fleet(1)
    fleet.submit([0.5, 1.5, 2.5], [399, 1, 4], [2, 1, 1], [0, 1, 2], pool=[0, 40, 0])
    assert replicas_of(fleet) == [0]
    refused = fleet.take_refusals()
    assert [refused.request.tolist(), refused.replica.tolist(), refused.at.tolist()] == [[0, 1], [0, -1], [0.5, 1.5]]


def test_a_stopped_replica_gives_back_what_it_had_and_its_place_is_taken_by_an_empty_one() -> None:
    fleet = one_second_fleet(2)
    fleet.submit([0.0, 0.1, 0.2], 8, [1, 1, 50], [0, 1, 2], group=0, prefix_tokens=4)
    fleet.run_until(5.0)
    with pytest.raises(ValueError, match="still an endpoint of pool 0"):
        fleet.stop(0)
    fleet.route(0, [1])
    assert fleet.stop(0).tolist() == [2]
    assert fleet.take_completions().request.tolist() == [0, 1]
    assert fleet.start(ONE_SECOND) == 0
    assert (fleet.running()[0], fleet.in_flight()[0], fleet.kv_use()[0]) == (0, 0, 0.0)
    fleet.add(0, 6.0, 8, 1, 3, group=0, prefix_tokens=4)
    fleet.run_until(math.inf)
    done = fleet.take_completions()
    assert (done.request.tolist(), done.at.tolist(), done.cached_tokens.tolist()) == ([3], [7.0], [0])


def test_more_requests_at_once_than_there_was_room_for_are_all_served() -> None:
    fleet = one_second_fleet(3)
    for batch in range(3):
        fleet.submit(np.full(500, float(batch)), 4, 2, np.arange(500) + 500 * batch)
    fleet.run_until(math.inf)
    assert np.sort(fleet.take_completions().request).tolist() == list(range(1500))
    assert len(fleet.take_completions().request) == 0


def test_what_is_submitted_later_comes_in_between_and_after_what_has_the_same_time() -> None:
    fleet = one_second_fleet(1)
    fleet.submit([1.0, 2.0, 3.0], 1, 1, [0, 1, 2])
    fleet.run_until(1.5)
    fleet.submit([2.0, 2.5], 1, 1, [3, 4])
    fleet.run_until(math.inf)
    assert fleet.take_completions().request.tolist() == [0, 1, 3, 4, 2]
    fleet.submit([9.0, 9.0], 1, 1, [5, 6])
    fleet.run_until(math.inf)
    first_tokens, ends = fleet.take_told()
    assert (first_tokens["request"].tolist()[-2:], ends["request"].tolist()) == ([5, 6], [5, 6])
    assert ends["at"].tolist() == [10 * TICKS_PER_S, 11 * TICKS_PER_S]
    assert [len(told) for told in fleet.take_told()] == [0, 0]


def test_a_fleet_runs_for_years() -> None:
    fleet = one_second_fleet(1)
    day_s = 86_400.0
    times: list[float] = []
    for at, output_tokens in ((10.0, 30), (59.5 * day_s, 3), (60 * day_s, 7), (901 * day_s, 2)):
        fleet.run_until(at - 1)
        fleet.submit(at, 1, output_tokens, 0)
        fleet.run_until(at + 40)
        done = fleet.take_completions()
        fleet.take_first_tokens()
        times += (done.at - done.arrival_at).tolist()
    assert times == [30.0, 3.0, 7.0, 2.0]


def test_what_was_not_taken_for_months_stops_the_run_rather_than_losing_its_time() -> None:
    fleet = one_second_fleet(1)
    fleet.submit(0.0, 1, 1, 0)
    with pytest.raises(ValueError, match="before running on for months"):
        fleet.run_until(900 * 86_400.0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"at": [2.0, 1.0]}, "in order of their arrival", id="time goes back"),
        pytest.param({"at": [1.0, 1e8]}, "more than 100 days ahead", id="far future"),
        pytest.param({"at": [0.0, 1.0]}, "to which the fleet has run", id="the past"),
        pytest.param({"pool": -1}, "numbered from 0", id="no pool"),
        pytest.param({"group": [0, -2]}, "numbered from 0", id="no group"),
        pytest.param({"requests": [-1, 0]}, "numbered from 0", id="no number"),
        pytest.param({"prompt_tokens": 0}, "at least one token each", id="no prompt"),
        pytest.param({"output_tokens": 0}, "at least one token each", id="no output"),
        pytest.param({"cached_tokens": 4}, "never cached", id="all cached"),
        pytest.param({"prefix_tokens": 5}, "part of the prompt", id="prefix beyond the prompt"),
    ],
)
def test_requests_that_cannot_be_are_refused_when_submitted(changes: dict[str, object], problem: str) -> None:
    valid: dict[str, object] = {"at": [1.0, 2.0], "prompt_tokens": 4, "output_tokens": 1, "requests": [0, 1]}
    fleet = one_second_fleet(1)
    fleet.run_until(0.5)
    with pytest.raises(ValueError, match=problem):
        fleet.submit(**(valid | changes))  # type: ignore[arg-type]
