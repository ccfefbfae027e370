"""The live terminal view: load, queue age, replicas by phase, the last decisions with their reasons."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from broker.model.plan import Decision
from broker.model.replica import ReplicaPhase
from broker.model.signals import Signal
from broker.model.units import format_duration
from simulator.report.render import sparkline

_HISTORY = 90
_FRAME = 4
"""Columns of the border and the blanks inside it; its lines are two."""
_NAME_WIDTH = len("ready replicas")
_FIGURE_WIDTH = len("unknown")
_LEAST_CHART_WIDTH = 10
_MOST_DECISIONS = 6
_PHASE_STYLES = {
    "requested": "dim",
    "pending": "dim",
    "starting": "yellow",
    "loading": "yellow",
    "ready": "green",
    "draining": "magenta",
    "stopping": "magenta",
    "gone": "dim",
    "failed": "red",
}


@dataclass
class LiveState:
    """What the view shows; the demo fills it twice a second."""

    duration_s: float
    elapsed_s: float = 0.0
    sent: int = 0
    finished: int = 0
    failed: int = 0
    open_streams: int = 0
    waiting: int = 0
    target: int = 0
    signals: dict[str, Any] = field(default_factory=dict)
    replicas: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    load_history: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    queue_history: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    ready_history: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def note(self) -> None:
        """Keep the present figures for the charts."""
        self.load_history.append(self.open_streams)
        self.queue_history.append(self.reading(Signal.QUEUE_AGE) or 0.0)
        self.ready_history.append(sum(r["phase"] == ReplicaPhase.READY for r in self.replicas))

    def reading(self, signal: Signal) -> float | None:
        given = (self.signals.get("readings") or {}).get(signal.value)
        return None if given is None or given["freshness"] in ("stale", "absent") else given["value"]


def render_live(state: LiveState, console: Console) -> RenderableType:
    """One frame that fills the terminal as it is now: of the decisions as many as there is room for."""
    inside = console.options.update(width=console.width - _FRAME, height=None)
    above = Group(_headline(state), _charts(state, inside.max_width), Text(), _replicas(state), Text())
    room = console.height - 2 - _lines(console, above, inside)
    fitting = (
        table
        for count in range(_MOST_DECISIONS, 0, -1)
        if _lines(console, table := _decisions(state, count), inside) <= room
    )
    return Panel(
        Group(above, next(fitting, Text())),
        title="Tidegate demo: one model served, scaled and drained on this machine",
        border_style="cyan",
        height=console.height,
    )


def _lines(console: Console, shown: RenderableType, options: ConsoleOptions) -> int:
    return len(console.render_lines(shown, options, pad=False))


def _headline(state: LiveState) -> Text:
    """The figures after ``sent`` add up to it."""
    text = Text(f"{format_duration(round(state.elapsed_s))} of about {format_duration(state.duration_s)}   ")
    text.append(f"target {state.target}\n", style="bold")
    text.append(f"sent {state.sent}: {state.finished} finished, ")
    text.append(f"{state.failed} failed", style="red" if state.failed else "")
    text.append(f", {state.open_streams} open", style="bold")
    text.append(f", {state.waiting} waiting for a first answer")
    return text


def _charts(state: LiveState, width: int) -> Table:
    grid = Table.grid(padding=(0, 1))
    for least in (_NAME_WIDTH, None, _FIGURE_WIDTH):
        grid.add_column(no_wrap=True, min_width=least)
    chart_width = max(_LEAST_CHART_WIDTH, min(_HISTORY, width - _NAME_WIDTH - _FIGURE_WIDTH - 3))
    queue = state.reading(Signal.QUEUE_AGE)
    rows = (
        ("open streams", state.load_history, f"{state.open_streams}"),
        ("queue age", state.queue_history, "unknown" if queue is None else f"{queue:.1f} s"),
        ("ready replicas", state.ready_history, f"{state.ready_history[-1] if state.ready_history else 0:.0f}"),
    )
    for name, values, now in rows:
        grid.add_row(name, sparkline(list(values), chart_width), Text(now, style="bold"))
    return grid


def _replicas(state: LiveState) -> Table:
    table = _table("replica", "phase", "running", "waiting", "KV", "detail", whole=5)
    loads = {load["replica_id"]: load for load in state.signals.get("replicas", [])}
    for replica in state.replicas[-8:]:
        load = loads.get(replica["replica_id"], {})
        phase = Text(replica["phase"], style=_PHASE_STYLES.get(replica["phase"], ""))
        kv = f"{load['kv_cache_use']:.0%}" if load else ""
        counts = [f"{load[name]:.0f}" if load else "" for name in ("requests_running", "requests_waiting")]
        table.add_row(replica["replica_id"], phase, *counts, kv, Text(replica["detail"]))
    return table


def _table(*columns: str, whole: int) -> Table:
    """Without lines, which take as much room as what they part. The first ``whole`` columns are never folded."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index < whole)
    return table


def _decisions(state: LiveState, count: int) -> Table:
    table = _table("target", "last decisions", "in words", whole=2)
    for decision, alike in islice(_changes(state.decisions), count):
        moved = decision.target != decision.before
        style = "bold green" if decision.target > decision.before else "bold magenta" if moved else "dim"
        shown = f"{decision.before} -> {decision.target}" if moved else f"{decision.target}"
        more = f" (and so {alike} earlier {'decisions' if alike > 1 else 'decision'})" if alike else ""
        table.add_row(Text(shown, style=style), Text(decision.code), Text(decision.words + more))
    return table


def _changes(decisions: Sequence[Decision]) -> Iterator[tuple[Decision, int]]:
    """Newest first: each change of the target; of those in between that changed nothing the newest, with the number of
    the others."""
    for moved, group in groupby(decisions, key=lambda decision: decision.target != decision.before):
        alike = list(group)
        if moved:
            yield from ((decision, 0) for decision in alike)
        else:
            yield alike[0], len(alike) - 1
