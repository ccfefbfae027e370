"""What a window says of a model: freshness, sources, rates, queue age, sustained conditions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from broker.model.reading import Freshness
from broker.model.signals import Signal
from broker.model.sketch import Sketch
from broker.model.snapshot import ModelSnapshot, WindowNeed
from signals.window import SignalWindow
from tests.unit.signals.samples import MODEL, histogram, report, scrape

PATIENCE_S = 15.0
WAITING_30 = WindowNeed(Signal.REQUESTS_WAITING, 30.0)


def window(*needs: WindowNeed, expect: tuple[str, ...] | None = ("a",), smoothing_s: float = 10.0) -> SignalWindow:
    made = SignalWindow(MODEL, needs, PATIENCE_S, smoothing_s=smoothing_s)
    if expect is not None:
        made.expect(expect, 0.0)
    return made


def look(made: SignalWindow, now: float) -> ModelSnapshot:
    return made.snapshot(now, now)


def freshness(snapshot: ModelSnapshot, signal: Signal) -> Freshness:
    return snapshot.reading(signal).freshness


# Freshness.


def test_a_window_that_saw_nothing_says_that_everything_is_absent() -> None:
    snapshot = look(window(WAITING_30), 100.0)
    assert all(reading.freshness is Freshness.ABSENT for reading in snapshot.readings.values())
    assert set(snapshot.readings) == set(Signal)
    assert not snapshot.window(Signal.REQUESTS_WAITING, 30.0).covered


def test_gauges_are_fresh_within_patience_and_stale_with_their_last_value_after_it() -> None:
    made = window()
    made.observe(scrape(100.0, waiting=4.0))
    assert look(made, 115.0).reading(Signal.REQUESTS_WAITING).current == 4.0
    late = look(made, 115.1).reading(Signal.REQUESTS_WAITING)
    assert (late.freshness, late.value, late.current) == (Freshness.STALE, 4.0, None)


def test_the_last_good_value_is_kept_long_after_the_samples_are_gone() -> None:
    made = window()
    made.observe(scrape(100.0, waiting=4.0))
    look(made, 101.0)
    late = look(made, 5000.0).reading(Signal.REQUESTS_WAITING)
    assert (late.freshness, late.value) == (Freshness.STALE, 4.0)


def test_with_no_replica_expected_the_load_is_a_true_zero() -> None:
    snapshot = look(window(expect=()), 100.0)
    for signal in (Signal.REQUESTS_RUNNING, Signal.REQUESTS_WAITING, Signal.KV_CACHE_USE):
        assert freshness(snapshot, signal) is Freshness.ZERO
    assert freshness(snapshot, Signal.QUEUE_AGE) is Freshness.ABSENT, "without gateways nobody can know who waits"
    assert freshness(snapshot, Signal.ARRIVAL_RATE) is Freshness.ABSENT


def test_with_no_replica_expected_gateways_tell_who_waits_for_a_first_one() -> None:
    made = window(expect=())
    made.observe(report(100.0, 1, in_flight=3, waiting=3, oldest=96.0))
    snapshot = look(made, 100.0)
    assert snapshot.reading(Signal.QUEUE_AGE).current == 4.0
    assert snapshot.reading(Signal.REQUESTS_WAITING).current == 3.0
    assert snapshot.reading(Signal.REQUESTS_PER_REPLICA).current == 3.0
    assert snapshot.reading(Signal.REQUESTS_RUNNING).current == 0.0


def test_a_sum_that_lacks_an_expected_replica_is_stale() -> None:
    made = window(expect=("a", "b"))
    for at in (100.0, 110.0, 120.0):
        made.observe(scrape(at, "a", waiting=2.0))
    made.observe(scrape(100.0, "b", waiting=5.0))
    assert look(made, 110.0).reading(Signal.REQUESTS_WAITING).current == 7.0
    partial = look(made, 120.0).reading(Signal.REQUESTS_WAITING)
    assert (partial.freshness, partial.value) == (Freshness.STALE, 7.0)


def test_a_replica_just_published_is_given_time_to_report() -> None:
    made = window(expect=("a",))
    made.observe(scrape(100.0, "a", waiting=2.0))
    made.expect(("a", "b"), 100.0)
    assert look(made, 101.0).reading(Signal.REQUESTS_WAITING).current == 2.0
    made.observe(scrape(116.0, "a", waiting=2.0))
    assert freshness(look(made, 116.0), Signal.REQUESTS_WAITING) is Freshness.STALE


def test_a_replica_no_longer_expected_or_forgotten_does_not_count() -> None:
    made = window(expect=("a", "b"))
    made.observe(scrape(100.0, "a", waiting=2.0))
    made.observe(scrape(100.0, "b", waiting=5.0))
    made.expect(("a",), 100.5)
    assert look(made, 101.0).reading(Signal.REQUESTS_WAITING).current == 2.0
    assert [load.replica_id for load in look(made, 101.0).replicas] == ["a", "b"], "its drain is still watched"
    made.forget("b")
    assert [load.replica_id for load in look(made, 102.0).replicas] == ["a"]


def test_without_knowing_whom_to_expect_whoever_reported_counts_until_forgotten() -> None:
    made = window(expect=None)
    made.observe(scrape(100.0, "a", waiting=2.0))
    made.observe(scrape(90.0, "b", waiting=5.0))
    assert look(made, 101.0).reading(Signal.REQUESTS_WAITING).current == 7.0
    made.observe(scrape(106.0, "a", waiting=2.0))
    assert freshness(look(made, 106.0), Signal.REQUESTS_WAITING) is Freshness.STALE
    made.forget("b")
    assert look(made, 106.5).reading(Signal.REQUESTS_WAITING).current == 2.0


def test_a_gauge_missing_from_one_page_is_taken_from_the_page_before() -> None:
    made = window()
    made.observe(scrape(100.0, waiting=2.0, kv=0.5))
    made.observe(scrape(101.0, waiting=3.0, kv=None))
    assert look(made, 101.0).reading(Signal.KV_CACHE_USE).current == 0.5
    made.observe(scrape(120.0, waiting=3.0, kv=None))
    snapshot = look(made, 120.0)
    assert snapshot.reading(Signal.REQUESTS_WAITING).current == 3.0
    assert freshness(snapshot, Signal.KV_CACHE_USE) is Freshness.STALE


def test_an_engine_without_a_metric_leaves_only_that_signal_absent() -> None:
    made = window()
    for at in (100.0, 105.0):
        made.observe(scrape(at, preempted=None, generated=at * 10))
    snapshot = look(made, 105.0)
    assert freshness(snapshot, Signal.PREEMPTION_RATE) is Freshness.ABSENT
    assert snapshot.reading(Signal.GENERATION_TOKEN_RATE).current == pytest.approx(10.0)


def test_a_latency_of_which_nothing_was_observed_is_zero_only_while_nobody_waits() -> None:
    made = window()
    for at in (100.0, 101.0):
        made.observe(scrape(at))
    assert freshness(look(made, 101.0), Signal.TTFT_P95) is Freshness.ZERO
    made.observe(scrape(102.0, waiting=3.0))
    assert freshness(look(made, 102.0), Signal.TTFT_P95) is Freshness.STALE, "a hung engine must not look fast"


def test_a_gateway_with_waiting_requests_and_no_first_token_does_not_look_fast() -> None:
    made = window()
    made.observe(report(100.0, 1, in_flight=2, waiting=2, oldest=99.0))
    assert freshness(look(made, 100.0), Signal.TTFT_P95) is Freshness.ABSENT


# Sums, means and sources.


def test_loads_add_up_over_replicas_and_cache_use_is_their_mean() -> None:
    made = window(expect=("a", "b"))
    made.observe(scrape(100.0, "a", running=4.0, waiting=2.0, kv=0.9))
    made.observe(scrape(100.0, "b", running=6.0, waiting=0.0, kv=0.5))
    snapshot = look(made, 100.0)
    assert snapshot.reading(Signal.REQUESTS_RUNNING).current == 10.0
    assert snapshot.reading(Signal.REQUESTS_PER_REPLICA).current == 6.0
    assert snapshot.reading(Signal.KV_CACHE_USE).current == pytest.approx(0.7)
    assert [(load.requests_running, load.kv_cache_use) for load in snapshot.replicas] == [(4.0, 0.9), (6.0, 0.5)]


def test_gateways_tell_the_load_where_engines_do_not() -> None:
    made = window(expect=("a", "b"))
    made.observe(report(100.0, 1, "g1", in_flight=5, waiting=2, oldest=99.0))
    made.observe(report(100.0, 1, "g2", in_flight=3, waiting=0))
    snapshot = look(made, 100.0)
    assert snapshot.reading(Signal.REQUESTS_WAITING).current == 2.0
    assert snapshot.reading(Signal.REQUESTS_RUNNING).current == 6.0
    assert snapshot.reading(Signal.REQUESTS_PER_REPLICA).current == 4.0


def test_users_latency_comes_from_gateways_and_queue_time_from_engines() -> None:
    made = window()
    made.observe(scrape(100.0))
    made.observe(
        scrape(105.0, ttft=histogram(0.0, 0.0, 10.0, 10.0), queue_time=histogram(0.0, 10.0, 10.0, 10.0), finished=10.0)
    )
    assert look(made, 105.0).reading(Signal.TTFT_P50).current == 1.5
    made.observe(report(105.0, 1, ttft=Sketch.of([3.0] * 10)))
    snapshot = look(made, 105.0)
    assert snapshot.reading(Signal.TTFT_P50).current == pytest.approx(3.0, rel=0.045)
    assert snapshot.reading(Signal.QUEUE_TIME_P95).current == pytest.approx(0.975)


def test_replicas_with_other_buckets_still_give_one_quantile() -> None:
    made = window(expect=("a", "b"))
    other = (1.0, math.inf)
    for at, seen in ((100.0, 0.0), (105.0, 10.0)):
        made.observe(scrape(at, "a", ttft=histogram(0.0, seen, seen, seen)))
        made.observe(scrape(at, "b", ttft=histogram(seen, seen, bounds=other)))
    # Ten in (0.5, 1.0], ten even over (0, 1.0]: three quarters of the ten lie below 0.75 and half of the other.
    assert look(made, 105.0).reading(Signal.TTFT_P50).current == pytest.approx(2 / 3, abs=0.01)


# Rates.


def test_rates_are_the_increase_over_the_time_between_the_samples() -> None:
    made = window()
    for at in (100.0, 104.0, 108.0):
        made.observe(scrape(at, prompt=at * 7, generated=at * 3, finished=at * 2))
    snapshot = look(made, 108.5)
    assert snapshot.reading(Signal.PROMPT_TOKEN_RATE).current == pytest.approx(7.0)
    assert snapshot.reading(Signal.GENERATION_TOKEN_RATE).current == pytest.approx(3.0)
    assert snapshot.reading(Signal.ARRIVAL_RATE).current == pytest.approx(2.0)


def test_arrivals_are_finished_requests_plus_the_growth_of_those_inside() -> None:
    made = window()
    made.observe(scrape(100.0, finished=50.0, running=2.0, waiting=0.0))
    made.observe(scrape(110.0, finished=70.0, running=4.0, waiting=8.0))
    assert look(made, 110.0).reading(Signal.ARRIVAL_RATE).current == pytest.approx(3.0)


def test_a_counter_that_falls_was_reset_and_counts_from_zero() -> None:
    made = window()
    for at, generated in ((100.0, 900.0), (102.0, 1000.0), (104.0, 10.0), (110.0, 60.0)):
        made.observe(scrape(at, prompt=generated, generated=generated, ttft=histogram(*[generated] * 4)))
    snapshot = look(made, 110.0)
    assert snapshot.reading(Signal.GENERATION_TOKEN_RATE).current == pytest.approx(16.0)
    assert snapshot.reading(Signal.TTFT_P95).current is not None


def test_arrivals_at_gateways_count_by_the_time_they_cover() -> None:
    made = window()
    for second in range(1, 31):
        made.observe(report(float(second), second, "g1", arrived=4, failed=1))
        if second > 27:
            made.observe(report(second - 0.5, second, "g2", arrived=2))
    snapshot = look(made, 30.0)
    assert snapshot.reading(Signal.ARRIVAL_RATE).current == pytest.approx((10 * 4 + 3 * 2) / 10)
    assert snapshot.reading(Signal.FAILURE_RATE).current == pytest.approx(1.0)


def test_ten_thousand_reports_in_falling_order_count_once_each() -> None:
    made = window()
    for _ in range(2):
        for number in range(10_000, 0, -1):
            made.observe(report(10.0 + number * 1e-3, number, arrived=1))
    snapshot = look(made, 20.0)
    assert snapshot.reading(Signal.ARRIVAL_RATE).current == pytest.approx(1.0)


@pytest.mark.parametrize("between", [1, 40], ids=["one by one", "in two halves"])
def test_the_reports_of_many_gateways_tell_the_same_at_once_as_with_looks_between_them(between: int) -> None:
    at_once, with_looks = window(), window()
    for number in range(80):
        values = [0.1 * 1.4 ** (number // 12 + step) for step in range(5)]
        told = replace(
            report(10.0 + number * 1e-3, 1, f"g{number}", ttft=Sketch.of(values), prompt=Sketch.of(values[:4])),
            inter_token=Sketch.of(values[1:]),
            output_tokens=Sketch.of(values[2:]),
        )
        at_once.observe(told)
        with_looks.observe(told)
        if number % between == between - 1:
            look(with_looks, 10.5)
    snapshot = look(at_once, 11.0)
    assert snapshot.readings == look(with_looks, 11.0).readings
    assert snapshot.reading(Signal.TTFT_P50).value == pytest.approx(0.1 * 1.4**5, rel=0.045)
    assert snapshot.reading(Signal.GENERATION_TOKEN_RATE).value is not None


def test_token_rates_come_from_gateways_where_engines_do_not_tell() -> None:
    made = window()
    for second in range(1, 21):
        made.observe(report(float(second), second, arrived=2, prompt=Sketch.of([100.0, 300.0])))
    assert look(made, 20.0).reading(Signal.PROMPT_TOKEN_RATE).current == pytest.approx(400.0, rel=0.045)


# Queue age.


def test_the_oldest_request_at_any_live_gateway_gives_the_queue_age() -> None:
    made = window()
    made.observe(report(100.0, 1, "g1", waiting=1, oldest=98.0))
    made.observe(report(100.0, 1, "g2", waiting=1, oldest=93.0))
    assert look(made, 100.5).reading(Signal.QUEUE_AGE).current == 7.0
    assert look(made, 103.0).reading(Signal.QUEUE_AGE).current == 9.0, "the report is overdue by two seconds"


def test_a_gateways_clock_that_is_off_does_not_change_the_age() -> None:
    made = window()
    made.observe(report(400.0, 1, waiting=1, oldest=395.0, received_at=100.0))
    snapshot = look(made, 100.0)
    assert snapshot.reading(Signal.QUEUE_AGE).current == 5.0
    assert made.skewed == {"gw": -300.0}
    made.observe(report(102.0, 2))
    assert made.skewed == {}


def test_a_restarted_gateway_no_longer_has_what_waited_before() -> None:
    made = window()
    made.observe(report(100.0, 90, waiting=3, oldest=80.0))
    made.observe(report(101.0, 1, boot="boot-2"))
    assert look(made, 101.0).reading(Signal.QUEUE_AGE).current == 0.0


def test_without_gateways_the_age_is_when_the_next_to_start_arrived() -> None:
    made = window()
    # Two a second arrive, one a second is done: at 110 s 20 came, 10 started, so the 11th waits: it came at 105.5 s.
    for second in range(11):
        made.observe(scrape(100.0 + second, running=0.0, waiting=float(second), finished=float(second)))
    assert look(made, 110.0).reading(Signal.QUEUE_AGE).current == pytest.approx(4.5, abs=0.5)


def test_an_estimated_age_is_never_older_than_the_last_moment_without_a_queue() -> None:
    made = window()
    made.observe(scrape(100.0, waiting=0.0, finished=None))
    made.observe(scrape(104.0, waiting=5.0, finished=None))
    made.observe(scrape(110.0, waiting=9.0, finished=None))
    age = look(made, 110.0).reading(Signal.QUEUE_AGE).current
    assert age is not None
    assert 6.0 <= age <= 10.0


# Windows.


def test_a_condition_is_covered_once_it_held_at_every_second_of_the_span() -> None:
    made = window(WAITING_30)
    covered_at = []
    for second in range(100, 140):
        made.observe(scrape(float(second), waiting=3.0 if second < 120 else 8.0))
        if look(made, float(second)).window(Signal.REQUESTS_WAITING, 30.0).covered:
            covered_at.append(second)
    assert covered_at[0] == 130
    seen = look(made, 139.0).window(Signal.REQUESTS_WAITING, 30.0)
    assert (seen.minimum, seen.maximum) == (3.0, 8.0)
    assert seen.mean == pytest.approx((11 * 3 + 20 * 8) / 31)


def test_one_snapshot_at_the_end_says_the_same_of_the_past_as_one_each_second() -> None:
    often, once = window(WAITING_30), window(WAITING_30)
    for second in range(100, 140):
        sample = scrape(float(second), waiting=float(second % 7))
        often.observe(sample)
        once.observe(sample)
        last = look(often, float(second))
    assert look(once, 139.0).windows == last.windows


@pytest.mark.parametrize(("gap_s", "covered"), [(14, True), (17, False)], ids=["within patience", "beyond patience"])
def test_a_gap_longer_than_patience_breaks_the_cover(gap_s: int, covered: bool) -> None:
    made = window(WAITING_30)
    for second in (*range(60, 110), *range(109 + gap_s, 130)):
        made.observe(scrape(float(second), waiting=3.0))
    assert look(made, 129.0).window(Signal.REQUESTS_WAITING, 30.0).covered is covered


def test_a_window_between_two_seconds_reaches_back_to_the_second_before_its_start() -> None:
    made = window(WAITING_30)
    for second in range(100, 131):
        made.observe(scrape(second + 0.25, waiting=3.0))
    assert not look(made, 130.5).window(Signal.REQUESTS_WAITING, 30.0).covered
    assert look(made, 131.0).window(Signal.REQUESTS_WAITING, 30.0).covered


def test_other_needs_keep_what_is_known_of_the_past() -> None:
    made = window(WindowNeed(Signal.REQUESTS_WAITING, 60.0))
    for second in range(100, 161):
        made.observe(scrape(float(second), waiting=3.0))
        look(made, float(second))
    made.reconfigure((WAITING_30, WindowNeed(Signal.REQUESTS_WAITING, 300.0)), PATIENCE_S)
    made.observe(scrape(161.0, waiting=3.0))
    snapshot = look(made, 161.0)
    assert snapshot.window(Signal.REQUESTS_WAITING, 30.0).covered
    assert not snapshot.window(Signal.REQUESTS_WAITING, 300.0).covered
    assert snapshot.window(Signal.REQUESTS_WAITING, 300.0).minimum == 3.0


def test_a_window_looks_at_each_second_at_its_own_moment() -> None:
    made = SignalWindow(MODEL, (WindowNeed(Signal.REQUESTS_WAITING, 5.0),), PATIENCE_S, phase_s=0.25)
    for second in range(100, 120):
        made.observe(scrape(second + 0.25, waiting=float(second)))
        made.observe(scrape(second + 0.5, waiting=1000.0))
    seen = look(made, 118.25).window(Signal.REQUESTS_WAITING, 5.0)
    assert (seen.minimum, seen.maximum, seen.mean) == (113.0, 118.0, 115.5)
    assert seen.covered


def test_a_shorter_patience_counts_from_the_next_snapshot_on() -> None:
    made = window()
    made.observe(scrape(100.0, waiting=4.0))
    assert look(made, 106.0).reading(Signal.REQUESTS_WAITING).current == 4.0
    made.reconfigure((), 5.0)
    assert freshness(look(made, 106.0), Signal.REQUESTS_WAITING) is Freshness.STALE


# What arrives twice, late, or from the future.


def test_duplicates_change_nothing() -> None:
    once, twice = window(), window()
    for second in range(100, 110):
        for sample in (scrape(float(second), generated=second * 5.0), report(float(second), second, arrived=2)):
            once.observe(sample)
            twice.observe(sample)
            assert twice.observe(sample) is False
    assert look(once, 110.0) == look(twice, 110.0)


def test_what_comes_after_the_past_was_settled_is_counted_and_passed_over() -> None:
    made = window()
    made.observe(scrape(120.0, waiting=1.0))
    before = look(made, 120.0)
    assert made.observe(scrape(104.0, waiting=50.0)) is False
    assert made.late == 1
    assert look(made, 120.0).readings == before.readings


def test_a_sample_from_the_future_stands_where_it_was_received() -> None:
    made = window()
    made.observe(scrape(500.0, waiting=4.0, received_at=100.0))
    assert look(made, 100.0).reading(Signal.REQUESTS_WAITING).observed_at == 100.0
    assert made.skewed == {"a": -400.0}
    assert freshness(look(made, 116.0), Signal.REQUESTS_WAITING) is Freshness.STALE


# When a snapshot is due, and what is kept.


def test_a_snapshot_is_due_when_somebody_appears_or_a_queue_begins() -> None:
    made = window(expect=None)
    assert made.observe(scrape(100.0, "a")) is True
    assert made.observe(scrape(101.0, "a")) is False
    assert made.observe(scrape(102.0, "a", waiting=1.0)) is True
    assert made.observe(scrape(103.0, "a", waiting=2.0)) is False
    assert made.observe(scrape(104.0, "a", waiting=0.0)) is False
    assert made.observe(report(104.0, 1)) is True
    assert made.observe(report(105.0, 2, waiting=1, oldest=104.9)) is True
    assert made.expect(("a",), 105.0) is True
    assert made.expect(("a",), 106.0) is False
    assert made.forget("a") is True
    assert made.forget("a") is False


def test_snapshots_are_numbered() -> None:
    made = SignalWindow(MODEL, (), PATIENCE_S, first_sequence=7)
    assert [look(made, 1.0).sequence, look(made, 1.0).sequence] == [7, 8]


def test_memory_stays_bounded_whatever_comes() -> None:
    made = window(WAITING_30, expect=None)
    sizes = []
    for second in range(1000):
        made.observe(scrape(float(second), f"replica-{second // 50}", waiting=1.0))
        made.observe(report(float(second), second, f"gateway-{second // 50}", waiting=1, oldest=second - 0.5))
        look(made, float(second))
        sizes.append(held(made))
    assert max(sizes[500:]) <= max(sizes[200:500])


def held(thing: object, seen: set[int] | None = None) -> int:
    """How many objects are reachable, array elements included."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, str | int | float | bytes | type(None)):
        return 1
    seen.add(id(thing))
    parts: list[object] = []
    if isinstance(thing, dict):
        parts = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        parts = list(thing)
    elif hasattr(thing, "size"):
        return int(thing.size)
    elif hasattr(thing, "__slots__"):
        parts = [getattr(thing, name) for name in thing.__slots__]
    elif hasattr(thing, "__dict__"):
        parts = list(vars(thing).values())
    return 1 + sum(held(part, seen) for part in parts)
