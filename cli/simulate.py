"""``tidegate simulate``: a trace through the production core in simulated time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.interrupts import Interrupts
from cli.output import Exit, console, duration_option, errors, fail, print_json, told_errors
from simulator.checks.level import CheckLevel
from simulator.engine.routing import Routing
from simulator.report.options import OracleChoice
from traces.conditions import faults_of
from traces.options import LARGEST_RATE_SCALE, ScaleMethod

LONGEST_TAIL_S = 30 * 86_400.0


def simulate(
    policies: Annotated[Path | None, typer.Option("--policies", help="The policies file. Required, unless --resume-from is given.", show_default=False)] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="BurstGPT, Azure, Mooncake or a request log; plain or .gz.", show_default=False)] = None,
    scenario: Annotated[Path | None, typer.Option("--scenario", help="In place of a trace: what several models are asked.", show_default=False)] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="The Slurm cluster that the site's slurm pools are on.", show_default=False)] = None,
    site: Annotated[Path | None, typer.Option("--site", help="The site file (default: one pool with room for all).", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Which model gets the trace (default: the first).", show_default=False)] = None,
    span: Annotated[str | None, typer.Option("--window", help="Part of the trace, such as 10m..1h.")] = None,
    rate_scale: Annotated[float, typer.Option("--rate-scale", min=1e-6, max=LARGEST_RATE_SCALE, help="Times the trace's rate.")] = 1.0,
    scale_method: Annotated[ScaleMethod, typer.Option("--scale-method", help="How a rate is raised.")] = ScaleMethod.SUPERPOSE,
    tail: Annotated[float, typer.Option("--tail", min=0, max=LONGEST_TAIL_S, help="Seconds to run on after the last arrival; longer while requests are open.")] = 60.0,
    warm_up: Annotated[float | None, typer.Option("--warm-up", min=0, max=LONGEST_TAIL_S, help="Seconds that the first replicas have before the load (default: more than the models' starts take).", show_default=False)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed rows instead of stopping.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")] = 1,
    routing: Annotated[Routing, typer.Option("--routing", help="How the gateway chooses a replica.")] = Routing.LEAST_LOADED,
    cached_share: Annotated[float, typer.Option("--cached-share", min=0, max=1, help="Share of prompt tokens that prefix caches hold, where the trace does not tell who shares.")] = 0.0,
    metric_loss: Annotated[float | None, typer.Option("--metric-loss", min=0, max=1, help="Share of scrapes and gateway reports that are lost.", show_default=False)] = None,
    metric_delay: Annotated[str | None, typer.Option("--metric-delay", help="Median time that they take to the broker, such as 2s.", show_default=False)] = None,
    against: Annotated[Path | None, typer.Option("--against", help="Stand beside this run: the JSON of a demo or simulation.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a report into this folder: index.html, report.json, Parquet files.", show_default=False)] = None,
    oracle: Annotated[OracleChoice, typer.Option("--oracle", help="With --out: whether the run is held against a lower bound and a clairvoyant plan; by itself the plan is made where that takes no minutes.")] = OracleChoice.AUTO,
    check: Annotated[CheckLevel, typer.Option("--check", help="Which invariants are checked: the cheap ones, or all of them at every step.")] = CheckLevel.CHEAP,
    save_to: Annotated[Path, typer.Option("--save-to", help="Where the observations around a violation are saved.")] = Path("."),
    resume: Annotated[Path | None, typer.Option("--resume-from", help="Replay the observations that an earlier run saved at a violation, instead of a load.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON document.")] = False,
) -> None:  # fmt: skip
    """Replay a trace or a scenario through the core that runs in production, in a fraction of its time.

    It prints the demo's summary.

    Ctrl-C ends the run in order: what is printed is then marked as partial. A second one ends it at once.
    """
    if resume is not None:
        from cli.resuming import resume_from

        if trace is not None or scenario is not None or policies is not None:
            raise fail("--resume-from replays what was saved: leave out --trace, --scenario, --policies", Exit.USAGE)
        with told_errors():
            return resume_from(resume, as_json=as_json)
    if policies is None:
        raise fail("say what decides: --policies FILE; `tidegate simulate --help` tells more", Exit.USAGE)
    for option, seconds in (("--tail", tail), ("--warm-up", warm_up)):
        if seconds is not None and math.isnan(seconds):
            raise fail(f"{option}: nan is not a number of seconds", Exit.USAGE)
    if out is None and oracle is OracleChoice.ALWAYS:
        raise fail("--oracle says what a report holds: give --out, too", Exit.USAGE)
    _check_load(
        trace, scenario, {"--model": model, "--window": span, "--rate-scale": rate_scale != 1.0, "--skip-bad": skip_bad}
    )
    for option, share in (("--cached-share", cached_share), ("--metric-loss", metric_loss)):
        if share is not None and math.isnan(share):
            raise fail(f"{option}: nan is not a share from 0 to 1", Exit.USAGE)
    metrics = faults_of(metric_loss, None if metric_delay is None else duration_option("--metric-delay", metric_delay))
    simulated = other = None
    with told_errors(), Interrupts().heard() as interrupts:
        with interrupts.waiting():  # modules that are half imported cannot be imported again
            from broker.model import wire
            from cli.reporting import write_report
            from cli.simulating import TraceRun, nothing_simulated, simulate_trace
            from cli.summaries import read_summary
            from simulator.report.compare import compare
            from simulator.report.figures import spread_of
            from simulator.report.folder import require_folder
            from simulator.report.render import partial_words, render, render_comparison

        run = TraceRun(
            trace, policies, site=site, model_id=model, span=span, rate_scale=rate_scale, scale_method=scale_method,
            tail_s=tail, skip_bad=skip_bad, seed=seed, scenario=scenario, cluster=cluster, routing=routing,
            cached_share=cached_share, metrics=metrics, check=check, save_to=save_to, warm_up_s=warm_up,
        )  # fmt: skip
        try:
            interrupts.require_none()
            other = read_summary(against) if against is not None else None
            if out is not None:
                require_folder(out)
            simulated = simulate_trace(run, interrupts=interrupts)
            if out is not None and (simulated.report.summary.partial is None or simulated.report.summary.requests.sent):
                write_report(run, simulated, out, oracle=oracle, interrupts=interrupts)
        except KeyboardInterrupt:
            if interrupts.count > 1:
                raise
    summary = nothing_simulated(interrupts.doing) if simulated is None else simulated.report.summary
    wall_s = 0.0 if simulated is None else simulated.wall_s
    if as_json:
        print_json(wire.encode(summary) | {"wall_s": wall_s})
    elif simulated is not None and summary.requests.sent:
        render(summary, console, spread_of(simulated.report.facts, seed))
        if other is not None and against is not None:
            render_comparison(replace(compare(other, summary), first=against.name, second="this run"), console)
        errors.print(f"simulated in {wall_s:.2f} s: {summary.duration_s / max(wall_s, 1e-9):,.0f} times real time")
    if interrupts.count:
        how = "after the run had ended" if summary.partial is None else partial_words(summary.partial)
        errors.print(f"interrupted: {how}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(int(Exit.INTERRUPTED))
    if summary.problems or summary.requests.failed or not summary.requests.finished:
        raise fail("; ".join(summary.problems) or f"{summary.requests.failed:,} requests failed")


def _check_load(trace: Path | None, scenario: Path | None, of_traces: Mapping[str, object]) -> None:
    if trace is None and scenario is None:
        raise fail("say what is asked: --trace FILE, or --scenario FILE", Exit.USAGE)
    if trace is not None and scenario is not None:
        raise fail("--trace and --scenario exclude each other; a scenario's loads may be traces", Exit.USAGE)
    given = [option for option, value in of_traces.items() if value]
    if scenario is not None and given:
        raise fail(f"{given[0]} goes with --trace; a scenario says it for each of its loads", Exit.USAGE)
