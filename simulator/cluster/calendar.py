"""Rules that let jobs start only at certain hours of the week, as sites with a day and a night shift have them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from broker.model.errors import ConfigError

_WEEK_HOURS = 168.0


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """From ``opens`` to ``closes``, in hours since Monday 00:00; over the week's end ``closes`` is above 168."""

    opens: float
    closes: float


@dataclass(frozen=True, slots=True)
class StartRule:
    """Jobs with a limit above ``over_s`` start in ``windows`` only, by the clock of ``time_zone``.

    ``ends_inside``: their limit must also be over when the window closes, so that the nodes are free for the next
    shift. Raises ``ConfigError`` for windows that are none.
    """

    over_s: float
    windows: tuple[WeeklyWindow, ...]
    time_zone: str = "UTC"
    ends_inside: bool = False

    def __post_init__(self) -> None:
        if not self.windows:
            raise ConfigError("a rule without a window would keep its jobs for ever", field="windows")
        for window in self.windows:
            if not 0 <= window.opens < window.closes <= window.opens + _WEEK_HOURS or window.opens >= _WEEK_HOURS:
                raise ConfigError(f"{window} is no part of a week of 168 hours", field="windows")


@dataclass(frozen=True, slots=True)
class _Stretch:
    """From ``begins_at`` to the next stretch the same windows are open. ``longest_s``: by the closed rules;
    ``closing``: of each open rule with ``ends_inside`` the limit it leaves free, and when its window closes."""

    begins_at: float
    longest_s: float
    closing: tuple[tuple[float, float], ...]

    def longest(self, at: float) -> float:
        return min((max(over_s, closes_at - at) for over_s, closes_at in self.closing), default=math.inf)


_LOOK_AHEAD_S = 28 * 86_400.0
_WEEKS_AT_ONCE = 9
"""More than the look-ahead, so that a timetable serves for weeks before the next is made."""


class Calendar:
    """All rules together, as a timetable of stretches."""

    def __init__(self, rules: Sequence[StartRule]) -> None:
        self._rules = tuple(rules)
        self._stretches: list[_Stretch] = []
        self._moments: list[float] = []
        self._until = -math.inf

    def longest(self, at: float) -> float:
        """The longest limit with which a job may start now; infinity where no rule hinders. Between two changes it
        only falls."""
        if not self._rules:
            return math.inf
        stretch = self._stretches_from(at)[self._index(at)]
        return min(stretch.longest_s, stretch.longest(at))

    def longest_ever(self, at: float) -> float:
        """The longest limit that may start at some time of the weeks from ``at`` on."""
        if not self._rules:
            return math.inf
        return max(min(each.longest_s, each.longest(each.begins_at)) for each in self._stretches_from(at))

    def changes_at(self, at: float) -> float:
        """When a window opens or closes next; infinity without rules."""
        if not self._rules:
            return math.inf
        self._stretches_from(at)
        return self._moments[self._index(at) + 1]

    def earliest(self, limit_s: float, at: float) -> float:
        """The first moment from ``at`` on at which a job of this limit may start; infinity if there is none in four
        weeks (it is longer than every window, or its rules have none in common)."""
        if limit_s <= self.longest(at):
            return at
        for stretch in self._stretches_from(at)[self._index(at) + 1 :]:
            if limit_s <= min(stretch.longest_s, stretch.longest(stretch.begins_at)):
                return stretch.begins_at
        return math.inf

    def _index(self, at: float) -> int:
        return bisect_right(self._moments, at) - 1

    def _stretches_from(self, at: float) -> list[_Stretch]:
        if not self._moments or not self._moments[0] <= at <= self._until:
            self._stretches = _timetable(self._rules, at)
            self._moments = [stretch.begins_at for stretch in self._stretches]
            self._until = at + _WEEKS_AT_ONCE * 7 * 86_400.0 - _LOOK_AHEAD_S
        return self._stretches


def _timetable(rules: Sequence[StartRule], at: float) -> list[_Stretch]:
    """From the week before ``at`` on."""
    spans_by_rule = [(rule, _spans(rule, at)) for rule in rules]
    moments = sorted({moment for _, spans in spans_by_rule for span in spans for moment in span})
    stretches = []
    for moment in moments:
        longest_s, closing = math.inf, []
        for rule, spans in spans_by_rule:
            closes_at = max((closes for opens, closes in spans if opens <= moment < closes), default=None)
            if closes_at is None:
                longest_s = min(longest_s, rule.over_s)
            elif rule.ends_inside:
                closing.append((rule.over_s, closes_at))
        stretches.append(_Stretch(moment, longest_s, tuple(closing)))
    return stretches


def _spans(rule: StartRule, at: float) -> list[tuple[float, float]]:
    """When its windows are open, from two weeks before ``at`` on."""
    zone = ZoneInfo(rule.time_zone)
    day = datetime.fromtimestamp(at, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    monday = day - timedelta(days=day.weekday())

    def moment(week: int, hours: float) -> float:
        return (monday + timedelta(weeks=week, hours=hours)).replace(tzinfo=zone).timestamp()

    return [
        (moment(week, window.opens), moment(week, window.closes))
        for week in range(-2, _WEEKS_AT_ONCE + 2)
        for window in rule.windows
    ]
