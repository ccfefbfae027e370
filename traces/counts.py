"""What the part of a trace that is replayed holds, counted row by row where its reader counts whole blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.readers import TraceReader
from traces.shape import Window


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """``rows`` and ``failed`` are those that arrived within ``window``, before any scaling; ``bad``, ``span_s`` and
    ``began_at`` (the first request's own timestamp) are the whole file's: a malformed row has no time."""

    window: Window
    rows: int
    failed: int
    bad: int
    span_s: float
    began_at: float


def count_window(reader: TraceReader, window: Window) -> WindowCounts:
    """One pass over the whole file. Raises ``TraceError`` as the reading does."""
    rows = failed = 0
    span_s = 0.0
    for block in reader.blocks():
        first, last = np.searchsorted(block.arrival_s, (window.start_s, window.end_s))
        rows += int(last - first)
        failed += int((block.output_tokens[first:last] == 0).sum())
        span_s = float(block.arrival_s[-1])
    statistics = reader.statistics
    return WindowCounts(window, rows, failed, statistics.bad, span_s, statistics.began_at or 0.0)
