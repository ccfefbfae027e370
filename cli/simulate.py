"""``tidegate simulate``: a trace through the production core in simulated time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from broker.app.settings import load_policies, load_site
from broker.log.memory import MemoryLog
from broker.model import wire
from broker.model.errors import ConfigError, WireError
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from cli.output import Exit, console, errors, print_json, told_errors
from policies.registry import cached
from simulator.report.compare import compare
from simulator.report.render import render, render_comparison
from simulator.report.summary import RunSummary, TraceCounts
from simulator.simulation import Simulation, SimulationSettings
from traces.describe import describe
from traces.readers import TraceReader, open_trace
from traces.schema import TraceRequest, replayable
from traces.shape import ScaleMethod, Window, parse_window, scale_rate, window


def simulate(
    trace: Annotated[Path, typer.Option("--trace", help="BurstGPT, Azure or Mooncake; plain or .gz.")],
    policies: Annotated[Path, typer.Option("--policies", help="The policies file.")],
    site: Annotated[Path | None, typer.Option("--site", help="The site file (default: one pool with room for all).", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Which model gets the trace (default: the first).", show_default=False)] = None,
    span: Annotated[str | None, typer.Option("--window", help="Part of the trace, such as 10m..1h.")] = None,
    rate_scale: Annotated[float, typer.Option("--rate-scale", min=1e-6, help="Times the trace's rate.")] = 1.0,
    scale_method: Annotated[ScaleMethod, typer.Option("--scale-method", help="How a rate is raised.")] = ScaleMethod.SUPERPOSE,
    tail: Annotated[float, typer.Option("--tail", min=0, help="Seconds to run on after the last arrival.")] = 60.0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed rows instead of stopping.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the scaling.")] = 1,
    against: Annotated[Path | None, typer.Option("--against", help="Stand beside this run: the JSON of a demo or simulation.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON document.")] = False,
) -> None:  # fmt: skip
    """Replay a trace through the same core that runs in production, much faster than real time, and print the demo's
    summary."""
    with told_errors():
        other = _read_summary(against) if against is not None else None
        reader = open_trace(trace, skip_bad=skip_bad)
        settings = load_site(site) if site is not None else None
        models = load_policies(policies, settings)
        spec = settings.spec if settings is not None else _roomy_site(models)
        chosen = parse_window(span) if span else Window(0.0, float("inf"))
        requests = window(scale_rate(replayable(reader), rate_scale, seed, scale_method), chosen.start_s, chosen.end_s)
        simulation = Simulation(
            spec, _present(models, spec), _model_id(models, model), log=MemoryLog(), policies=cached(),
            settings=_settings(reader, chosen, tail),
        )  # fmt: skip
        summary, wall_s = _run(simulation, requests, reader, trace, chosen)
    if as_json:
        print_json(wire.encode(summary) | {"wall_s": wall_s})
    else:
        render(summary, console)
        if other is not None:
            render_comparison(compare(other, summary), console)
        errors.print(f"simulated in {wall_s:.2f} s: {summary.duration_s / max(wall_s, 1e-9):,.0f} times real time")
    if not summary.requests.sent:
        raise typer.Exit(int(Exit.FAILED))


def _read_summary(path: Path) -> RunSummary:
    """A run's JSON. Raises ``ConfigError`` for a file that is none."""
    try:
        summary: RunSummary = wire.decode(RunSummary, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, WireError) as error:
        raise ConfigError(f"is not what `demo --json` or `simulate --json` prints: {error}", path=str(path)) from None
    return summary


def _run(
    simulation: Simulation, requests: Iterable[TraceRequest], reader: TraceReader, path: Path, chosen: Window
) -> tuple[RunSummary, float]:
    """The run under a progress bar that measures by the trace's own time; wall seconds beside it."""
    span_s = describe(path, skip_bad=reader.skip_bad).span_s
    total = min(chosen.end_s, span_s) - chosen.start_s
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.fields[count]} requests"), TimeElapsedColumn())  # fmt: skip
    began = time.perf_counter()
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("", total=max(total, 1e-9), count=0)

        def tell(second: float, count: int) -> None:
            if count % 200 == 0:
                progress.update(task, completed=second, count=count)

        def counts() -> TraceCounts:
            return TraceCounts(reader.statistics.rows, reader.statistics.failed, reader.statistics.bad)

        summary = simulation.run(requests, trace=counts, progress=tell)
    return summary, time.perf_counter() - began


def _settings(reader: TraceReader, chosen: Window, tail_s: float) -> SimulationSettings:
    """Schedules see the trace's own date where it has one."""
    next(iter(reader), None)
    began_at = reader.statistics.began_at or 0.0
    default = SimulationSettings()
    start_at = began_at if began_at > 1e8 else default.start_at
    return SimulationSettings(tail_s=tail_s, start_at=start_at + chosen.start_s, warm_up_s=_WARM_UP_S)


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
