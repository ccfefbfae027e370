"""How `demo`, `simulate` and `sweep` tell what they replayed of a trace, what they left out, and why nothing was sent."""

from __future__ import annotations

from collections.abc import Iterator

from broker.model.units import format_count, format_duration, format_number
from simulator.report.summary import RunSummary, TraceCounts
from traces.counts import WindowCounts
from traces.describe import describe
from traces.options import ScaleMethod
from traces.scenario import Scenario, Source, TraceSource
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


def skipped_rows_notes(load: Source | Scenario) -> Iterator[str]:
    """What `skip_bad` leaves out of the traces that are part of a load. Each is read once for it. Raises ``TraceError``."""
    for source in sources_of(load):
        if isinstance(source, TraceSource) and source.skip_bad:
            found = describe(source.path, skip_bad=True)
            if found.bad:
                rows = format_count(found.bad, "bad row")
                yield f"{source.path.name}: {rows} skipped in the whole file; the first: {found.first_bad}"


def sources_of(load: Source | Scenario) -> list[Source]:
    """Where all of a load comes from."""
    return [one.source for one in load.loads] if isinstance(load, Scenario) else [load]


_LONG_GAP_S = 86_400.0


def gap_note(part: WindowCounts) -> str | None:
    """Replicas stand idle through a gap, and are simulated: weeks of nothing take their time, and cost GPU-hours."""
    if part.longest_gap_s <= _LONG_GAP_S:
        return None
    gap, at = format_duration(round(part.longest_gap_s)), format_duration(round(part.longest_gap_at_s))
    return f"nothing arrives for {gap} from {at} of the trace on, which is simulated too; --window leaves it out"


_FAR_FROM_ASKED = 0.2


def rate_note(counts: TraceCounts, sent: int, method: ScaleMethod) -> str | None:
    """What the rate came to, where that is far from what was asked."""
    recorded = counts.rows - counts.failed
    if counts.rate_scale == 1 or not recorded or not sent:
        return None
    reached = sent / recorded
    if abs(reached / counts.rate_scale - 1) <= _FAR_FROM_ASKED:
        return None
    where = "window" if counts.window else "trace"
    if counts.rate_scale > 1 and method is ScaleMethod.SUPERPOSE:
        why = (
            "superpose shifts copies over the whole trace, which is busier or quieter elsewhere; "
            "--scale-method correlated multiplies within the window"
        )
    else:
        why = "of so few requests or sessions chance keeps more or fewer"
    return (
        f"{sent:,} sent of {recorded:,} recorded: x {format_number(reached, 3)} in this {where} and not "
        f"x {format_number(counts.rate_scale)}: {why}"
    )


def nothing_served(summary: RunSummary) -> str:
    """Why a run served none of the requests that it sent: by the last decision that was told."""
    last = summary.decisions[-1] if summary.decisions else None
    if last is None:
        return "no request was served"
    blocked = next((step for step in reversed(last.trail) if step.stage in ("allocate", "mode")), None)
    why = last.words if blocked is None else blocked.words
    return f"no request was served: {last.model_id} has no replica ({why})"
