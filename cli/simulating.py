"""One simulated run, from the command's options to its summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from broker.app.settings import load_policies, load_site
from broker.app.settings.document import read_document
from broker.app.settings.scenario import load_scenario
from broker.app.steadiness import steady_steps
from broker.model.errors import ConfigErrors, TraceError
from broker.model.spec import ModelSpec, PolicySpec
from cli.clusters import bad_rows_notes
from cli.interrupts import Interrupts
from cli.output import errors
from cli.placing import cluster_of, in_its_file, model_id_of, present, require_fits, roomy_site
from cli.progress import prepare_engine, shown_progress
from cli.replayed import gap_note, nothing_sent, nothing_served, rate_note, skipped_rows_notes, trace_counts
from cli.warming import warm_up_for
from policies.registry import cached
from simulator.checks.level import CheckLevel
from simulator.checks.saving import saved_on_error
from simulator.demand import Demand, demand_of, demand_of_scenario
from simulator.engine.routing import Routing
from simulator.oracle.policy import with_clairvoyant
from simulator.report.summary import Outcomes, Partial, RunSummary, TraceCounts, summarise
from simulator.run import Prepared, Report, prepare
from simulator.simulation import Simulation, SimulationSettings
from traces.blocks import RequestBlock
from traces.conditions import MetricFaults
from traces.counts import count_window
from traces.describe import LONGEST_SPAN_S, describe, span_problem
from traces.options import ScaleMethod
from traces.readers import open_trace
from traces.schema import Requests, replayable
from traces.shape import WHOLE, parse_window, scale_rate, window


@dataclass(frozen=True, slots=True)
class TraceRun:
    """What `simulate`'s options say. ``trace`` or ``scenario`` is what is asked; ``span``, the part of the trace as
    `--window` writes it, ``model_id``, ``rate_scale``, ``scale_method`` and ``skip_bad`` are of the trace.
    ``metrics``: None where no option tells of them; then a scenario may.
    ``save_to``: the folder for the observations around a violation; None keeps none. ``warm_up_s``: how long the first
    replicas have before the load; None covers their start."""

    trace: Path | None
    policies: Path
    site: Path | None
    model_id: str | None
    span: str | None
    rate_scale: float
    scale_method: ScaleMethod
    tail_s: float
    skip_bad: bool
    seed: int
    scenario: Path | None = None
    cluster: Path | None = None
    routing: Routing = Routing.LEAST_LOADED
    cached_share: float = 0.0
    metrics: MetricFaults | None = None
    check: CheckLevel = CheckLevel.CHEAP
    save_to: Path | None = None
    warm_up_s: float | None = None


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of a run, and the seconds that it took. ``dated``: the trace has a date of its own."""

    report: Report
    wall_s: float
    dated: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked, for ``span_s``. ``dated``: ``start_at`` is a date of its own. ``counts``: of the trace's
    rows, scaled by ``scale_method``. ``nothing``: why that may be nothing. ``notes``: what is to be known of the run's
    figures, whatever comes of it."""

    demand: Demand
    start_at: float | None
    dated: bool
    span_s: float
    nothing: str
    counts: TraceCounts | None = None
    scale_method: ScaleMethod = ScaleMethod.SUPERPOSE
    notes: tuple[str, ...] = ()


def simulate_trace(
    run: TraceRun, instead: Mapping[str, PolicySpec] | None = None, *, interrupts: Interrupts | None = None,
    doing: str = "simulating", harm: bool = True,
) -> Simulated:  # fmt: skip
    """``instead``: policies, by model, in place of those of the file. ``doing`` names the run in its progress; ``harm``
    as for ``Prepared.carry_out``. A signal that ``interrupts`` hears ends the run in
    order; what goes on before the run it ends by ``KeyboardInterrupt``.

    Raises ``ConfigError`` and ``TraceError`` for files that cannot be used, ``InvariantViolated`` for a mistake of ours,
    whose observations are saved.
    """
    interrupts = interrupts or Interrupts()
    interrupts.doing = "reading the files"
    prepared, asked = prepare_run(run, instead)
    if instead is None:  # before the run, which may take long; its summary tells them once more, with the figures
        for note in asked.notes:
            _tell(f"note: {note}")
    interrupts.doing = "preparing the engine"
    prepare_engine()
    interrupts.require_none()
    simulation = prepared.simulation
    requests = _readable(prepared.demand.requests, simulation, interrupts)
    prepared = replace(prepared, demand=replace(prepared.demand, requests=requests))
    with saved_on_error(simulation, run.save_to, _tell), interrupts.ending(simulation.stop):
        return _carried_out(prepared, asked, doing, harm)


def nothing_simulated(doing: str) -> RunSummary:
    """The summary of a run that was ended before anything was simulated."""
    return summarise(
        source="simulate", started_at=0.0, duration_s=0.0, outcomes=Outcomes.of(()), replicas=(), decisions=(),
        partial=Partial(doing),
    )  # fmt: skip


def _readable(requests: Requests, simulation: Simulation, interrupts: Interrupts) -> Requests:
    """``requests``, whose reading is ended at once: to find the beginning of a window may take a minute."""

    def blocks() -> Iterator[RequestBlock]:
        source = requests.blocks()
        while True:
            try:
                with interrupts.raising():
                    block = next(source, None)
            except KeyboardInterrupt:
                if interrupts.count > 1:
                    raise
                simulation.stop()
                return
            if block is None:
                return
            yield block

    return requests.derived(blocks)


def _tell(words: str) -> None:
    errors.print(words, highlight=False, markup=False, soft_wrap=True)


def prepare_run(run: TraceRun, instead: Mapping[str, PolicySpec] | None = None) -> tuple[Prepared, Asked]:
    """The simulation that the options describe. Arguments and errors as for ``simulate_trace``."""
    site = load_site(run.site) if run.site is not None else None
    models = tuple(
        replace(model, policy=(instead or {}).get(model.model_id, model.policy))
        for model in load_policies(run.policies, site)
    )
    asked = _of_trace(run.trace, run, models) if run.trace is not None else _of_scenario(run, models)
    spec = site.spec if site is not None else roomy_site(models)
    cluster = cluster_of(run.cluster, run.site, spec)
    settings = SimulationSettings(
        tail_s=run.tail_s, warm_up_s=warm_up_for(models, cluster) if run.warm_up_s is None else run.warm_up_s,
        metrics=run.metrics, routing=run.routing, cached_share=run.cached_share,
    )  # fmt: skip
    if asked.start_at is not None:
        settings = replace(settings, start_at=asked.start_at)
    if cluster is not None:
        lasts_s = cluster.lead_s + settings.warm_up_s + asked.demand.asked_s() + run.tail_s
        asked = replace(asked, notes=(*asked.notes, *bad_rows_notes(cluster, lasts_s)))
    try:
        require_fits(present(models, spec), spec, cluster)
        prepared = prepare(
            spec, present(models, spec), asked.demand, seed=run.seed, policies=with_clairvoyant(cached()),
            settings=settings, cluster=cluster, checks=run.check,
        )  # fmt: skip
    except ConfigErrors as error:
        files = {"pools": run.site, "models": run.policies, "cold_starts": run.cluster}
        raise ConfigErrors([in_its_file(problem, files) for problem in error.problems]) from None
    return prepared, asked


def _of_trace(path: Path, run: TraceRun, models: tuple[ModelSpec, ...]) -> Asked:
    reader = open_trace(path, skip_bad=run.skip_bad)
    part = count_window(reader, parse_window(run.span) if run.span else WHOLE)
    if part.span_s > LONGEST_SPAN_S:
        raise TraceError(span_problem(describe(path, skip_bad=run.skip_bad)), path=str(path))
    if part.rows == part.failed:
        another = "; choose another --window" if run.span else ""
        raise TraceError(nothing_sent(part, run.rate_scale) + another, path=str(path))
    scaled = scale_rate(replayable(reader), run.rate_scale, run.seed, run.scale_method)
    demand = demand_of(model_id_of(models, run.model_id), window(scaled, part.window.start_s, part.window.end_s))
    # Schedules see the trace's own date where it has one.
    dated = part.began_at > 1e8
    began_at = part.began_at if dated else SimulationSettings().start_at
    span_s = min(part.window.end_s, part.span_s) - part.window.start_s
    return Asked(
        demand, began_at + part.window.start_s, dated, span_s, nothing_sent(part, run.rate_scale),
        trace_counts(part, run.rate_scale), run.scale_method, tuple(filter(None, (gap_note(part),))),
    )  # fmt: skip


def _of_scenario(run: TraceRun, models: tuple[ModelSpec, ...]) -> Asked:
    assert run.scenario is not None
    scenario = load_scenario(run.scenario)
    known = [model.model_id for model in models]
    if unknown := [name for name in scenario.models if name not in known]:
        document = read_document(run.scenario)
        words = "the policies have no such model; they have " + ", ".join(known)
        raise ConfigErrors([document.problem(("models", name), words) for name in unknown])
    return Asked(
        demand_of_scenario(scenario, run.seed), scenario.start_at, scenario.start_at is not None, scenario.duration_s,
        "the scenario asks nothing", notes=tuple(skipped_rows_notes(scenario)),
    )  # fmt: skip


def _carried_out(prepared: Prepared, asked: Asked, doing: str, harm: bool) -> Simulated:
    """The run, with its progress by the load's own time."""
    began = time.perf_counter()
    with steady_steps(), shown_progress(doing, asked.span_s) as (progress, stage):
        report = prepared.carry_out(trace=asked.counts, progress=progress, stage=stage, harm=harm)
    summary, notes = report.summary, asked.notes
    if summary.partial is not None:
        summary = replace(summary, partial=replace(summary.partial, span_s=asked.span_s))
    elif not summary.requests.finished:
        problem = nothing_served(summary) if summary.requests.sent else asked.nothing
        summary = replace(summary, problems=(*summary.problems, problem))
    if asked.counts is not None and summary.partial is None:
        note = rate_note(asked.counts, summary.requests.sent, asked.scale_method)
        notes = (*notes, *filter(None, (note,)))
    summary = replace(summary, notes=(*notes, *summary.notes))
    return Simulated(replace(report, summary=summary), time.perf_counter() - began, asked.dated)
