"""What a trace looks like, in one pass; memory grows with the distinct token counts and hours, not with rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from broker.model.units import format_duration
from traces.blocks import NONE, Floats, Ints, RequestBlock
from traces.readers import open_trace
from traces.schema import KINDS, ShapeInfo, TokenStatistics, TraceInfo
from traces.servegen import CLIENTS, FIELDS, HISTOGRAMS, RATES, WINDOW_S, field_place, shape_columns
from traces.tables import number, read_table

_LONGEST_HOURS = 10 * 366 * 24
"""Hourly counts beyond ten years are left out of the daily pattern: a mistaken timestamp must not fill the memory."""

LONGEST_SPAN_S = _LONGEST_HOURS * 3600.0


def span_problem(info: TraceInfo) -> str:
    """Why nobody should wait for a replay of the trace; empty for one of a plausible length."""
    if info.span_s <= LONGEST_SPAN_S:
        return ""
    gap_s, at_s = format_duration(info.longest_gap_s), format_duration(info.longest_gap_at_s)
    return (
        f"it spans {format_duration(info.span_s)}, more than ten years, with nothing for {gap_s} from {at_s} on: "
        "the date of a row before or after that is wrong; mend the row or leave it out"
    )


def describe(path: str | Path, *, skip_bad: bool = False) -> TraceInfo:
    """Rows, rates, burstiness and tokens of a trace file. Raises ``TraceError`` as ``open_trace`` does."""
    reader = open_trace(path, skip_bad=skip_bad)
    tally = _Tally()
    for block in reader.blocks():
        tally.add(block)
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
        kinds=_named(tally.kinds, [kind.value for kind in KINDS]),
        models=_named(tally.models, reader.models.names),
        tenants=_named(tally.tenants, reader.tenants.names),
        has_sessions=tally.has_sessions,
        prefix_share=tally.prefix_share,
        longest_gap_s=tally.longest_gap_s,
        longest_gap_at_s=tally.longest_gap_at_s,
    )


class _Tally:
    """Running sums over requests in order of arrival."""

    def __init__(self) -> None:
        self.span_s = 0.0
        self.peak_per_min = 0
        self.prompt_tokens: Counter[int] = Counter()
        self.output_tokens: Counter[int] = Counter()
        self.kinds: Counter[int] = Counter()
        self.models: Counter[int] = Counter()
        self.tenants: Counter[int] = Counter()
        self.has_sessions = False
        self.longest_gap_s = 0.0
        self.longest_gap_at_s = 0.0
        self._hours: Counter[int] = Counter()
        self._minute, self._in_minute = 0, 0
        self._rows = 0
        self._gaps_squared = 0.0
        self._whole_minutes_rows = 0
        self._whole_minutes_squared = 0
        self._prompt_sum = 0
        self._shared_sum = 0
        self._groups = False

    def add(self, block: RequestBlock) -> None:
        gaps = np.diff(block.arrival_s, prepend=self.span_s)
        longest = int(np.argmax(gaps))
        if gaps[longest] > self.longest_gap_s:
            self.longest_gap_s = float(gaps[longest])
            self.longest_gap_at_s = float(block.arrival_s[longest] - gaps[longest])
        self._gaps_squared += float(gaps @ gaps)
        self._rows += len(block)
        self.span_s = float(block.arrival_s[-1])
        self._count_minutes((block.arrival_s // 60).astype(np.int64))
        _count(self._hours, (block.arrival_s // 3600).astype(np.int64))
        for counter, codes in ((self.kinds, block.kind), (self.models, block.model), (self.tenants, block.tenant)):
            _count(counter, codes[codes != NONE])
        self.has_sessions = self.has_sessions or bool((block.session != NONE).any())
        answered = block.output_tokens > 0
        _count(self.prompt_tokens, block.prompt_tokens[answered])
        _count(self.output_tokens, block.output_tokens[answered])
        self._groups = self._groups or bool((block.prefix_group != NONE).any())
        self._prompt_sum += int(block.prompt_tokens.sum(dtype=np.int64))
        self._shared_sum += int(block.prefix_tokens.sum(dtype=np.int64))

    def _count_minutes(self, minutes: Ints) -> None:
        distinct, counts = np.unique(minutes, return_counts=True)
        for minute, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            if minute != self._minute:
                self._whole_minutes_rows += self._in_minute
                self._whole_minutes_squared += self._in_minute * self._in_minute
                self._minute, self._in_minute = minute, 0
            self._in_minute += count
            self.peak_per_min = max(self.peak_per_min, self._in_minute)

    @property
    def prefix_share(self) -> float | None:
        return self._shared_sum / max(1, self._prompt_sum) if self._groups else None

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


def _count(counter: Counter[int], values: Any) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        counter[value] += count


def _named(counter: Counter[int], names: Sequence[str]) -> dict[str, int]:
    return dict(sorted((names[code], count) for code, count in counter.items()))


def describe_shape(path: str | Path) -> ShapeInfo | None:
    """Figures of one of the files of a ServeGen shape; None of any other file. Raises ``TraceError``."""
    columns = shape_columns(Path(path))
    if columns is None:
        return None
    if columns is RATES:
        rates = np.array(read_table(Path(path), RATES, (number, number)))
        return _shape_info(path, "rates", rates[:, 0], rates[:, 1], {})
    if columns is CLIENTS:
        rows = np.array(read_table(Path(path), ("client", "t_s", "rate_rps"), (number, number, number)))
        begins, index = np.unique(rows[:, 1], return_inverse=True)
        together: Floats = np.bincount(index, rows[:, 2]).astype(np.float64)
        return _shape_info(path, "clients", begins, together, {"clients": float(len(np.unique(rows[:, 0])))})
    return ShapeInfo(str(path), "ServeGen token histograms", _histogram_figures(path))


def _shape_info(path: str | Path, what: str, begins: Floats, rates: Floats, more: dict[str, float]) -> ShapeInfo:
    order = np.argsort(begins)
    begins, rates = begins[order], rates[order]
    hours = np.bincount((begins // 3600).astype(np.int64), rates)
    figures = {"span_s": float(begins[-1]) + WINDOW_S, "mean_per_s": float(rates.mean()), "peak_per_s": rates.max()}
    daily = daily_correlation(hours.tolist())
    return ShapeInfo(
        str(path), f"ServeGen {what}",
        figures | more | {"windows": float(len(begins))} | ({} if daily is None else {"daily_correlation": daily}),
    )  # fmt: skip


def _histogram_figures(path: str | Path) -> dict[str, float]:
    cells = (number, field_place, number, number, number)
    rows = np.array(read_table(Path(path), HISTOGRAMS, cells))
    figures = {"windows": float(len(np.unique(rows[:, 0])))}
    for place, field in enumerate(FIELDS):
        part = rows[rows[:, 1] == place]
        if len(part):
            middle = (part[:, 2] + np.maximum(part[:, 2], part[:, 3] - 1)) / 2
            figures[f"mean_{field}"] = float(middle @ part[:, 4] / part[:, 4].sum())
            figures[f"largest_{field}"] = float(part[:, 3].max() - 1)
    return figures


def daily_correlation(hourly: Sequence[float]) -> float | None:
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
