"""One simulated run, from the command's options to its summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from broker.app.settings import load_policies, load_site
from broker.log.memory import MemoryLog, MemoryStore
from broker.model import wire
from broker.model.errors import ConfigError, TraceError, WireError
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from cli.output import errors
from cli.replayed import nothing_sent, trace_counts
from policies.registry import cached
from simulator.demand import Demand, demand_of
from simulator.engine.fleet import make_ready
from simulator.report.summary import RunSummary
from simulator.run import Report
from simulator.simulation import Simulation, SimulationSettings
from traces.counts import WindowCounts, count_window
from traces.describe import LONGEST_SPAN_S, describe, span_problem
from traces.options import ScaleMethod
from traces.readers import open_trace
from traces.schema import replayable
from traces.shape import WHOLE, parse_window, scale_rate, window


@dataclass(frozen=True, slots=True)
class TraceRun:
    """What `simulate`'s options say. ``span``: the part of the trace, as `--window` writes it."""

    trace: Path
    policies: Path
    site: Path | None
    model_id: str | None
    span: str | None
    rate_scale: float
    scale_method: ScaleMethod
    tail_s: float
    skip_bad: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of a run, and the seconds that it took."""

    report: Report
    wall_s: float


def simulate_trace(run: TraceRun) -> Simulated:
    """Raises ``ConfigError`` and ``TraceError`` for files that cannot be used."""
    reader = open_trace(run.trace, skip_bad=run.skip_bad)
    site = load_site(run.site) if run.site is not None else None
    models = load_policies(run.policies, site)
    spec = site.spec if site is not None else _roomy_site(models)
    part = count_window(reader, parse_window(run.span) if run.span else WHOLE)
    if part.span_s > LONGEST_SPAN_S:
        raise TraceError(span_problem(describe(run.trace, skip_bad=run.skip_bad)), path=str(run.trace))
    scaled = scale_rate(replayable(reader), run.rate_scale, run.seed, run.scale_method)
    simulation = Simulation(
        spec, _present(models, spec), log=MemoryLog(MemoryStore(keeps_steps=False)), policies=cached(),
        settings=_settings(part, run.tail_s),
    )  # fmt: skip
    demand = demand_of(_model_id(models, run.model_id), window(scaled, part.window.start_s, part.window.end_s))
    return _run(simulation, demand, part, run.rate_scale)


def read_summary(path: Path) -> RunSummary:
    """A run's JSON. Raises ``ConfigError`` for a file that is none."""
    try:
        summary: RunSummary = wire.decode(RunSummary, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, WireError) as error:
        raise ConfigError(f"is not what `demo --json` or `simulate --json` prints: {error}", path=str(path)) from None
    return summary


def _run(simulation: Simulation, demand: Demand, part: WindowCounts, rate_scale: float) -> Simulated:
    """The run, with its progress by the trace's own time."""
    span_s = min(part.window.end_s, part.span_s) - part.window.start_s
    counts = trace_counts(part, rate_scale)
    _prepare_engine()
    began = time.perf_counter()
    with _shown_progress() as show:
        progress = Paced(show, max(span_s, 1e-9), time.monotonic, _BAR_EVERY_S if errors.is_terminal else LINE_EVERY_S)
        summary = simulation.run(demand, trace=lambda: counts, progress=progress)
    if not summary.requests.sent:
        summary = replace(summary, problems=(*summary.problems, nothing_sent(part, rate_scale)))
    return Simulated(Report.of(simulation, summary), time.perf_counter() - began)


def _prepare_engine() -> None:
    """Compile the engine, or load what an earlier run compiled. The time is told apart, and only where it was spent."""
    began = time.perf_counter()
    with errors.status("preparing the engine"):
        compiled = make_ready()
    if compiled:
        took_s = time.perf_counter() - began
        errors.print(f"compiled the engine in {took_s:.0f} s; later runs load it from disk", highlight=False)


_BAR_EVERY_S = 0.1
LINE_EVERY_S = 10.0


class Paced:
    """Shows a run's progress (percent, requests so far) every ``every_s`` of ``clock``, however often it is told."""

    def __init__(
        self, show: Callable[[float, int], None], span_s: float, clock: Callable[[], float], every_s: float
    ) -> None:
        self._show = show
        self._span_s = span_s
        self._clock = clock
        self._every_s = every_s
        self._next_at = clock() + every_s

    def __call__(self, second: float, count: int) -> None:
        now = self._clock()
        if now >= self._next_at:
            self._next_at = now + self._every_s
            self._show(100.0 * min(1.0, max(0.0, second / self._span_s)), count)


@contextmanager
def _shown_progress() -> Iterator[Callable[[float, int], None]]:
    """A bar on a terminal; elsewhere a plain line each time."""
    if not errors.is_terminal:
        yield lambda percent, count: errors.print(f"simulating: {percent:.0f}%, {count} requests", highlight=False)
        return
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.fields[count]} requests"), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=100.0, count=0)
        yield lambda percent, count: bar.update(task, completed=percent, count=count)


def _settings(part: WindowCounts, tail_s: float) -> SimulationSettings:
    """Schedules see the trace's own date where it has one."""
    start_at = part.began_at if part.began_at > 1e8 else SimulationSettings().start_at
    return SimulationSettings(tail_s=tail_s, start_at=start_at + part.window.start_s, warm_up_s=_WARM_UP_S)


_WARM_UP_S = 120.0
"""The first replicas load before the trace begins, as they would have in a service that runs."""


def _roomy_site(models: tuple[ModelSpec, ...]) -> SiteSpec:
    gpus = sum(model.maximum * model.gpus for model in models)
    return SiteSpec("simulated", (PoolSpec("simulated", "simulated", gpus),))


def _present(models: tuple[ModelSpec, ...], site: SiteSpec) -> tuple[ModelSpec, ...]:
    """Without a site file the pools that policies.yaml names are not there: the roomy one stands for all."""
    known = {pool.pool_id for pool in site.pools}
    return tuple(replace(model, pools=tuple(pool for pool in model.pools if pool in known)) for model in models)


def _model_id(models: tuple[ModelSpec, ...], wanted: str | None) -> str:
    names = [model.model_id for model in models]
    if wanted is not None and wanted not in names:
        raise ConfigError(f"no model {wanted!r} in the policies; there are {', '.join(names)}", field="--model")
    return wanted or names[0]
