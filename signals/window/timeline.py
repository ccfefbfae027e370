"""The value of every signal at each tick, once a second: what windows look back over."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping

from broker.model.reading import ABSENT, Freshness, Reading
from broker.model.signals import Signal
from broker.model.snapshot import WindowNeed, WindowReading

SIGNALS = tuple(Signal)
NaN = math.nan
_WIDTH = len(SIGNALS)
_COLUMN = {signal: column for column, signal in enumerate(SIGNALS)}
_GAP = array("d", [NaN]) * _WIDTH


class Timeline:
    """One row for each tick with one value for each signal, NaN where the signal was not usable.

    Tick ``k`` stands at ``k + phase_s``. Holds at least the last ``seconds`` ticks, at most twice as many, and the last
    good value of each signal for ever. Memory: 14 signals * 16 bytes * ``seconds``. No numpy: its reductions cost
    several times as much as the language's over spans of seconds, most of all when others had the caches.
    """

    def __init__(self, seconds: int, phase_s: float) -> None:
        self.seconds = seconds
        self.phase_s = phase_s
        self._first = 0
        self._end = 0
        self._values = array("d")
        self._last: dict[Signal, Reading] = {}
        self._last_tick: dict[Signal, int] = {}

    def tick_before(self, t: float) -> int:
        """The last tick at or before ``t``."""
        return math.floor(t - self.phase_s)

    def tick_from(self, t: float) -> int:
        """The first tick at or after ``t``."""
        return math.ceil(t - self.phase_s)

    def time_of(self, tick: int) -> float:
        return tick + self.phase_s

    def write(self, first: int, last: int, usable: Mapping[Signal, Reading]) -> None:
        """The signals at each of the ticks ``first`` to ``last``, at which they were the same."""
        for begin in range(first, last + 1, self.seconds):
            self._write(begin, min(begin + self.seconds - 1, last), usable)

    def _write(self, first: int, last: int, usable: Mapping[Signal, Reading]) -> None:
        if self._end == 0 or first - self._end >= self.seconds:
            self._drop(self._end - self._first)
            self._first = self._end = first
        elif last - self._first >= 2 * self.seconds:
            self._drop(min(self.seconds, self._end - self._first))
        first = max(first, self._first)
        if last < first:
            return
        known = [usable.get(signal, ABSENT).value for signal in SIGNALS]
        row = array("d", [NaN if value is None else value for value in known])
        if first > self._end:
            self._values.extend(_GAP * (first - self._end))
        begin = first - self._first
        self._values[begin * _WIDTH : (last + 1 - self._first) * _WIDTH] = row * (last + 1 - first)
        self._end = max(self._end, last + 1)
        self._last.update(usable)
        self._last_tick.update(dict.fromkeys(usable, last))
        if len(usable) < len(self._last):
            for signal in [s for s, at in self._last_tick.items() if first <= at <= last and s not in usable]:
                self._fall_back(signal, begin)

    def _drop(self, ticks: int) -> None:
        """Forget the oldest ``ticks`` ticks."""
        del self._values[: ticks * _WIDTH]
        self._first += ticks

    def _fall_back(self, signal: Signal, index: int) -> None:
        """A late sample showed that a signal was not usable at its last good tick after all: the one before counts."""
        while index > 0:
            index -= 1
            value = self._values[index * _WIDTH + _COLUMN[signal]]
            if value == value:
                self._last_tick[signal] = self._first + index
                self._last[signal] = Reading(Freshness.FRESH, value)
                return
        del self._last[signal], self._last_tick[signal]

    def last_good(self, signal: Signal) -> Reading:
        """The last good value as a stale reading, of its tick; absent if there never was one."""
        last = self._last.get(signal)
        if last is None:
            return ABSENT
        return Reading(Freshness.STALE, last.value, self.time_of(self._last_tick[signal]))

    def window(self, need: WindowNeed, now: float, reading: Reading) -> WindowReading:
        """``need`` at ``now``, where the signal's reading is ``reading``: over the ticks from the last at or before
        ``now - over_s`` on, and ``now`` itself. Covered means that the signal was usable at each of them."""
        start = self.tick_before(now - need.over_s) - self._first
        stop = self.tick_before(now) + 1 - self._first
        column = _COLUMN[need.signal]
        seen = self._values[max(start, 0) * _WIDTH + column : max(stop, 0) * _WIDTH : _WIDTH].tolist()
        current = reading.current
        covered = start >= 0 and current is not None
        total = sum(seen)
        if total != total:  # a gap
            covered = False
            seen = [value for value in seen if value == value]
            total = sum(seen)
        low = high = mean = current
        if seen:
            low, high, mean = min(seen), max(seen), total / len(seen)
            if current is not None:
                low, high = min(low, current), max(high, current)
        freshness, at = reading.freshness, reading.observed_at
        return WindowReading(need.signal, need.over_s, freshness, covered, low, high, mean, at)

    def resized(self, seconds: int) -> Timeline:
        """The same past with room for ``seconds`` ticks."""
        other = Timeline(seconds, self.phase_s)
        other._values = self._values[-seconds * _WIDTH :]
        other._first, other._end = max(self._first, self._end - seconds), self._end
        other._last, other._last_tick = self._last, self._last_tick
        return other
