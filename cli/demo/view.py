"""The live terminal view: load, queue age, replicas by phase, the last decisions with their reasons."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from broker.model.plan import Decision
from broker.model.replica import ReplicaPhase
from broker.model.signals import Signal
from broker.model.units import format_duration
from simulator.report.render import sparkline

_HISTORY = 90
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


def render_live(state: LiveState) -> RenderableType:
    """One frame."""
    return Panel(
        Group(_headline(state), _charts(state), _replicas(state), _decisions(state)),
        title="Tidegate demo: one model served, scaled and drained on this machine",
        border_style="cyan",
    )


def _headline(state: LiveState) -> Text:
    text = Text(f"{format_duration(round(state.elapsed_s))} of about {format_duration(state.duration_s)}   ")
    text.append(f"sent {state.sent}  finished {state.finished}  ")
    text.append(f"failed {state.failed}", style="red" if state.failed else "")
    text.append(f"  open {state.open_streams}   target {state.target}", style="bold")
    return text


def _charts(state: LiveState) -> Table:
    grid = Table.grid(padding=(0, 1))
    queue = state.reading(Signal.QUEUE_AGE)
    rows = (
        ("open streams", state.load_history, f"{state.open_streams}"),
        ("queue age", state.queue_history, "unknown" if queue is None else f"{queue:.1f} s"),
        ("ready replicas", state.ready_history, f"{state.ready_history[-1] if state.ready_history else 0:.0f}"),
    )
    for name, values, now in rows:
        grid.add_row(name, sparkline(list(values), _HISTORY), Text(now, style="bold"))
    return grid


def _replicas(state: LiveState) -> Table:
    table = Table(title="Replicas", title_justify="left", expand=True)
    for column in ("replica", "phase", "running", "waiting", "KV", "detail"):
        table.add_column(column)
    loads = {load["replica_id"]: load for load in state.signals.get("replicas", [])}
    for replica in state.replicas[-8:]:
        load = loads.get(replica["replica_id"], {})
        phase = Text(replica["phase"], style=_PHASE_STYLES.get(replica["phase"], ""))
        kv = f"{load['kv_cache_use']:.0%}" if load else ""
        counts = [f"{load[name]:.0f}" if load else "" for name in ("requests_running", "requests_waiting")]
        table.add_row(replica["replica_id"], phase, *counts, kv, Text(replica["detail"]))
    return table


def _decisions(state: LiveState) -> Table:
    table = Table(title="Last decisions", title_justify="left", expand=True)
    for column in ("target", "reason", "in words"):
        table.add_column(column)
    for decision, alike in islice(_changes(state.decisions), _MOST_DECISIONS):
        moved = decision.target != decision.before
        style = "bold green" if decision.target > decision.before else "bold magenta" if moved else "dim"
        shown = f"{decision.before} -> {decision.target}" if moved else f"{decision.target}"
        more = f" ({alike} before it left it so too)" if alike else ""
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
