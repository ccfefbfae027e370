"""One simulated run, from the command's options to its summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from broker.app.settings import load_policies, load_site
from broker.app.settings.document import read_document
from broker.app.settings.scenario import load_scenario
from broker.app.steadiness import steady_steps
from broker.model import wire
from broker.model.errors import ConfigError, ConfigErrors, TraceError, WireError
from broker.model.spec import ModelSpec, PolicySpec, PoolSpec, SiteSpec
from broker.model.units import format_duration
from cli.clusters import read_cluster
from cli.interrupts import Interrupts
from cli.output import errors
from cli.replayed import nothing_sent, nothing_served, rate_note, trace_counts
from policies.registry import cached
from simulator.checks.level import CheckLevel
from simulator.checks.saving import saved_on_error
from simulator.cluster.places import SLURM
from simulator.cluster.plan import ClusterPlan, LoggedJobs
from simulator.demand import Demand, demand_of, demand_of_scenario
from simulator.engine.routing import Routing
from simulator.oracle.policy import with_clairvoyant
from simulator.report.summary import Outcomes, Partial, RunSummary, TraceCounts, summarise
from simulator.run import Prepared, Report, prepare
from simulator.simulation import Simulation, SimulationSettings, make_ready
from traces.blocks import RequestBlock
from traces.conditions import MetricFaults
from traces.counts import WindowCounts, count_window
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
    ``save_to``: the folder for the observations around a violation; None keeps none."""

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


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of a run, and the seconds that it took. ``dated``: the trace has a date of its own."""

    report: Report
    wall_s: float
    dated: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked, for ``span_s``. ``dated``: ``start_at`` is a date of its own. ``counts``: of the trace's
    rows, scaled by ``scale_method``. ``nothing``: why that may be nothing."""

    demand: Demand
    start_at: float | None
    dated: bool
    span_s: float
    nothing: str
    counts: TraceCounts | None = None
    scale_method: ScaleMethod = ScaleMethod.SUPERPOSE


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
    interrupts.doing = "preparing the engine"
    prepare_engine()
    interrupts.require_none()
    simulation = prepared.simulation
    requests = _readable(prepared.demand.requests, simulation, interrupts)
    prepared = replace(prepared, demand=replace(prepared.demand, requests=requests))
    with saved_on_error(simulation, run.save_to, _tell_saved), interrupts.ending(simulation.stop):
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


_LONG_GAP_S = 86_400.0


def _note_gap(part: WindowCounts) -> None:
    """Replicas stand idle through a gap, and are simulated: weeks of nothing take their time."""
    if part.longest_gap_s > _LONG_GAP_S:
        gap, at = format_duration(round(part.longest_gap_s)), format_duration(round(part.longest_gap_at_s))
        words = f"nothing arrives for {gap} from {at} of the trace on, which is simulated too; --window leaves it out"
        errors.print(f"note: {words}", highlight=False, markup=False, soft_wrap=True)


def _note_bad_rows(cluster: ClusterPlan, lasts_s: float) -> None:
    """What `skip_bad` leaves out of logs of batch jobs, which the summary does not tell."""
    for load in cluster.background:
        if isinstance(load.source, LoggedJobs) and load.source.skip_bad:
            count, first = load.source.bad_rows(lasts_s)
            if count:
                rows = "row is" if count == 1 else "rows are"
                words = f"{load.source.path}: {count:,} {rows} left out of background {load.name}; the first: {first}"
                errors.print(f"note: {words}", highlight=False, markup=False, soft_wrap=True)


def _tell_saved(words: str) -> None:
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
    settings = SimulationSettings(
        tail_s=run.tail_s, warm_up_s=WARM_UP_S, metrics=run.metrics, routing=run.routing,
        cached_share=run.cached_share,
    )  # fmt: skip
    if asked.start_at is not None:
        settings = replace(settings, start_at=asked.start_at)
    cluster = cluster_of(run.cluster, run.site, spec)
    if cluster is not None:
        _note_bad_rows(cluster, cluster.lead_s + WARM_UP_S + asked.demand.asked_s() + run.tail_s)
    try:
        _require_fits(present(models, spec), spec, cluster)
        prepared = prepare(
            spec, present(models, spec), asked.demand, seed=run.seed, policies=with_clairvoyant(cached()),
            settings=settings, cluster=cluster, checks=run.check,
        )  # fmt: skip
    except ConfigErrors as error:
        raise ConfigErrors([_in_its_file(problem, run) for problem in error.problems]) from None
    return prepared, asked


def _of_trace(path: Path, run: TraceRun, models: tuple[ModelSpec, ...]) -> Asked:
    reader = open_trace(path, skip_bad=run.skip_bad)
    part = count_window(reader, parse_window(run.span) if run.span else WHOLE)
    if part.span_s > LONGEST_SPAN_S:
        raise TraceError(span_problem(describe(path, skip_bad=run.skip_bad)), path=str(path))
    _note_gap(part)
    scaled = scale_rate(replayable(reader), run.rate_scale, run.seed, run.scale_method)
    demand = demand_of(model_id_of(models, run.model_id), window(scaled, part.window.start_s, part.window.end_s))
    # Schedules see the trace's own date where it has one.
    dated = part.began_at > 1e8
    began_at = part.began_at if dated else SimulationSettings().start_at
    span_s = min(part.window.end_s, part.span_s) - part.window.start_s
    return Asked(
        demand, began_at + part.window.start_s, dated, span_s, nothing_sent(part, run.rate_scale),
        trace_counts(part, run.rate_scale), run.scale_method,
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
        "the scenario asks nothing",
    )  # fmt: skip


def cluster_of(path: Path | None, site_path: Path | None, site: SiteSpec) -> ClusterPlan | None:
    """The cluster that ``site``'s pools are simulated on. Raises ``ConfigError`` where one is missing, or useless."""
    on_cluster = [pool.pool_id for pool in site.pools if pool.kind == SLURM]
    if path is None and on_cluster:
        raise ConfigError(
            "a pool of kind slurm is simulated on a cluster: describe it and name the file with --cluster "
            "(deploy/examples/cluster.yaml is one)",
            path=str(site_path),
            field=f"pools.{on_cluster[0]}.kind",
        )
    if path is not None and not on_cluster:
        raise ConfigError("nothing would run on this cluster: no pool of the site is of kind slurm", path=str(path))
    return read_cluster(path) if path is not None else None


def _require_fits(models: tuple[ModelSpec, ...], site: SiteSpec, cluster: ClusterPlan | None) -> None:
    """Before anything runs, not after it. Raises ``ConfigErrors``."""
    problems: list[ConfigError] = []
    for model in models:
        if model.maximum:
            try:
                require_room(model, site)
            except ConfigError as error:
                problems.append(error)
    known = [model.model_id for model in models]
    for name in cluster.cold_starts if cluster is not None else ():
        if name not in known:
            words = "the policies have no such model; they have " + ", ".join(known)
            problems.append(ConfigError(words, field=f"cold_starts.models.{name}"))
    if problems:
        raise ConfigErrors(problems)


def _in_its_file(problem: ConfigError, run: TraceRun) -> ConfigError:
    """A problem of pools or models where its file has it."""
    kind, _, rest = (problem.field or "").partition(".")
    path = {"pools": run.site, "models": run.policies, "cold_starts": run.cluster}.get(kind)
    if path is None or problem.path is not None:
        return problem
    if kind == "cold_starts":  # of a model, whose name may have dots
        section, _, name = rest.partition(".")
        return read_document(path).problem((kind, section, name), problem.problem)
    name, _, option = rest.rpartition(".")
    return read_document(path).problem((kind, name, option), problem.problem)


def read_summary(path: Path) -> RunSummary:
    """A run's JSON. Raises ``ConfigError`` for a file that is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_SUMMARY_BYTES + 1)
        if len(content) > _LARGEST_SUMMARY_BYTES:
            raise ValueError("it is larger than 256 MiB")
        summary: RunSummary = wire.decode(RunSummary, json.loads(content.decode()))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, RecursionError, WireError) as error:
        raise ConfigError(f"is not what `demo --json` or `simulate --json` prints: {error}", path=str(path)) from None
    return summary


_LARGEST_SUMMARY_BYTES = 256 << 20


def _carried_out(prepared: Prepared, asked: Asked, doing: str, harm: bool) -> Simulated:
    """The run, with its progress by the load's own time."""
    began = time.perf_counter()
    with steady_steps(), _shown_progress(doing) as (show, stage):
        every_s = _BAR_EVERY_S if errors.is_terminal else LINE_EVERY_S
        progress = Paced(show, max(asked.span_s, 1e-9), time.monotonic, every_s)
        report = prepared.carry_out(trace=asked.counts, progress=progress, stage=stage, harm=harm)
    summary = report.summary
    if summary.partial is not None:
        summary = replace(summary, partial=replace(summary.partial, span_s=asked.span_s))
    elif not summary.requests.finished:
        problem = nothing_served(summary) if summary.requests.sent else asked.nothing
        summary = replace(summary, problems=(*summary.problems, problem))
    if asked.counts is not None and summary.partial is None:
        note = rate_note(asked.counts, summary.requests.sent, asked.scale_method)
        summary = replace(summary, notes=(*summary.notes, *filter(None, (note,))))
    return Simulated(replace(report, summary=summary), time.perf_counter() - began, asked.dated)


def prepare_engine() -> None:
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


_LEAST_GAIN_PERCENT = 5.0


@contextmanager
def _shown_progress(doing: str) -> Iterator[tuple[Callable[[float, int], None], Callable[[str], None]]]:
    """Shows how far the load is, and names what begins after it. A bar on a terminal; elsewhere plain lines."""
    if not errors.is_terminal:
        yield progress_lines(doing, lambda words: errors.print(words, highlight=False, markup=False, soft_wrap=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(doing, total=100.0, far="")

        def show_stage(stage: str) -> None:
            nonlocal task
            bar.remove_task(task)
            task = bar.add_task(_staged(doing, stage), total=None, far="")

        yield (
            lambda percent, count: bar.update(task, completed=percent, far=f"{percent:>3.0f}% {count} requests"),
            show_stage,
        )


def progress_lines(
    doing: str, write: Callable[[str], None]
) -> tuple[Callable[[float, int], None], Callable[[str], None]]:
    """A line where the load has come on by some percent: in its tail nothing does. One for each stage after it."""
    next_percent = 0.0

    def show(percent: float, count: int) -> None:
        nonlocal next_percent
        if percent >= next_percent:
            next_percent = percent + _LEAST_GAIN_PERCENT
            write(f"{doing}: {percent:.0f}%, {count} requests")

    return show, lambda stage: write(_staged(doing, stage))


def _staged(doing: str, stage: str) -> str:
    return f"{doing}: {stage}"


WARM_UP_S = 120.0
"""The first replicas load before the trace begins, as they would have in a service that runs."""


def roomy_site(models: tuple[ModelSpec, ...]) -> SiteSpec:
    gpus = sum(model.maximum * model.gpus for model in models)
    return SiteSpec("simulated", (PoolSpec("simulated", "simulated", gpus),))


def present(models: tuple[ModelSpec, ...], site: SiteSpec) -> tuple[ModelSpec, ...]:
    """Without a site file the pools that policies.yaml names are not there: the roomy one stands for all."""
    known = {pool.pool_id for pool in site.pools}
    return tuple(replace(model, pools=tuple(pool for pool in model.pools if pool in known)) for model in models)


def require_room(model: ModelSpec, site: SiteSpec) -> None:
    """Raises ``ConfigError`` for a model of which no pool could ever hold a replica."""
    room = max((pool.gpus for pool in site.pools if not model.pools or pool.pool_id in model.pools), default=0)
    if model.gpus > room:
        raise ConfigError(
            f"a replica of {model.model_id} takes {model.gpus} GPUs, and its largest pool has {room}; give it a pool "
            "with room, or take fewer GPUs for each",
            field=f"models.{model.model_id}.gpus",
        )


def model_id_of(models: tuple[ModelSpec, ...], wanted: str | None) -> str:
    names = [model.model_id for model in models]
    if wanted is not None and wanted not in names:
        raise ConfigError(f"no model {wanted!r} in the policies; there are {', '.join(names)}", field="--model")
    return wanted or names[0]
