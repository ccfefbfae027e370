"""Prints a ``RunSummary`` or ``Comparison`` for people, with rich; machines get ``wire.encode`` of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from broker.model.plan import Decision
from broker.model.replica import ON_ITS_WAY, ReplicaPhase
from broker.model.units import format_count, format_duration, format_number
from simulator.report.compare import Comparison, target_changes
from simulator.report.document import Interval
from simulator.report.fitting import fitted
from simulator.report.render_site import render_site
from simulator.report.spread import Spread
from simulator.report.summary import LOAD_BINS, Latency, Partial, ReplicaPoint, RunSummary, TraceCounts

_LATENCIES = {"time_to_first_token": "time to first token", "inter_token": "inter-token", "end_to_end": "end to end"}
_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = " .:-=+*#@"

_MOST_DECISIONS = 60
"""Printed lines of decisions; a simulated week has thousands, and its JSON form has them all."""

_LONGEST_HEAD = 18
_CHART_WIDTH = 60
_LEAST_CHART_WIDTH = 10
_CHART_PADDING = 6
"""A blank on either side of each of the three columns."""


def render(summary: RunSummary, console: Console, spread: Spread | None = None) -> None:
    """Prints the whole summary. Colours and block characters appear only where ``console`` has them. ``spread``: of a
    simulated run, whose figures can be had again."""
    console.print()
    console.print(_headline(summary))
    if spread is not None:
        console.print(Text(f"all figures: {spread.words}"))
    for table in _latencies(summary, console, {} if spread is None else spread.intervals):
        console.print(table)
    console.print(_charts(summary, console))
    if summary.replica_seconds:
        console.print(_replica_seconds(summary))
    for model_id, count in summary.not_asked.items():
        console.print(Text(f"{model_id}: {format_count(count, 'replica')}, not asked: not counted here"))
    render_site(summary, console)
    if summary.decisions:
        console.print(_decisions(summary))
    if summary.partial is not None:
        console.print(Text(f"PARTIAL: {partial_words(summary.partial)}", style="bold yellow"))
    for note in summary.notes:
        console.print(Text(f"NOTE: {note}", style="bold yellow"))
    for problem in summary.problems:
        console.print(Text(f"PROBLEM: {problem}", style="bold red"))


def partial_words(partial: Partial) -> str:
    """How far a run came that was ended early."""
    if partial.doing != "simulating" or partial.reached_s < 0:
        return f"ended while {'warming up' if partial.doing == 'simulating' else partial.doing}; nothing was replayed"
    reached = format_duration(round(partial.reached_s, 1))
    if not partial.span_s:
        return f"ended at {reached}"
    span = format_duration(round(partial.span_s, 1))
    if partial.reached_s > partial.span_s:
        return f"ended at {reached}, when all of {span} had been replayed and requests were still open"
    return f"ended at {reached} of {span} ({partial.reached_s / partial.span_s:.1%})"


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Prints both runs side by side."""
    names = (comparison.first, comparison.second)
    rows = [
        (
            row.figure, _figure(row.first, row.unit), _figure(row.second, row.unit),
            "" if row.relative is None else f"{row.relative:+.1%}",
        )
        for row in comparison.differences
    ]  # fmt: skip
    heads = [name if len(name) <= _LONGEST_HEAD else f"{name[: _LONGEST_HEAD - 3]}..." for name in names]
    columns = ("figure", *heads, "difference")
    for table in fitted(console, f"{comparison.first} against {comparison.second}", columns, rows):
        console.print(table)


def sparkline(values: Sequence[float], width: int, *, blocks: str = _BLOCKS) -> str:
    """``values`` squeezed to at most ``width`` characters, each the largest of its share, scaled to the largest of
    all. Anything above zero is seen."""
    columns = min(width, len(values))
    if not columns:
        return ""
    edges = [index * len(values) // columns for index in range(columns + 1)]
    peaks = [max(values[low:high]) for low, high in pairwise(edges)]
    top = max(peaks) or 1.0
    levels = len(blocks) - 1
    return "".join(blocks[0 if peak <= 0 else max(1, round(peak / top * levels))] for peak in peaks)


def _headline(summary: RunSummary) -> Text:
    counts = summary.requests
    text = Text(f"{summary.source}: {format_duration(summary.duration_s)}, ", style="bold")
    text.append(f"{counts.sent:,} requests sent, {counts.finished:,} finished")
    for name, number in (
        ("failed", counts.failed),
        ("cut", counts.cut),
        ("rejected", counts.rejected),
        ("unfinished", counts.unfinished),
        ("abandoned", counts.abandoned),
    ):
        text.append(f", {number:,} {name}", style="bold red" if number else "green")
    cached = (
        f" ({summary.cached_tokens / summary.prompt_tokens:.0%} from prefix caches)" if summary.cached_tokens else ""
    )
    text.append(f"; {summary.prompt_tokens:,} tokens in{cached}, {summary.output_tokens:,} out", style="not bold")
    if summary.drained_s >= 1:
        ran_on = format_duration(round(summary.drained_s))
        text.append(f"\nran on for {ran_on}: requests were still open", style="not bold")
    if summary.trace is not None:
        text.append("\n" + _trace_line(summary.trace, counts.sent), style="not bold")
    return text


def _trace_line(trace: TraceCounts, sent: int) -> str:
    """At a rate of 1 the rows less the failed ones are those sent."""
    window = f" window {trace.window}" if trace.window else ""
    bad = f"; {format_count(trace.bad, 'bad row')} skipped in the whole file" if trace.bad else ""
    return (
        f"trace{window}: {trace.rows:,} rows, {trace.failed:,} failed where recorded (not replayed), "
        f"rate x {format_number(trace.rate_scale)} -> {sent:,} sent{bad}"
    )


def _latencies(
    summary: RunSummary, console: Console, intervals: Mapping[str, Mapping[str, Interval]]
) -> Iterator[Table]:
    """The interval of a quantile stands below it."""
    rows: list[Sequence[str]] = []
    for field, words in _LATENCIES.items():
        latency: Latency = getattr(summary, field)
        figures = (latency.mean_s, latency.p50_s, latency.p95_s, latency.p99_s, latency.max_s)
        rows.append((words, f"{latency.count:,}", *(_figure(value, "s") for value in figures)))
        if field in intervals:
            ends = (_ends(intervals[field].get(name)) for name in ("p50_s", "p95_s", "p99_s"))
            rows.append(("  interval", "", "", *ends, ""))
    return fitted(console, "Latency", ("", "count", "mean", "P50", "P95", "P99", "max"), rows)


def _ends(interval: Interval | None) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{_figure(interval.low, 's')} to {_figure(interval.high, 's')}"


def _charts(summary: RunSummary, console: Console) -> Table:
    """Load and replicas over the same axis of time: all of one width, so that what happened at once stands in line."""
    blocks = _BLOCKS if console.encoding.lower().startswith("utf") else _ASCII_BLOCKS
    table = Table(
        title=f"Over time (0 to {format_duration(summary.duration_s)})",
        title_justify="left",
        box=None,
        show_header=False,
    )
    for _ in range(3):
        table.add_column(no_wrap=True)
    rows = (
        ("arrivals per second", [count / summary.load.bin_s for count in summary.load.arrived]),
        ("requests under way", summary.load.in_flight),
        ("replicas ready", _sampled(summary, (ReplicaPhase.READY,))),
        ("replicas on their way", _sampled(summary, ON_ITS_WAY)),
        ("replicas draining", _sampled(summary, (ReplicaPhase.DRAINING,))),
    )
    peaks = [f"peak {format_number(max(values), 3)}" for _, values in rows]
    beside = max(len(name) for name, _ in rows) + max(map(len, peaks)) + _CHART_PADDING
    width = max(_LEAST_CHART_WIDTH, min(_CHART_WIDTH, console.width - beside))
    for (name, values), peak in zip(rows, peaks, strict=True):
        table.add_row(name, sparkline(values, width, blocks=blocks), peak)
    return table


def _sampled(summary: RunSummary, phases: Collection[ReplicaPhase]) -> list[float]:
    """The largest number of replicas in ``phases`` in each bin of the load series, so that no short phase is lost."""
    bin_s = summary.load.bin_s
    tops = [0.0] * LOAD_BINS
    closing = (*summary.replicas[1:], ReplicaPoint(summary.duration_s, {}))
    for point, following in zip(summary.replicas, closing, strict=False):
        count = float(sum(point.phases.get(phase, 0) for phase in phases))
        for index in range(int(point.t_s / bin_s), min(LOAD_BINS, int(following.t_s / bin_s) + 1)):
            tops[index] = max(tops[index], count)
    return tops


def _replica_seconds(summary: RunSummary) -> Text:
    parts = [f"{phase.value} {_figure(seconds, 'replica-s')}" for phase, seconds in summary.replica_seconds.items()]
    warm_up = "; without the warm-up" if _warm_up_s(summary) > 0 else ""
    return Text("replica-seconds: " + ", ".join(parts) + warm_up)


def _warm_up_s(summary: RunSummary) -> float:
    """Told by the decisions that were made in it."""
    return summary.started_at - min((decision.now for decision in summary.decisions), default=summary.started_at)


def _decisions(summary: RunSummary) -> Table:
    warm_up_s = _warm_up_s(summary)
    changes = target_changes(summary)
    begun = "the load" if summary.trace is None else "the trace"
    table = Table(
        title=f"{len(summary.decisions):,} decisions, {changes:,} of them changes",
        title_justify="left",
        caption=f"warm-up: in the {format_duration(round(warm_up_s, 1))} before {begun}" if warm_up_s > 0 else None,
        caption_justify="left",
    )
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("model")
    table.add_column("replicas", justify="right", no_wrap=True)
    table.add_column("because", overflow="fold")
    rows = list(_decision_rows(summary))
    shown = rows[:_MOST_DECISIONS]
    for row in shown:
        table.add_row(*row)
    if len(rows) > len(shown):
        table.add_row("", "", "", f"... and {len(rows) - len(shown)} more; the JSON form has them all")
    return table


def _decision_rows(summary: RunSummary) -> Iterator[tuple[str, str, str, str]]:
    """One row for each change of a target; what left it as it was shares a row until the model's next change, lest
    rules that wait to fire again, or the other models, hide the changes."""

    def same(decision: Decision) -> tuple[int, int, str]:
        moved = decision.before != decision.target
        return decision.before, decision.target, decision.code if moved else ""

    rows: list[list[Decision]] = []
    newest: dict[str, list[Decision]] = {}
    for decision in summary.decisions:
        row = newest.get(decision.model_id)
        if row is not None and same(row[0]) == same(decision):
            row.append(decision)
        else:
            newest[decision.model_id] = [decision]
            rows.append(newest[decision.model_id])
    for alike in rows:
        first = alike[0]
        change = f"{first.before} -> {first.target}" if first.before != first.target else f"{first.target}"
        again = f" (and {format_count(len(alike) - 1, 'time')} more{_other_codes(alike)})" if len(alike) > 1 else ""
        at = f"{first.now - summary.started_at:.1f}s" if first.now >= summary.started_at else "warm-up"
        yield at, escape(first.model_id), change, escape(f"{first.code}: {first.words}{again}")


def _other_codes(alike: Sequence[Decision]) -> str:
    others = dict.fromkeys(decision.code for decision in alike if decision.code != alike[0].code)
    return ", also " + ", ".join(others) if others else ""


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "s" and abs(value) < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:,.2f} s" if unit in ("s", "replica-s") else f"{value:,.0f}"
