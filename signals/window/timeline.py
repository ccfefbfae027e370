"""The value of every signal at each tick, once a second: what windows look back over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from broker.model.reading import ABSENT, Freshness, Reading
from broker.model.signals import Signal
from broker.model.snapshot import WindowNeed, WindowReading
from signals.window.quantiles import Floats

SIGNALS = tuple(Signal)
_COLUMN = {signal: column for column, signal in enumerate(SIGNALS)}

Extremes = tuple[float, float, float]
"""Minimum, maximum and mean."""


class Timeline:
    """One row for each tick, one column for each signal, NaN where the signal was not usable.

    Tick ``k`` stands at ``k + phase_s``. Holds the last ``seconds`` ticks, in an array twice as long so that any window
    is one contiguous slice, and the last good value of each signal for ever. Memory: 14 signals * 16 bytes *
    ``seconds``.
    """

    def __init__(self, seconds: int, phase_s: float) -> None:
        self.seconds = seconds
        self.phase_s = phase_s
        self._first = 0
        self._end = 0
        self._values = np.full((2 * seconds, len(SIGNALS)), math.nan)
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

    def write(self, tick: int, usable: Mapping[Signal, Reading]) -> None:
        if self._end == 0 or tick - self._end >= self.seconds:
            self._values.fill(math.nan)
            self._first = tick
        elif tick - self._first >= 2 * self.seconds:
            self._values[: self.seconds] = self._values[self.seconds :]
            self._values[self.seconds :] = math.nan
            self._first += self.seconds
        if tick < self._first:
            return
        row: list[float | None] = [math.nan] * len(SIGNALS)
        for signal, reading in usable.items():
            row[_COLUMN[signal]] = reading.value
        self._values[tick - self._first] = row
        self._last.update(usable)
        self._last_tick.update(dict.fromkeys(usable, tick))
        if tick < self._end:
            for signal in [signal for signal, at in self._last_tick.items() if at == tick and signal not in usable]:
                self._fall_back(signal, tick)
        else:
            self._end = tick + 1

    def _fall_back(self, signal: Signal, tick: int) -> None:
        """A late sample showed that a signal was not usable at its last good tick after all: the one before counts."""
        values = self._values[: tick - self._first, _COLUMN[signal]]
        earlier = np.flatnonzero(~np.isnan(values))
        if not earlier.size:
            del self._last[signal], self._last_tick[signal]
            return
        index = int(earlier[-1])
        self._last_tick[signal] = self._first + index
        self._last[signal] = Reading(Freshness.FRESH, values.item(index))

    def last_good(self, signal: Signal) -> Reading:
        """The last good value as a stale reading, of its tick; absent if there never was one."""
        last = self._last.get(signal)
        if last is None:
            return ABSENT
        return Reading(Freshness.STALE, last.value, self.time_of(self._last_tick[signal]))

    def windows(
        self, needs: Sequence[WindowNeed], now: float, readings: Mapping[Signal, Reading]
    ) -> tuple[WindowReading, ...]:
        """Each need at ``now``, where the signals' readings are ``readings``: over the ticks from the last at or before
        ``now - over_s`` on, and ``now`` itself. Covered means that the signal was usable at each of them."""
        spans = {over_s: _Span(self._values, *self._rows(over_s, now)) for over_s in {need.over_s for need in needs}}
        return tuple([_window(need, spans[need.over_s], readings[need.signal]) for need in needs])

    def _rows(self, over_s: float, now: float) -> tuple[int, int]:
        return self.tick_before(now - over_s) - self._first, self.tick_before(now) + 1 - self._first

    def resized(self, seconds: int) -> Timeline:
        """The same past with room for ``seconds`` ticks."""
        other = Timeline(seconds, self.phase_s)
        keep = min(seconds, self._end - self._first)
        if keep > 0:
            stop = self._end - self._first
            other._values[:keep] = self._values[stop - keep : stop]
            other._first, other._end = self._end - keep, self._end
        other._last, other._last_tick = self._last, self._last_tick
        return other


class _Span:
    """What all signals were over some rows. The extremes of all at once cost hardly more than those of one."""

    def __init__(self, values: Floats, start: int, stop: int) -> None:
        self.reached = start >= 0
        self._seen = values[max(start, 0) : max(stop, 0)]
        if self._seen.size:
            lows, highs = np.minimum.reduce(self._seen).tolist(), np.maximum.reduce(self._seen).tolist()
            means = (np.add.reduce(self._seen) / len(self._seen)).tolist()
            self._extremes: list[Extremes] = list(zip(lows, highs, means, strict=True))

    def of(self, signal: Signal) -> tuple[Extremes | None, bool]:
        """The signal's extremes, None if nothing was seen of it; and whether there was no gap."""
        if not self._seen.size:
            return None, True
        column = _COLUMN[signal]
        extremes = self._extremes[column]
        if extremes[0] == extremes[0]:  # a NaN makes the minimum NaN
            return extremes, True
        seen = self._seen[:, column]
        seen = seen[seen == seen]
        if not seen.size:
            return None, False
        return (seen.min().item(), seen.max().item(), seen.mean().item()), False


def _window(need: WindowNeed, span: _Span, reading: Reading) -> WindowReading:
    current = reading.current
    extremes, without_gap = span.of(need.signal)
    covered = span.reached and without_gap and current is not None
    low: float | None
    high: float | None
    mean: float | None
    low = high = mean = current
    if extremes is not None:
        low, high, mean = extremes
        if current is not None:
            low, high = min(low, current), max(high, current)
    freshness, at = reading.freshness, reading.observed_at
    return WindowReading(need.signal, need.over_s, freshness, covered, low, high, mean, at)
