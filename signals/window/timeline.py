"""The value of every signal at each whole second: what windows look back over."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from broker.model.reading import ABSENT, Freshness, Reading
from broker.model.signals import Signal
from broker.model.snapshot import WindowNeed, WindowReading
from signals.window.quantiles import Floats

SIGNALS = tuple(Signal)
_ROW = {signal: row for row, signal in enumerate(SIGNALS)}


class Timeline:
    """One row for each signal, one column for each second (a tick), NaN where the signal was not usable.

    Holds the last ``seconds`` ticks, in an array twice as long so that any window is one contiguous slice, and the
    last good value of each signal for ever. Memory: 14 signals * 16 bytes * ``seconds``.
    """

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._first = 0
        self._end = 0
        self._values = np.full((len(SIGNALS), 2 * seconds), math.nan)
        self._last_value = np.full(len(SIGNALS), math.nan)
        self._last_at = np.full(len(SIGNALS), math.nan)

    def write(self, tick: int, usable: Mapping[Signal, Reading]) -> None:
        if self._end == 0 or tick - self._end >= self.seconds:
            self._values.fill(math.nan)
            self._first = tick
        elif tick - self._first >= 2 * self.seconds:
            self._values[:, : self.seconds] = self._values[:, self.seconds :]
            self._values[:, self.seconds :] = math.nan
            self._first += self.seconds
        if tick < self._first:
            return
        column = np.array([usable[signal].value if signal in usable else math.nan for signal in SIGNALS])
        self._values[:, tick - self._first] = column
        self._end = max(self._end, tick + 1)
        good = column == column
        np.copyto(self._last_value, column, where=good)
        np.copyto(self._last_at, float(tick), where=good)
        for row in np.flatnonzero(~good & (self._last_at == tick)):
            self._fall_back(int(row), tick)

    def _fall_back(self, row: int, tick: int) -> None:
        """A late sample showed that a signal was not usable at its last good tick after all: the one before counts."""
        earlier = np.flatnonzero(~np.isnan(self._values[row, : tick - self._first]))
        self._last_at[row] = self._first + earlier[-1] if earlier.size else math.nan
        self._last_value[row] = self._values[row, earlier[-1]] if earlier.size else math.nan

    def last_good(self, signal: Signal) -> Reading:
        """The last good value as a stale reading; absent if there never was one."""
        row = _ROW[signal]
        value = float(self._last_value[row])
        if math.isnan(value):
            return ABSENT
        return Reading(Freshness.STALE, value, float(self._last_at[row]))

    def window(self, need: WindowNeed, now: float, reading: Reading) -> WindowReading:
        """``need`` at ``now``, where the signal's reading is ``reading``: over the ticks from the last at or before
        ``now - over_s`` on, and ``now`` itself. Covered means that the signal was usable at each of them."""
        start = math.floor(now - need.over_s) - self._first
        stop = math.floor(now) + 1 - self._first
        seen = self._values[_ROW[need.signal], max(start, 0) : max(stop, 0)]
        current = reading.current
        covered = start >= 0 and current is not None
        low: float | None
        high: float | None
        mean: float | None
        if not seen.size:
            low = high = mean = current
        else:
            # A NaN makes minimum and mean NaN.
            low, high, mean = _summary(seen)
            if low != low:
                covered = False
                seen = seen[seen == seen]
                if seen.size:
                    low, high, mean = _summary(seen)
                else:
                    low = high = mean = current
            if current is not None and low is not None and high is not None:
                low, high = min(low, current), max(high, current)
        freshness, at = reading.freshness, reading.observed_at
        return WindowReading(need.signal, need.over_s, freshness, covered, low, high, mean, at)

    def resized(self, seconds: int) -> Timeline:
        """The same past with room for ``seconds`` ticks."""
        other = Timeline(seconds)
        keep = min(seconds, self._end - self._first)
        if keep > 0:
            stop = self._end - self._first
            other._values[:, :keep] = self._values[:, stop - keep : stop]
            other._first, other._end = self._end - keep, self._end
        other._last_value, other._last_at = self._last_value, self._last_at
        return other


def _summary(seen: Floats) -> tuple[float, float, float]:
    """Minimum, maximum and mean."""
    mean = np.add.reduce(seen) / seen.size
    return float(np.minimum.reduce(seen)), float(np.maximum.reduce(seen)), float(mean)
