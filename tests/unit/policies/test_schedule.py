"""The schedule: which bounds hold when (both clock changes included), until when, and what it makes of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import ConfigError
from broker.model.plan import Recommendation
from broker.model.reading import Freshness
from broker.model.signals import Signal
from broker.model.snapshot import FleetSnapshot
from broker.model.spec import PolicySpec
from broker.model.state import Memory
from policies.registry import build
from policies.timetable import LOOK_AHEAD_DAYS, Bounds, Entry, Range, Timetable, bounds_at, stretch_at
from tests.unit.policies.fleet import NOON, fleet, threshold, through_json, window

BERLIN = ZoneInfo("Europe/Berlin")
Line = dict[str, Any]

OFFICE: Line = {
    "name": "office",
    "days": [0, 1, 2, 3, 4],
    "from_minute": 480,
    "to_minute": 1080,
    "floor": 2,
    "ceiling": 6,
}
NIGHT: Line = {"name": "night", "days": [4], "from_minute": 1320, "to_minute": 360, "ceiling": 1}
CAMPAIGN: Line = {"name": "campaign", "first_date": "2030-03-04", "last_date": "2030-03-05", "floor": 8, "ceiling": 9}
SECOND_HOUR: Line = {"name": "second hour", "from_minute": 120, "to_minute": 180, "floor": 3}
HALF_PAST: Line = {"name": "half past", "from_minute": 150, "to_minute": 210, "floor": 4}


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    """``2030-03-04 08:00`` on the zone's wall clock, or with an explicit offset, in epoch seconds."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def schedule(*entries: Line, within: PolicySpec | None = None, floor: int = 1, ceiling: int = 4) -> PolicySpec:
    inner: Any = None if within is None else {"kind": within.kind, "parameters": dict(within.parameters)}
    return PolicySpec(
        "schedule",
        {
            "time_zone": "Europe/Berlin",
            "default": {"floor": floor, "ceiling": ceiling},
            "entries": list(entries),
            "within": inner,
        },
    )


def ask(spec: PolicySpec, snapshot: FleetSnapshot, memory: Memory | None = None) -> tuple[Recommendation, Memory]:
    return build(spec).recommend(snapshot, memory or {})


def floor_at(when: float, *entries: Line) -> int:
    return ask(schedule(*entries), fleet(now=when))[0].target


# 2030-03-04 is a Monday.
MOMENTS = [
    ("before the office opens the default holds", [OFFICE], "2030-03-04 07:59:59", 1),
    ("from its first minute the entry holds", [OFFICE], "2030-03-04 08:00:00", 2),
    ("in its last second the entry holds", [OFFICE], "2030-03-04 17:59:59", 2),
    ("at its end the entry holds no more", [OFFICE], "2030-03-04 18:00:00", 1),
    ("on Saturday the office is closed", [OFFICE], "2030-03-09 12:00:00", 1),
    ("equal times are a whole day", [CAMPAIGN], "2030-03-04 00:00:00", 8),
    ("the last date is included", [CAMPAIGN], "2030-03-05 23:59:59", 8),
    ("after the last date it is over", [CAMPAIGN], "2030-03-06 00:00:00", 1),
    ("before the first date it has not begun", [CAMPAIGN], "2030-03-03 23:59:59", 1),
    ("a later entry wins", [OFFICE, CAMPAIGN], "2030-03-04 12:00:00", 8),
    ("the order of entries decides, not their length", [CAMPAIGN, OFFICE], "2030-03-04 12:00:00", 2),
    ("24:00 is the end of the day", [OFFICE | {"to_minute": 1440}], "2030-03-04 23:59:59", 2),
    ("a night that begins on Friday lasts into Saturday", [NIGHT | {"floor": 0}], "2030-03-09 05:59:59", 0),
    ("a night that begins on Friday does not touch Friday morning", [NIGHT | {"floor": 0}], "2030-03-08 05:00:00", 1),
    (
        "dates are those on which an entry begins",
        [NIGHT | {"last_date": "2030-03-08", "floor": 0}],
        "2030-03-09 05:00",
        0,
    ),
    # Berlin goes from +01:00 to +02:00 on 2030-03-31 at 02:00 and back on 2030-10-27 at 03:00.
    ("before the clock goes forward winter time counts", [SECOND_HOUR], "2030-03-31 01:59:59+01:00", 1),
    ("the skipped hour does not happen", [SECOND_HOUR], "2030-03-31 03:00:00+02:00", 1),
    ("an entry that begins in the skipped hour begins after it", [HALF_PAST], "2030-03-31 03:00:00+02:00", 4),
    ("and ends by the new time", [HALF_PAST], "2030-03-31 03:30:00+02:00", 1),
    ("the repeated hour happens once in summer time", [SECOND_HOUR], "2030-10-27 02:59:59+02:00", 3),
    ("and once in winter time", [SECOND_HOUR], "2030-10-27 02:00:00+01:00", 3),
    ("an entry from half past ends when the hour repeats", [HALF_PAST], "2030-10-27 02:00:00+01:00", 1),
    ("after the change the office opens by the new time", [OFFICE], "2030-10-28 08:00:00+01:00", 2),
    ("and not by the old one", [OFFICE], "2030-10-28 08:00:00+02:00", 1),
]


@pytest.mark.parametrize(("entries", "when", "floor"), [m[1:] for m in MOMENTS], ids=[m[0] for m in MOMENTS])
def test_the_floor_is_that_of_the_wall_clock(entries: list[Line], when: str, floor: int) -> None:
    assert floor_at(at(when), *entries) == floor


ENDS = [
    ("until the office opens", [OFFICE], "2030-03-04 07:00", "2030-03-04 08:00"),
    ("until it closes", [OFFICE], "2030-03-04 08:00", "2030-03-04 18:00"),
    ("over the weekend until Monday", [OFFICE], "2030-03-08 18:00", "2030-03-11 08:00"),
    ("over two whole days that are alike", [CAMPAIGN], "2030-03-04 00:00", "2030-03-06 00:00"),
    ("until the clock goes forward into the entry", [HALF_PAST], "2030-03-31 01:00+01:00", "2030-03-31 03:00+02:00"),
    ("until the clock goes back out of the entry", [HALF_PAST], "2030-10-27 02:45+02:00", "2030-10-27 02:00+01:00"),
    ("across both turns of the repeated hour", [SECOND_HOUR], "2030-10-27 02:00+02:00", "2030-10-27 03:00+01:00"),
    (
        "past a boundary at which nothing changes",
        [OFFICE | {"floor": 1, "ceiling": 4}],
        "2030-03-04 07:00",
        "2030-03-04 08:00",
    ),
]


@pytest.mark.parametrize(("entries", "when", "end"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS])
def test_an_answer_tells_until_when_it_holds(entries: list[Line], when: str, end: str) -> None:
    assert ask(schedule(*entries), fleet(now=at(when)))[0].valid_until == at(end)


def test_without_a_change_in_sight_it_asks_to_be_looked_at_within_a_week() -> None:
    now = at("2030-01-01 12:00")
    until = ask(schedule(CAMPAIGN), fleet(now=now))[0].valid_until
    assert until is not None
    assert now + (LOOK_AHEAD_DAYS - 1) * 86400 <= until <= now + LOOK_AHEAD_DAYS * 86400


def test_without_entries_nothing_ever_changes() -> None:
    assert ask(schedule(), fleet())[0].valid_until is None


def test_alone_it_asks_for_its_floor_without_any_signal() -> None:
    recommendation, memory = ask(schedule(OFFICE), fleet(now=at("2030-03-04 12:00"), target=6))
    assert (recommendation.target, recommendation.baseline, recommendation.hold) == (2, 2, False)
    assert recommendation.words == "schedule entry office asks for 2"
    assert memory == {}


def test_a_model_without_a_policy_is_not_told_of_a_schedule() -> None:
    """Its bounds are equal, and ``policies.yaml`` says no word of a schedule."""
    assert ask(schedule(floor=1, ceiling=1), fleet())[0].words == "at least 1, at most 1: there is nothing to decide"
    assert ask(schedule(), fleet())[0].words == "the schedule's default asks for 1"


CROSSINGS = [
    ("a later floor lifts an earlier ceiling", [{"name": "a", "ceiling": 2}, {"name": "b", "floor": 5}], (5, 5)),
    ("a later ceiling lowers an earlier floor", [{"name": "a", "floor": 5}, {"name": "b", "ceiling": 2}], (2, 2)),
    ("a bound that is not given stays", [{"name": "a", "floor": 2, "ceiling": 9}, {"name": "b", "floor": 3}], (3, 9)),
]


@pytest.mark.parametrize(("lines", "expected"), [c[1:] for c in CROSSINGS], ids=[c[0] for c in CROSSINGS])
def test_where_entries_cross_the_later_one_is_the_last_word(lines: list[Line], expected: tuple[int, int]) -> None:
    table = Timetable("UTC", Range(floor=1, ceiling=4), tuple(Entry(**line) for line in lines))
    bounds = bounds_at(table, NOON)
    assert (bounds.floor, bounds.ceiling) == expected


# Around another policy.

INNER = threshold(
    {"name": "queue", "signal": "queue_age_s", "above": 5, "for_s": 30, "change": 1},
    {"name": "idle", "signal": "queue_age_s", "below": 1, "for_s": 60, "change": -1},
)
OPEN = at("2030-03-04 12:00")


def busy(target: int, age: float, *, freshness: Freshness = Freshness.FRESH, now: float = OPEN) -> FleetSnapshot:
    windows = [window(Signal.QUEUE_AGE, span, age, freshness=freshness, observed_at=now) for span in (30.0, 60.0)]
    return fleet(*windows, target=target, now=now)


@dataclass(frozen=True)
class Clamp:
    id: str
    fleet: FleetSnapshot
    target: int
    code: str
    hold: bool = False
    relative: bool = True


CLAMPS = [
    Clamp("between floor and ceiling the inner policy decides", busy(3, 9), 4, "rule_scale_out"),
    Clamp("no more than the ceiling", busy(6, 9), 6, "schedule_ceiling", relative=False),
    Clamp("no less than the floor", busy(2, 0), 2, "schedule_floor", relative=False),
    Clamp("a hold inside the bounds stays a hold", busy(3, 9, freshness=Freshness.STALE), 3, "signals_unusable", True),
    Clamp("below the floor a hold gives way", fleet(target=0, now=OPEN), 2, "schedule_floor", relative=False),
    Clamp("above the ceiling a hold gives way", fleet(target=8, now=OPEN), 6, "schedule_ceiling", relative=False),
]


@pytest.mark.parametrize("case", CLAMPS, ids=lambda case: case.id)
def test_an_inner_policy_is_kept_between_floor_and_ceiling(case: Clamp) -> None:
    recommendation, _ = ask(schedule(OFFICE, within=INNER), case.fleet)
    assert (recommendation.target, recommendation.code, recommendation.hold, recommendation.relative) == (
        case.target,
        case.code,
        case.hold,
        case.relative,
    )
    assert recommendation.baseline == 2


def test_a_clamp_says_what_was_wanted_and_why() -> None:
    words = ask(schedule(OFFICE, within=INNER), busy(6, 9))[0].words
    assert words.startswith("schedule entry office asks for at most 6 where 7 was wanted (+1 by rule queue")


def test_needs_are_those_of_the_inner_policy() -> None:
    assert build(schedule(within=INNER)).needs() == build(INNER).needs()
    assert build(schedule()).needs() == ()


def test_the_inner_policy_keeps_its_memory_apart() -> None:
    _, memory = ask(schedule(OFFICE, within=INNER), busy(3, 9))
    again, _ = ask(schedule(OFFICE, within=INNER), busy(3, 9, now=OPEN + 1), through_json(memory))
    assert set(memory) == {"within"}
    assert again.code == "rearming"


def test_the_earlier_of_both_ends_counts() -> None:
    _, memory = ask(schedule(OFFICE, within=INNER), busy(3, 9))
    again, _ = ask(schedule(OFFICE, within=INNER), busy(3, 9, now=OPEN + 1), memory)
    assert again.valid_until == OPEN + 30


def test_a_schedule_within_a_schedule_is_kept_by_both() -> None:
    inner = schedule({"name": "all", "floor": 9}, ceiling=9)
    recommendation, _ = ask(schedule(OFFICE, within=inner), fleet(now=OPEN))
    assert recommendation.target == 6


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("an unknown time zone", {"time_zone": "Europe/Bärlin"}, "time_zone", "Europe/Berlin"),
    ("an empty time zone", {"time_zone": ""}, "time_zone", "Europe/Berlin"),
    ("a folder of time zones", {"time_zone": "Europe"}, "time_zone", "Europe/Berlin"),
    ("a path for a time zone", {"time_zone": "../../etc/passwd"}, "time_zone", "Europe/Berlin"),
    ("a floor above the ceiling", {"default": {"floor": 3, "ceiling": 2}}, "default.floor", "above"),
    ("a negative floor", {"default": {"floor": -1, "ceiling": 2}}, "default.floor", "0 or more"),
    ("an unknown field of an entry", {"entries": [OFFICE | {"from": "08:00"}]}, "entries[0].from", "from_minute"),
    ("an unknown day", {"entries": [OFFICE | {"days": [7]}]}, "entries[0].days", "Monday"),
    ("a beginning at 24:00", {"entries": [OFFICE | {"from_minute": 1440}]}, "entries[0].from_minute", "23:59"),
    ("an end after 24:00", {"entries": [OFFICE | {"to_minute": 1441}]}, "entries[0].to_minute", "24:00"),
    ("a date in another form", {"entries": [OFFICE | {"first_date": "20300304"}]}, "entries[0].first_date", "2030-"),
    ("no date at all", {"entries": [OFFICE | {"last_date": "2030-02-30"}]}, "entries[0].last_date", "2030-"),
    (
        "dates in the wrong order",
        {"entries": [CAMPAIGN | {"last_date": "2030-03-03"}]},
        "entries[0].last_date",
        "before",
    ),
    ("an entry that does nothing", {"entries": [{"name": "x"}]}, "entries[0].floor", "neither"),
    ("an entry's floor above its ceiling", {"entries": [OFFICE | {"floor": 7}]}, "entries[0].floor", "above"),
    ("an unnamed entry", {"entries": [OFFICE | {"name": ""}]}, "entries[0].name", "name"),
    ("two entries of one name", {"entries": [OFFICE, OFFICE]}, "entries[1].name", "two entries"),
    ("an unknown inner policy", {"within": {"kind": "oracle"}}, "within.kind", "schedule, threshold"),
    ("a wrong inner rule", {"within": {"kind": "threshold", "parameters": {"rules": []}}}, "within.rules", "at least"),
]


@pytest.mark.parametrize(("change", "field", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_schedule_that_cannot_be_meant_is_refused_with_its_field(
    change: dict[str, Any], field: str, words: str
) -> None:
    spec = PolicySpec("schedule", {**schedule().parameters, **change})
    with pytest.raises(ConfigError) as refused:
        build(spec)
    assert refused.value.field == field
    assert words in refused.value.problem


# Invariants over generated timetables, brought to the weeks in which clocks change.

ZONES = ["Europe/Berlin", "UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
MIDDLES = [at(text) for text in ("2030-03-31 02:00", "2030-10-27 02:00", "2030-06-15 12:00", "2011-12-30 12:00")]


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    low, high = sorted((draw(st.integers(0, 9)), draw(st.integers(0, 9))))
    return low, high


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    low, high = draw(ranges())
    wide = draw(st.booleans())
    return Entry(
        name=draw(st.sampled_from("abc")),
        days=tuple(draw(st.sets(st.integers(0, 6), max_size=3))),
        from_minute=draw(st.one_of(st.integers(0, 1439), st.integers(60, 240))),
        to_minute=draw(st.one_of(st.integers(0, 1440), st.integers(60, 240))),
        first_date=None if wide else draw(st.sampled_from([None, "2030-03-30", "2030-10-27", "2011-12-29"])),
        last_date=None if wide else draw(st.sampled_from([None, "2030-03-31", "2030-10-28", "2011-12-31"])),
        floor=low if draw(st.booleans()) else None,
        ceiling=high,
    )


@st.composite
def timetables(draw: st.DrawFn) -> Timetable:
    low, high = draw(ranges())
    return Timetable(
        draw(st.sampled_from(ZONES)), Range(floor=low, ceiling=high), tuple(draw(st.lists(entries(), max_size=4)))
    )


@given(timetables(), st.sampled_from(MIDDLES), st.integers(-2 * 1440, 2 * 1440), st.integers(0, 59))
def test_the_answer_is_constant_until_its_end_and_different_there(
    table: Timetable, middle: float, minute: int, second: int
) -> None:
    now = middle + 60 * minute + second
    bounds, until = stretch_at(table, now)
    assert bounds == bounds_at(table, now)
    assert bounds.floor <= bounds.ceiling
    end = until if until is not None else now + 3 * 86400
    assert end > now
    probes = [now + 60.0 * step for step in range(int(min(end - now, 2 * 86400) // 60) + 1)]
    assert {bounds_at(table, probe) for probe in (*probes, end - 0.5) if probe < end} <= {bounds}
    if until is not None and until < (now // 86400 + LOOK_AHEAD_DAYS) * 86400:
        assert bounds_at(table, until) != bounds


@given(timetables(), st.sampled_from(MIDDLES), st.integers(-1440, 1440), st.integers(0, 12), st.booleans())
def test_the_target_always_lies_between_floor_and_ceiling(
    table: Timetable, middle: float, minute: int, present: int, usable: bool
) -> None:
    now = middle + 60 * minute
    spec = PolicySpec(
        "schedule",
        {
            "time_zone": table.time_zone,
            "default": {"floor": table.default.floor, "ceiling": table.default.ceiling},
            "entries": [
                {
                    "name": str(index),
                    "days": list(entry.days),
                    "from_minute": entry.from_minute,
                    "to_minute": entry.to_minute,
                    "floor": entry.floor,
                    "ceiling": entry.ceiling,
                }
                for index, entry in enumerate(table.entries)
            ],
            "within": {"kind": INNER.kind, "parameters": dict(INNER.parameters)},
        },
    )
    freshness = Freshness.FRESH if usable else Freshness.STALE
    recommendation, memory = ask(spec, busy(present, 9, freshness=freshness, now=now))
    bounds, _ = stretch_at(build_timetable(spec), now)
    assert bounds.floor <= recommendation.target <= bounds.ceiling
    assert recommendation.baseline == bounds.floor
    assert through_json(memory) == memory


def build_timetable(spec: PolicySpec) -> Timetable:
    built = build(spec)
    timetable = getattr(built, "timetable", None)
    assert isinstance(timetable, Timetable)
    return timetable


def test_a_year_of_office_hours_opens_and_closes_every_weekday_at_the_same_local_time() -> None:
    office = Entry(name="office", days=(0, 1, 2, 3, 4), from_minute=480, to_minute=1080, floor=2, ceiling=6)
    table = Timetable("Europe/Berlin", Range(floor=1, ceiling=4), (office,))
    changes = []
    _, until = stretch_at(table, at("2030-01-01 00:00"))
    while until is not None and until < at("2031-01-01 00:00"):
        changes.append(f"{datetime.fromtimestamp(until, BERLIN):%m-%d %H:%M}")
        _, until = stretch_at(table, until)
    days = (datetime(2030, 1, 1, tzinfo=BERLIN) + timedelta(days=n) for n in range(365))
    weekdays = [day for day in days if day.weekday() < 5]
    assert changes == [f"{day:%m-%d} {time}" for day in weekdays for time in ("08:00", "18:00")]


def test_bounds_name_the_entries_they_come_from() -> None:
    table = Timetable("UTC", Range(floor=1, ceiling=4), (Entry(name="a", floor=2), Entry(name="b", ceiling=3)))
    assert bounds_at(table, NOON) == Bounds(2, 3, ("a", "b"))
