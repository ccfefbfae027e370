"""A sweep from its file to its cells: what is run, under which key, and what cannot be run at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from broker.app.release import release
from broker.app.settings.document import Document, Location, dotted, read_document
from broker.app.settings.loading import load_site, policies_of
from broker.app.settings.parameters import located, with_value
from broker.app.settings.scenario import TraceLoad, load_scenario
from broker.app.settings.site import SiteSettings
from broker.app.settings.sweep import (
    ChoiceValues,
    LogUniformValues,
    ScenarioDemand,
    SweepDemand,
    SweepPolicy,
    SweepSettings,
    UniformValues,
    read_sweep,
    window_of,
)
from broker.model.errors import ConfigError, ConfigErrors, TidegateError
from broker.model.spec import ModelSpec, ServiceObjective, SiteSpec
from cli.placing import cluster_of, model_id_of, present, roomy_site
from cli.sweep_cells import CellTask
from cli.sweep_keys import Inputs, code_digest
from simulator.cluster.plan import ClusterPlan
from simulator.profiles.document import profile_path
from simulator.simulation import SimulationSettings
from simulator.statistics import Days, Resampling
from simulator.sweep.cells import Candidate, Cell, CellFailure, cell_key
from simulator.sweep.comparing import blocks_for
from simulator.sweep.design import Between, Choice, Distribution, Search, Settings
from simulator.sweep.document import DemandUsed
from simulator.sweep.inputs import InputFile
from simulator.sweep.ranking import Goal, Results
from traces.readers import open_trace
from traces.scenario import Scenario, Source, TraceSource

MOST_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """``tasks`` are to be run, in this order; ``failed`` are cells that cannot be, since a value is none that the
    policies file allows. ``cells`` are all of them in the sweep's order. ``objectives`` by model; that of the model which
    the traces ask has no name, since each policies file may call it otherwise."""

    settings: SweepSettings
    objectives: Mapping[str, ServiceObjective]
    demands: tuple[DemandUsed, ...]
    cells: tuple[Cell, ...]
    tasks: tuple[CellTask, ...]
    failed: tuple[CellFailure, ...]

    @property
    def ranked_on(self) -> tuple[str, ...]:
        """The demands that the ranking is made of."""
        return tuple(demand.name for demand in self.demands if demand.side != "report")

    @property
    def held_out(self) -> tuple[str, ...]:
        return tuple(demand.name for demand in self.demands if demand.side == "report")

    @property
    def goal(self) -> Goal:
        return Goal(self.settings.goal.attainment, self.settings.goal.worst_hour)

    def resampling(self, results: Results) -> Resampling:
        """How intervals of these results are made."""
        chosen = self.settings.resampling
        recorded = any(demand.recorded for demand in self.demands)
        days = blocks_for(recorded=recorded, days=results.days(self.ranked_on), seeds=len(self.settings.seeds))
        return Resampling(
            days if chosen.blocks == "auto" else Days(chosen.blocks), chosen.level, chosen.resamples, chosen.seed
        )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate with what its policies file then says: ``models``, or why it is refused. ``profiles``: the files that
    its engines name; those of the catalogue are code."""

    candidate: Candidate
    data: Any
    models: tuple[ModelSpec, ...] = ()
    model_id: str = ""
    cause: str = ""
    profiles: tuple[InputFile, ...] = ()


@dataclass(frozen=True, slots=True)
class _Demand:
    used: DemandUsed
    load: Source | Scenario
    duration_s: float
    start_at: float
    cause: str = ""
    files: tuple[InputFile, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where everything runs, and for how long."""

    site: SiteSettings | None
    cluster: ClusterPlan | None
    tail_s: float
    files: tuple[InputFile, ...]

    def spec(self, models: tuple[ModelSpec, ...]) -> SiteSpec:
        return self.site.spec if self.site is not None else roomy_site(models)


def plan_sweep(path: Path) -> Plan:
    """Raises ``ConfigErrors`` for files that cannot be used."""
    settings, document = read_sweep(path)
    site = load_site(settings.site) if settings.site is not None else None
    cluster = cluster_of(settings.cluster, settings.site, site.spec) if site is not None else None
    if settings.cluster is not None and site is None:
        raise ConfigErrors([document.problem(("cluster",), "needs a site with pools of kind slurm")])
    inputs = Inputs()
    place = _Place(site, cluster, settings.tail_s, inputs.files_of(cluster))
    tried = [
        _with_profiles(one, inputs)
        for name, policy in settings.policies.items()
        for one in _tries(name, policy, site, document)
    ]
    demands = [_demand(*entry, inputs) for entry in _sides(settings)]
    _refuse_seen(demands, inputs, document)
    objectives = _objectives(settings, tried, demands, document)
    if settings.slo is not None:
        tried = [_judged_by(one, settings.slo.to_spec()) for one in tried]
    if len(tried) * len(demands) * len(settings.seeds) > MOST_CELLS:
        raise ConfigErrors([document.problem(("policies",), f"these are more than {MOST_CELLS:,} cells; take fewer")])
    common = {
        "release": release(),
        "code": code_digest(),
        "site": inputs.plain(site and site.spec),
        "cluster": inputs.plain(cluster),
        "slo": inputs.plain(settings.slo and settings.slo.to_spec()),
        "tail_s": settings.tail_s,
    }
    cells, tasks, failed = [], [], []
    for demand in demands:
        for seed in settings.seeds:
            for one in tried:
                determines = {
                    "policies": one.data, "model": one.model_id, "demand": demand.used.digest, "seed": seed,
                    "profiles": [file.digest for file in one.profiles],
                }  # fmt: skip
                key = cell_key({**common, **determines, "candidate": inputs.plain(one.candidate)})
                cells.append(cell := Cell(key, one.candidate, demand.used.name, seed))
                if cause := demand.cause or one.cause:
                    failed.append(CellFailure(cell, cause))
                else:
                    tasks.append(_task(cell, one, demand, place))
    return Plan(
        settings, objectives, tuple(demand.used for demand in demands), tuple(cells), tuple(tasks), tuple(failed)
    )


def _task(cell: Cell, tried: _Tried, demand: _Demand, place: _Place) -> CellTask:
    spec = place.spec(tried.models)
    return CellTask(
        cell, spec, present(tried.models, spec), tried.model_id, demand.load, demand.duration_s, demand.start_at,
        place.tail_s, place.cluster, tuple(dict.fromkeys((*demand.files, *place.files, *tried.profiles))),
    )  # fmt: skip


def _with_profiles(tried: _Tried, inputs: Inputs) -> _Tried:
    """A profile that cannot be read fails the cells that need it, and no others."""
    named = [profile_path(model.engine.profile) for model in tried.models if model.engine.profile is not None]
    try:
        return replace(tried, profiles=tuple(inputs.file(path) for path in named if path is not None))
    except ConfigError as error:
        return replace(tried, cause=str(error))


def _judged_by(tried: _Tried, objective: ServiceObjective) -> _Tried:
    return replace(tried, models=tuple(replace(model, slo=objective) for model in tried.models))


# -- policies


def _tries(name: str, policy: SweepPolicy, site: SiteSettings | None, sweep: Document) -> Iterator[_Tried]:
    document = read_document(policy.file)
    model_id = model_id_of(policies_of(document, site), policy.model)  # the file as it stands must be a good one
    search = Search(
        policy.grid, {path: _distribution(values) for path, values in policy.random.items()}, policy.samples or 1,
        policy.draw_seed,
    )  # fmt: skip
    if len(search) > MOST_CELLS:
        raise ConfigErrors([sweep.problem(("policies", name), f"these are {len(search):,} settings; take fewer")])
    for settings in search.settings():
        changed = document
        for setting in settings:
            where = "grid" if setting.path in policy.grid else "random"
            try:
                changed = with_value(changed, setting.path, setting.value)
            except ConfigError as error:
                raise ConfigErrors(
                    [sweep.problem(("policies", name, where, setting.path), f"{policy.file.name}: {error.problem}")]
                ) from None
        candidate = Candidate(name, settings, policy.knob)
        try:
            yield _Tried(candidate, changed.data, policies_of(changed, site), model_id)
        except ConfigErrors as error:
            _refuse_unknown(error, settings, changed, sweep, ("policies", name))
            yield _Tried(candidate, changed.data, (), model_id, str(error))


def _refuse_unknown(error: ConfigErrors, settings: Settings, changed: Document, sweep: Document, at: Location) -> None:
    """A path that names no field is a mistake of the sweep's file, not of one of its cells."""
    for problem in error.problems:
        for setting in settings:
            place = dotted(located(changed.data, setting.path))
            if problem.problem.startswith("unknown field") and place.startswith(problem.field or ""):
                raise ConfigErrors([sweep.problem((*at, "grid", setting.path), problem.problem)]) from None


def _distribution(values: UniformValues | LogUniformValues | ChoiceValues) -> Distribution:
    if isinstance(values, ChoiceValues):
        return Choice(tuple(values.values))
    return Between(values.from_, values.to, isinstance(values, LogUniformValues), values.whole)


def _objectives(
    settings: SweepSettings, tried: list[_Tried], demands: list[_Demand], document: Document
) -> dict[str, ServiceObjective]:
    """What each model that is asked is judged by: cost is compared at equal service."""
    found: dict[str, ServiceObjective] = {}
    for one, demand in product(tried, demands):
        asked = demand.load.models if isinstance(demand.load, Scenario) else (one.model_id,)
        for model in one.models:
            if model.model_id not in asked:
                continue
            name = model.model_id if isinstance(demand.load, Scenario) else ""
            objective = settings.slo.to_spec() if settings.slo is not None else model.slo
            if found.setdefault(name, objective) != objective:
                words = f"the policies files promise different service of {name or 'the model that the traces ask'}"
                raise ConfigErrors([document.problem(("slo",), f"{words}; say here what all are judged by")])
    return found


# -- demands


def _sides(settings: SweepSettings) -> Iterator[tuple[str, str, SweepDemand]]:
    for side, demands in (("all", settings.traces), ("tune", settings.tune), ("report", settings.report)):
        for name, demand in demands.items():
            yield side, name, demand


def _refuse_seen(demands: Sequence[_Demand], inputs: Inputs, document: Document) -> None:
    """A trace is tuned on or reported on, never both, under whatever names its file lies. The settings know paths only.

    Raises ``ConfigErrors``.
    """
    tuned = [one for one in demands if one.used.side == "tune"]
    for held_out, seen in product((one for one in demands if one.used.side == "report"), tuned):
        spans = product(_replayed(held_out, inputs), _replayed(seen, inputs))
        if any(
            one == other and max(begin, first) < min(end, last) for (one, begin, end), (other, first, last) in spans
        ):
            words = f"replays what is tuned on as tune.{seen.used.name}; name another trace, or another window"
            raise ConfigErrors([document.problem(("report", held_out.used.name), words)])


def _replayed(demand: _Demand, inputs: Inputs) -> list[tuple[str, float, float]]:
    """Digest and window, in seconds, of each recorded trace."""
    load = demand.load
    sources = [one.source for one in load.loads] if isinstance(load, Scenario) else [load]
    length_s = load.duration_s if isinstance(load, Scenario) else demand.duration_s
    return [
        (inputs.file(source.path).digest, begin, min(source.window.end_s, begin + length_s))
        for source in sources
        if isinstance(source, TraceSource)
        for begin in [source.window.start_s]
    ]


def _demand(side: str, name: str, demand: SweepDemand, inputs: Inputs) -> _Demand:
    """A file that cannot be read fails the cells that need it, and no others."""
    recorded, kind = isinstance(demand.source, TraceLoad), demand.source.kind
    duration_s = demand.duration_s if demand.duration_s is not None else float("inf")
    try:
        load = _load(demand)
        digest = cell_key({"name": name, "load": inputs.plain(load), "duration_s": duration_s})
        start_at = load.start_at if isinstance(load, Scenario) else _start_at(demand)
    except TidegateError as error:
        used = DemandUsed(name, side, kind, cell_key({"name": name}), recorded)
        return _Demand(used, Scenario(0.0, ()), duration_s, 0.0, str(error))
    used = DemandUsed(name, side, kind, digest, recorded)
    begins_at = SimulationSettings().start_at if start_at is None else start_at
    return _Demand(used, load, duration_s, begins_at, files=inputs.files_of(load))


def _load(demand: SweepDemand) -> Source | Scenario:
    if isinstance(demand.source, ScenarioDemand):
        return load_scenario(demand.source.path)
    return demand.source.to_source()


def _start_at(demand: SweepDemand) -> float | None:
    """Schedules see the trace's own date where it has one."""
    if not isinstance(demand.source, TraceLoad):
        return None
    default = SimulationSettings().start_at
    reader = open_trace(demand.source.path, skip_bad=demand.source.skip_bad)
    for _ in reader.blocks():
        break
    began_at = reader.statistics.began_at or 0.0
    return (began_at if began_at > 1e8 else default) + window_of(demand.source).start_s
