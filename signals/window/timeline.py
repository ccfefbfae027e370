"""The value of every signal at each tick, once a second: what windows look back over."""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from operator import sub

from broker.model.reading import ABSENT, Freshness, Reading, fresh
from broker.model.signals import Signal
from broker.model.snapshot import WindowNeed, WindowReading
from broker.model.window_state import LastGood

SIGNALS = tuple(Signal)
NaN = math.nan
_WIDTH = len(SIGNALS)
_COLUMN = {signal: column for column, signal in enumerate(SIGNALS)}
_GAP = array("d", [NaN]) * _WIDTH
_SPARE = 32
"""Ticks kept beyond those that are needed, so that not each tick has the others moved up by one."""


class Timeline:
    """One row for each run of ticks at which the signals were the same, with one value for each signal, NaN where the
    signal was not usable: a fleet that is scraped each 15 s changes once in as many ticks.

    Tick ``k`` stands at ``k + phase_s``. Holds at least the last ``seconds`` ticks, at most ``_SPARE`` more, and the
    last good value of each signal for ever. Memory: at most 120 bytes for each tick. No numpy: its reductions cost
    several times as much as the language's over spans of seconds, most of all when others had the caches.
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
        self._restored: Mapping[Signal, LastGood] = {}

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
        if last - self._first >= self.seconds + _SPARE:
            self._drop(last - self.seconds + 1)
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
        last = self._last_in_runs(signal, len(self._starts) - 2)
        if last is None:
            del self._last[signal], self._last_tick[signal]
        else:
            self._last[signal], self._last_tick[signal] = Reading(Freshness.FRESH, last.value), last.tick

    def _last_in_runs(self, signal: Signal, latest: int) -> LastGood | None:
        """Its last usable value in the runs up to, and with, ``latest``, and the run's last tick; of a signal that
        another timeline did not hand over tick by tick, the last one there."""
        values = self._values[_COLUMN[signal] :: _WIDTH]
        for run in range(latest, -1, -1):
            if values[run] == values[run]:
                end = self._starts[run + 1] if run + 1 < len(self._starts) else self._end
                return LastGood(values[run], end - 1)
        return self._restored.get(signal)

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

    def values_to(self, tick: int, signals: Iterable[Signal]) -> tuple[int, dict[Signal, bytes]]:
        """The first tick that is needed, and each signal's value at every tick from there up to, and with, ``tick``."""
        stop = min(tick + 1, self._end)
        first = max(self._first, stop - self.seconds)
        return first, {signal: _packed(self._between(_COLUMN[signal], first, stop)) for signal in signals}

    def last_good_to(self, tick: int) -> dict[Signal, LastGood]:
        """The last good value of each signal at or before ``tick``, as far as it is known."""
        found = {}
        for signal, at in self._last_tick.items():
            if at > tick:
                last = self._last_in_runs(signal, bisect_right(self._starts, tick) - 1)
                if last is not None:
                    found[signal] = LastGood(last.value, min(last.tick, tick))
            elif (value := self._last[signal].value) is not None:
                found[signal] = LastGood(value, at)
        return found

    def restore(self, first: int, values: Mapping[Signal, bytes], last_good: Mapping[Signal, LastGood]) -> None:
        """Begin anew with what ``values_to`` and ``last_good_to`` told."""
        columns = {_COLUMN[signal]: _unpacked(packed) for signal, packed in values.items()}
        self._first = first
        self._end = first + max([len(column) for column in columns.values()], default=0)
        self._starts, self._values = array("q"), array("d")
        before: tuple[float, ...] = ()
        for tick, told in enumerate(zip(*columns.values(), strict=True), first):
            if told != before:
                row = _GAP[:]
                for column, value in zip(columns, told, strict=True):
                    row[column] = value
                self._append(tick, row)
                before = told
        self._usable = None
        self._restored = last_good
        self._last = {signal: fresh(good.value, self.time_of(good.tick)) for signal, good in last_good.items()}
        self._last_tick = {signal: good.tick for signal, good in last_good.items()}

    def resize(self, seconds: int) -> None:
        """The same past with room for ``seconds`` ticks."""
        self.seconds = seconds
        self._drop(self._end - seconds)


def _packed(values: list[float]) -> bytes:
    doubles = array("d", values)
    if sys.byteorder == "big":
        doubles.byteswap()
    return doubles.tobytes()


def _unpacked(packed: bytes) -> array[float]:
    doubles = array("d", packed)
    if sys.byteorder == "big":
        doubles.byteswap()
    return doubles
