"""The value of every signal at each tick, once a second: what windows look back over."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from operator import sub

from broker.model.reading import ABSENT, Freshness, Reading
from broker.model.signals import Signal
from broker.model.snapshot import WindowNeed, WindowReading

SIGNALS = tuple(Signal)
NaN = math.nan
_WIDTH = len(SIGNALS)
_COLUMN = {signal: column for column, signal in enumerate(SIGNALS)}
_GAP = array("d", [NaN]) * _WIDTH


class Timeline:
    """One row for each run of ticks at which the signals were the same, with one value for each signal, NaN where the
    signal was not usable: a fleet that is scraped each 15 s changes once in as many ticks.

    Tick ``k`` stands at ``k + phase_s``. Holds at least the last ``seconds`` ticks, at most twice as many, and the last
    good value of each signal for ever. Memory: at most 240 bytes * ``seconds``. No numpy: its reductions
    cost several times as much as the language's over spans of seconds, most of all when others had the caches.
    """

    def __init__(self, seconds: int, phase_s: float) -> None:
        self.seconds = seconds
        self.phase_s = phase_s
        self._first = 0
        self._end = 0
        self._starts = array("q")
        self._values = array("d")
        self._usable: Mapping[Signal, Reading] | None = None
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
        """The signals at each of the ticks ``first`` to ``last``, at which they were the same. What was written of
        later ticks is no longer known."""
        if not self._starts or first - self._end >= self.seconds:
            self._cut(self._first)
            self._first = self._end = first
        if (excess := last - self._first - 2 * self.seconds) >= 0:
            self._drop(self._first + self.seconds * (excess // self.seconds + 1))
        first = max(first, self._first)
        if last < first:
            return
        if first < self._end:
            self._cut(first)
        elif first > self._end:
            self._append(self._end, _GAP)
            self._usable = None
        if usable is not self._usable:
            row = [NaN] * _WIDTH
            for signal, reading in usable.items():
                if reading.value is not None:
                    row[_COLUMN[signal]] = reading.value
            self._append(first, array("d", row))
            self._usable = usable
            self._last.update(usable)
        self._end = last + 1
        self._last_tick.update(dict.fromkeys(usable, last))
        if len(usable) < len(self._last):
            for signal in [s for s, at in self._last_tick.items() if first <= at <= last and s not in usable]:
                self._fall_back(signal)

    def _append(self, first: int, row: array[float]) -> None:
        """``row`` holds from ``first`` on."""
        self._starts.append(first)
        self._values.extend(row)

    def _cut(self, first: int) -> None:
        """Forget the ticks from ``first`` on."""
        runs = bisect_left(self._starts, first)
        del self._starts[runs:], self._values[runs * _WIDTH :]
        self._usable = None

    def _drop(self, first: int) -> None:
        """Forget the ticks before ``first``."""
        runs = max(bisect_right(self._starts, first) - 1, 0)
        del self._starts[:runs], self._values[: runs * _WIDTH]
        self._first = max(self._first, first)

    def _fall_back(self, signal: Signal) -> None:
        """A late sample showed that a signal was not usable at its last good tick after all: the one before counts."""
        values = self._values[_COLUMN[signal] :: _WIDTH]
        for run in range(len(values) - 2, -1, -1):
            if values[run] == values[run]:
                self._last_tick[signal] = self._starts[run + 1] - 1
                self._last[signal] = Reading(Freshness.FRESH, values[run])
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
        start, stop = self.tick_before(now - need.over_s), self.tick_before(now) + 1
        seen = self._between(_COLUMN[need.signal], max(start, self._first), min(stop, self._end))
        current = reading.current
        covered = start >= self._first and current is not None
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

    def _between(self, column: int, start: int, stop: int) -> list[float]:
        """One value for each tick from ``start`` up to, and without, ``stop``."""
        if start >= stop:
            return []
        starts = self._starts
        first, end = bisect_right(starts, start) - 1, bisect_left(starts, stop)
        values = self._values[first * _WIDTH + column : end * _WIDTH : _WIDTH].tolist()
        if len(values) < stop - start:
            ends = [*starts[first + 1 : end], stop]
            runs, values = values, []
            for value, ticks in zip(runs, map(sub, ends, [start, *ends]), strict=True):
                values += [value] * ticks
        return values

    def resize(self, seconds: int) -> None:
        """The same past with room for ``seconds`` ticks."""
        self.seconds = seconds
        self._drop(self._end - seconds)
