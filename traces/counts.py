"""What the part of a trace that is replayed holds, counted row by row where its reader counts whole blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.readers import TraceReader
from traces.shape import Window


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """``rows`` and ``failed`` are those that arrived within ``window``, before any scaling; ``bad``, ``span_s`` and
    ``began_at`` (the first request's own timestamp) are the whole file's: a malformed row has no time. The longest time
    without an arrival between two of the window's begins at second ``longest_gap_at_s`` of the file."""

    window: Window
    rows: int
    failed: int
    bad: int
    span_s: float
    began_at: float
    longest_gap_s: float = 0.0
    longest_gap_at_s: float = 0.0


def count_window(reader: TraceReader, window: Window) -> WindowCounts:
    """One pass over the whole file. Raises ``TraceError`` as the reading does."""
    rows = failed = 0
    span_s = gap_s = gap_at_s = 0.0
    last_s: float | None = None
    for block in reader.blocks():
        first, last = np.searchsorted(block.arrival_s, (window.start_s, window.end_s))
        rows += int(last - first)
        failed += int((block.output_tokens[first:last] == 0).sum())
        span_s = float(block.arrival_s[-1])
        if last > first:
            times = block.arrival_s[first:last]
            gaps = np.diff(times, prepend=times[0] if last_s is None else last_s)
            longest = int(np.argmax(gaps))
            if gaps[longest] > gap_s:
                gap_s, gap_at_s = float(gaps[longest]), float(times[longest] - gaps[longest])
            last_s = float(times[-1])
    statistics = reader.statistics
    return WindowCounts(window, rows, failed, statistics.bad, span_s, statistics.began_at or 0.0, gap_s, gap_at_s)
