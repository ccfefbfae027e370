"""Floors and ceilings by the wall clock of one time zone, and when they next change.

An entry holds whenever the local wall clock shows a time in it. On the day the clock goes forward the skipped hour
does not happen; on the day it goes back the repeated hour happens twice. Days and dates are those on which the entry
*begins*: one from Friday 22:00 to 06:00 ends on Saturday morning.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

DAY_S = 86400.0
MINUTES_PER_DAY = 1440
LOOK_AHEAD_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Replicas allowed: at least ``floor``, at most ``ceiling``."""

    floor: int
    ceiling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a schedule.

    ``days`` count from Monday = 0, none means all. Minutes count from local midnight; ``to_minute`` up to and equal
    to ``from_minute`` lies on the next day. Dates are ``YYYY-MM-DD``, both inclusive. A bound that is None is left
    as it is.
    """

    name: str
    days: tuple[int, ...] = ()
    from_minute: int = 0
    to_minute: int = 0
    first_date: str | None = None
    last_date: str | None = None
    floor: int | None = None
    ceiling: int | None = None

    def holds(self, local: datetime) -> bool:
        minute = local.hour * 60 + local.minute
        today = local.date()
        if self.from_minute < self.to_minute:
            return self.from_minute <= minute < self.to_minute and self._begins_on(today)
        if minute >= self.from_minute and self._begins_on(today):
            return True
        return minute < self.to_minute and self._begins_on(today - timedelta(days=1))

    def _begins_on(self, day: date) -> bool:
        if self.days and day.weekday() not in self.days:
            return False
        text = day.isoformat()  # compares as text in the order of time
        return (self.first_date or text) <= text <= (self.last_date or text)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds at one time, and which entries say so (none: the default)."""

    floor: int
    ceiling: int
    entries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timetable:
    """``entries`` apply in order over ``default``: a later one wins, and moves the other bound if they cross."""

    time_zone: str
    default: Range
    entries: tuple[Entry, ...] = ()


def bounds_at(timetable: Timetable, instant: float) -> Bounds:
    """The bounds at ``instant`` (seconds since the Unix epoch); ``floor`` <= ``ceiling`` if each entry has it so."""
    local = datetime.fromtimestamp(instant, ZoneInfo(timetable.time_zone))
    floor, ceiling = timetable.default.floor, timetable.default.ceiling
    names = []
    for entry in timetable.entries:
        if entry.holds(local):
            names.append(entry.name)
            if entry.floor is not None:
                floor, ceiling = entry.floor, max(ceiling, entry.floor)
            if entry.ceiling is not None:
                floor, ceiling = min(floor, entry.ceiling), entry.ceiling
    return Bounds(floor, ceiling, tuple(names))


def stretch_at(timetable: Timetable, instant: float) -> tuple[Bounds, float | None]:
    """The bounds at ``instant`` and until when they surely hold: their next change, or a look-ahead of six to seven
    days in which there is none. None: they never change."""
    if not timetable.entries:
        return bounds_at(timetable, instant), None
    today = math.floor(instant / DAY_S)
    changes = _changes_of_day(timetable, today)
    current = changes[bisect_right(changes, instant, key=lambda change: change[0]) - 1][1]
    for day in range(today, today + LOOK_AHEAD_DAYS):
        for at, bounds in _changes_of_day(timetable, day):
            if at > instant and bounds != current:
                return current, at
    return current, (today + LOOK_AHEAD_DAYS) * DAY_S


@functools.lru_cache(maxsize=4096)
def _changes_of_day(timetable: Timetable, day: int) -> tuple[tuple[float, Bounds], ...]:
    """The bounds at the beginning of one day of UTC and each change of them within it, by time.

    Kept, because every decision asks and a day's answer costs some hundred conversions of local time.
    """
    begin, end = day * DAY_S, (day + 1) * DAY_S
    zone = ZoneInfo(timetable.time_zone)
    instants = {begin, *_clock_changes(zone, begin, end)}
    minutes = {m % MINUTES_PER_DAY for entry in timetable.entries for m in (entry.from_minute, entry.to_minute)}
    local_day, last_local_day = (datetime.fromtimestamp(at, zone).date() for at in (begin, end))
    while local_day <= last_local_day:
        for minute in minutes:
            for fold in (0, 1):  # the repeated hour's times happen twice
                local = datetime(
                    local_day.year, local_day.month, local_day.day, *divmod(minute, 60), fold=fold, tzinfo=zone
                )
                instants.add(local.timestamp())
        local_day += timedelta(days=1)
    within = sorted(instant for instant in instants if begin <= instant < end)
    found = [(instant, bounds_at(timetable, instant)) for instant in within]
    return (found[0], *(later for earlier, later in pairwise(found) if later[1] != earlier[1]))


def _clock_changes(zone: ZoneInfo, begin: float, end: float) -> tuple[float, ...]:
    """When the zone's distance from UTC changes within one day: zoneinfo does not tell, so it is searched for."""

    def offset(instant: float) -> timedelta | None:
        return datetime.fromtimestamp(instant, zone).utcoffset()

    if offset(begin) == offset(end):
        return ()
    before, after = int(begin), int(end)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if offset(middle) == offset(begin) else (before, middle)
    return (float(after),)
