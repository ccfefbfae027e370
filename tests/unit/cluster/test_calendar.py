"""Rules of the week: when jobs may start, also across changes of the clock."""

from __future__ import annotations

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import ConfigError
from simulator.cluster.calendar import Calendar, StartRule, WeeklyWindow
from simulator.cluster.jobs import Started
from simulator.cluster.model import Arrival, SlurmModel, run_to_end
from simulator.cluster.nodes import members
from tests.unit.cluster.clusters import cluster, job, started

HOUR_S = 3600.0
ZONE = "Europe/Berlin"
NIGHTS = tuple(WeeklyWindow(24 * day + 18, 24 * day + 32) for day in range(5))
LONG_AT_NIGHT = StartRule(4 * HOUR_S, NIGHTS, ZONE)
DAY_AND_NIGHT = StartRule(
    0.0,
    tuple(WeeklyWindow(24 * day + 8, 24 * day + 18) for day in range(7))
    + tuple(WeeklyWindow(24 * day + 18, 24 * day + 32) for day in range(7)),
    ZONE,
    ends_inside=True,
)


def at(text: str) -> float:
    """Epoch seconds of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE)).timestamp()


def test_without_rules_everything_may_start_always() -> None:
    calendar = Calendar(())
    assert calendar.longest(0.0) == calendar.changes_at(0.0) == math.inf
    assert calendar.earliest(1e9, 5.0) == 5.0


@pytest.mark.parametrize(
    ("now", "longest_h"),
    [
        ("2024-05-06 17:59:59", 4),  # a Monday
        ("2024-05-06 18:00:00", math.inf),
        ("2024-05-07 07:59:59", math.inf),
        ("2024-05-07 08:00:00", 4),
        ("2024-05-11 12:00:00", 4),
    ],
)
def test_long_jobs_start_while_a_window_is_open(now: str, longest_h: float) -> None:
    assert Calendar((LONG_AT_NIGHT,)).longest(at(now)) == longest_h * HOUR_S


@pytest.mark.parametrize(
    ("now", "limit_h", "expected"),
    [
        ("2024-05-06 12:00:00", 4, "2024-05-06 12:00:00"),
        ("2024-05-06 12:00:00", 5, "2024-05-06 18:00:00"),
        ("2024-05-11 09:00:00", 5, "2024-05-13 18:00:00"),  # no window at weekends
        ("2024-03-30 09:00:00", 5, "2024-04-01 18:00:00"),  # the clock goes forward in between
        ("2024-10-26 09:00:00", 5, "2024-10-28 18:00:00"),  # and back
    ],
)
def test_a_job_may_start_at_the_next_window_by_the_local_clock(now: str, limit_h: float, expected: str) -> None:
    assert Calendar((LONG_AT_NIGHT,)).earliest(limit_h * HOUR_S, at(now)) == at(expected)


def test_a_job_that_must_end_inside_its_window_waits_for_one_that_is_long_enough() -> None:
    calendar = Calendar((DAY_AND_NIGHT,))
    assert calendar.longest(at("2024-05-06 15:30:00")) == 2.5 * HOUR_S
    assert calendar.earliest(2.5 * HOUR_S, at("2024-05-06 15:30:00")) == at("2024-05-06 15:30:00")
    assert calendar.earliest(3 * HOUR_S, at("2024-05-06 15:30:00")) == at("2024-05-06 18:00:00")
    assert calendar.earliest(12 * HOUR_S, at("2024-05-06 08:00:00")) == at("2024-05-06 18:00:00")


def test_a_job_longer_than_every_window_never_starts() -> None:
    assert Calendar((DAY_AND_NIGHT,)).earliest(15 * HOUR_S, at("2024-05-06 15:30:00")) == math.inf


def test_the_timetable_goes_on_for_years_and_back() -> None:
    calendar = Calendar((LONG_AT_NIGHT,))
    for year in (2024, 2031, 2019, 2024):
        assert calendar.earliest(5 * HOUR_S, at(f"{year}-05-15 17:00:00")) <= at(f"{year}-05-20 18:00:00")
        assert calendar.changes_at(at(f"{year}-05-15 17:00:00")) <= at(f"{year}-05-20 18:00:00")


@pytest.mark.parametrize("windows", [(), (WeeklyWindow(5, 5),), (WeeklyWindow(168, 170),), (WeeklyWindow(3, 172),)])
def test_windows_that_are_none_are_refused(windows: tuple[WeeklyWindow, ...]) -> None:
    with pytest.raises(ConfigError):
        StartRule(0.0, windows)


def test_a_long_job_waits_for_its_window_and_short_ones_overtake_it() -> None:
    noon, evening = at("2024-05-06 12:00:00"), at("2024-05-06 18:00:00")
    jobs = [job("long", 4, 5 * HOUR_S), job("short", 4, 2 * HOUR_S), job("later", 4, 4 * HOUR_S)]
    model = SlurmModel(
        cluster(4, start_rules=(LONG_AT_NIGHT,)), starts_at=noon, background=[Arrival(noon, each) for each in jobs]
    )
    assert started(model) == {"long": evening, "short": noon, "later": noon + 2 * HOUR_S}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 9e5), st.integers(1, 4), st.integers(1, 14)), max_size=30))
def test_no_job_starts_outside_its_window_or_runs_over_its_end(jobs: list[tuple[float, int, int]]) -> None:
    began_at = at("2024-03-28 00:00:00")
    arrivals = [
        Arrival(began_at + when, job(str(number), nodes, hours * HOUR_S))
        for number, (when, nodes, hours) in enumerate(sorted(jobs))
    ]
    calendar = Calendar((DAY_AND_NIGHT,))
    model = SlurmModel(cluster(4, start_rules=(DAY_AND_NIGHT,)), starts_at=began_at, background=arrivals)
    starts = [event for event in run_to_end(model) if isinstance(event, Started)]
    assert len(starts) == len(jobs)
    for event in starts:
        assert event.ends_at - event.at <= calendar.longest(event.at)
        assert len(list(members(event.nodes))) <= 4
