"""What a trace looks like, in one pass; memory grows with the distinct token counts and hours, not with rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from traces.readers import open_trace
from traces.schema import TokenStatistics, TraceInfo, TraceRequest

_LONGEST_HOURS = 10 * 366 * 24
"""Hourly counts beyond ten years are left out of the daily pattern: a mistaken timestamp must not fill the memory."""


def describe(path: str | Path, *, skip_bad: bool = False) -> TraceInfo:
    """Rows, rates, burstiness and tokens of a trace file. Raises ``TraceError`` as ``open_trace`` does."""
    reader = open_trace(path, skip_bad=skip_bad)
    tally = _Tally()
    tally.add(reader)
    statistics = reader.statistics
    return TraceInfo(
        path=str(path),
        format=reader.format.name,
        rows=statistics.rows,
        failed=statistics.failed,
        bad=statistics.bad,
        first_bad=statistics.first_bad,
        began_at=statistics.began_at or 0.0,
        span_s=tally.span_s,
        mean_per_min=statistics.rows / max(tally.span_s / 60, 1.0),
        peak_per_min=tally.peak_per_min,
        dispersion_per_min=tally.dispersion_per_min(),
        gap_cv=tally.gap_cv(),
        daily_correlation=daily_correlation(tally.hourly()),
        prompt=_token_statistics(tally.prompt_tokens),
        output=_token_statistics(tally.output_tokens),
        kinds=dict(sorted(tally.kinds.items())),
        has_sessions=tally.has_sessions,
    )


class _Tally:
    """Running sums over requests in order of arrival."""

    def __init__(self) -> None:
        self.span_s = 0.0
        self.peak_per_min = 0
        self.prompt_tokens: Counter[int] = Counter()
        self.output_tokens: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.has_sessions = False
        self._hours: Counter[int] = Counter()
        self._rows = 0
        self._gaps_squared = 0.0
        self._whole_minutes_rows = 0
        self._whole_minutes_squared = 0

    def add(self, requests: Iterable[TraceRequest]) -> None:
        minute, in_minute = 0, 0
        for request in requests:
            self._rows += 1
            self._gaps_squared += (request.arrival_s - self.span_s) ** 2
            self.span_s = request.arrival_s
            if int(request.arrival_s // 60) != minute:
                self._close_minute(in_minute)
                minute, in_minute = int(request.arrival_s // 60), 0
            in_minute += 1
            self.peak_per_min = max(self.peak_per_min, in_minute)
            self._hours[int(request.arrival_s // 3600)] += 1
            if request.kind is not None:
                self.kinds[request.kind.value] += 1
            self.has_sessions = self.has_sessions or request.session is not None
            if not request.failed:
                self.prompt_tokens[request.prompt_tokens] += 1
                self.output_tokens[request.output_tokens] += 1

    def _close_minute(self, count: int) -> None:
        self._whole_minutes_rows += count
        self._whole_minutes_squared += count * count

    def dispersion_per_min(self) -> float | None:
        """Variance over mean of the counts of whole minutes, the empty ones included; None below ten of them."""
        minutes = int(self.span_s // 60)
        if minutes < 10:
            return None
        mean = self._whole_minutes_rows / minutes
        return (self._whole_minutes_squared / minutes - mean * mean) / mean

    def gap_cv(self) -> float | None:
        gaps = self._rows - 1
        if gaps < 2 or self.span_s == 0:
            return None
        mean = self.span_s / gaps
        return math.sqrt(max(0.0, self._gaps_squared / gaps - mean * mean)) / mean

    def hourly(self) -> list[int]:
        """Requests in each whole hour."""
        return [self._hours[hour] for hour in range(min(int(self.span_s // 3600), _LONGEST_HOURS))]


def daily_correlation(hourly: list[int]) -> float | None:
    """Autocorrelation of hourly counts at a lag of 24 h, None for less than two days or a constant load."""
    counts = np.asarray(hourly, dtype=float)
    if len(counts) < 48 or counts.std() == 0:
        return None
    centred = counts - counts.mean()
    return float((centred[24:] * centred[:-24]).mean() / centred.var())


def _token_statistics(counts: Counter[int]) -> TokenStatistics | None:
    if not counts:
        return None
    tokens = np.array(sorted(counts), dtype=np.int64)
    weights = np.array([counts[int(value)] for value in tokens], dtype=np.int64)
    cumulative = np.cumsum(weights)
    number, total = int(cumulative[-1]), int(tokens @ weights)

    def quantile(q: float) -> int:
        return int(tokens[np.searchsorted(cumulative, math.ceil(q * number - 1e-9))])

    return TokenStatistics(total, total / number, quantile(0.5), quantile(0.95), quantile(0.99), int(tokens[-1]))
