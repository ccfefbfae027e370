"""How `demo` and `simulate` tell which part of a trace they replayed, and why nothing of it was sent."""

from __future__ import annotations

from broker.model.units import format_duration, format_number
from simulator.report.summary import RunSummary, TraceCounts
from traces.counts import WindowCounts
from traces.shape import WHOLE


def trace_counts(part: WindowCounts, rate_scale: float) -> TraceCounts:
    window = "" if part.window == WHOLE else str(part.window)
    return TraceCounts(part.rows, part.failed, part.bad, window, rate_scale)


def nothing_sent(part: WindowCounts, rate_scale: float) -> str:
    """Why a run of this part sent no request."""
    where = "the trace" if part.window == WHOLE else f"the window {part.window}"
    if not part.rows:
        return f"{where} holds no request; the trace spans {format_duration(round(part.span_s))}"
    if part.rows == part.failed:
        return f"{where} holds no request to replay: all {part.rows:,} of its rows failed where they were recorded"
    return f"of the {part.rows:,} rows of {where} none is left at {format_number(rate_scale)} times the rate"


def nothing_served(summary: RunSummary) -> str:
    """Why a run served none of the requests that it sent: by the last decision that was told."""
    last = summary.decisions[-1] if summary.decisions else None
    if last is None:
        return "no request was served"
    blocked = next((step for step in reversed(last.trail) if step.stage in ("allocate", "mode")), None)
    why = last.words if blocked is None else blocked.words
    return f"no request was served: {last.model_id} has no replica ({why})"
