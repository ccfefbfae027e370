"""A sweep from its file to its cells: what is run, under which key, and what cannot be run at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from broker.app.release import release
from broker.app.settings.document import Document
from broker.app.settings.loading import load_site
from broker.app.settings.site import SiteSettings
from broker.app.settings.sweep import SweepSettings, read_sweep
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.spec import ModelSpec, ServiceObjective, SiteSpec
from cli.placing import cluster_of, present, roomy_site
from cli.sweep_cells import CellTask
from cli.sweep_demands import SweptDemand, demand_of, refuse_seen, sides
from cli.sweep_keys import Inputs, code_digest
from cli.sweep_policies import Tried, judged_by, tries, with_profiles
from cli.warming import warm_up_for
from simulator.cluster.plan import ClusterPlan
from simulator.engine.routing import Routing
from simulator.simulation import SimulationSettings
from simulator.statistics import Days, Resampling
from simulator.sweep.cells import Cell, CellFailure, cell_key
from simulator.sweep.comparing import blocks_for
from simulator.sweep.document import DemandUsed, ranked_demands
from simulator.sweep.inputs import InputFile
from simulator.sweep.ranking import Goal, Results
from traces.scenario import Scenario

MOST_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """``tasks`` are to be run, in this order; ``failed`` are cells that cannot be, since a value is none that the
    policies file allows, or a file or a model cannot be used. ``cells`` are all of them in the sweep's order. ``objectives`` by model; that of the model which
    the traces ask has no name, since each policies file may call it otherwise."""

    settings: SweepSettings
    objectives: Mapping[str, ServiceObjective]
    demands: tuple[DemandUsed, ...]
    cells: tuple[Cell, ...]
    tasks: tuple[CellTask, ...]
    failed: tuple[CellFailure, ...]

    @property
    def goal(self) -> Goal:
        return Goal(self.settings.goal.attainment, self.settings.goal.worst_hour)

    def resampling(self, results: Results) -> Resampling:
        """How intervals of these results are made."""
        chosen = self.settings.resampling
        recorded = any(demand.recorded for demand in self.demands)
        ranked = ranked_demands(self.demands)
        apart = results.told_apart(ranked)
        days = blocks_for(recorded=recorded, days=results.days(ranked), seeds=len(apart.seeds))
        return Resampling(
            days if chosen.blocks == "auto" else Days(chosen.blocks), chosen.level, chosen.resamples, chosen.seed
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where everything runs, and for how long."""

    site: SiteSettings | None
    cluster: ClusterPlan | None
    warm_up_s: float
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
    tried = [
        with_profiles(one, inputs)
        for name, policy in settings.policies.items()
        for one in tries(name, policy, site, document)
    ]
    warm_up_s = settings.warm_up_s
    if warm_up_s is None:
        warm_up_s = warm_up_for((model for one in tried if not one.cause for model in one.models), cluster)
    place = _Place(site, cluster, warm_up_s, settings.tail_s, inputs.files_of(cluster))
    demands = [demand_of(*entry, inputs) for entry in sides(settings)]
    refuse_seen(demands, inputs, document)
    objectives = _objectives(settings, tried, demands, document)
    if settings.slo is not None:
        tried = [judged_by(one, settings.slo.to_spec()) for one in tried]
    if len(tried) * len(demands) * len(settings.seeds) > MOST_CELLS:
        raise ConfigErrors([document.problem(("policies",), f"these are more than {MOST_CELLS:,} cells; take fewer")])
    common = {
        "release": release(),
        "code": code_digest(),
        "site": inputs.plain(site and site.spec),
        "cluster": inputs.plain(cluster),
        "slo": inputs.plain(settings.slo and settings.slo.to_spec()),
        "warm_up_s": warm_up_s,
        "tail_s": settings.tail_s,
    }
    cells, tasks, failed = [], [], []
    for demand in demands:
        for seed in settings.seeds:
            for one in tried:
                determines = {
                    "policies": one.data, "model": one.model_id, "demand": demand.used.digest, "seed": seed,
                    "profiles": [file.digest for file in one.profiles], "run": inputs.plain(_conditions(one)),
                }  # fmt: skip
                key = cell_key({**common, **determines, "candidate": inputs.plain(one.candidate)})
                cells.append(cell := Cell(key, one.candidate, demand.used.name, seed))
                task = _task(cell, one, demand, place)
                if cause := demand.cause or one.cause or _unfit(task):
                    failed.append(CellFailure(cell, cause))
                else:
                    tasks.append(task)
    return Plan(
        settings, objectives, tuple(demand.used for demand in demands), tuple(cells), tuple(tasks), tuple(failed)
    )


def _task(cell: Cell, tried: Tried, demand: SweptDemand, place: _Place) -> CellTask:
    spec = place.spec(tried.models)
    settings = SimulationSettings(
        tail_s=place.tail_s, start_at=demand.start_at, warm_up_s=place.warm_up_s, **_conditions(tried)
    )
    return CellTask(
        cell, spec, present(tried.models, spec), tried.model_id, demand.load, demand.duration_s, settings,
        place.cluster, tuple(dict.fromkeys((*demand.files, *place.files, *tried.profiles))), demand.notes,
    )  # fmt: skip


def _unfit(task: CellTask) -> str:
    try:
        task.require_runnable()
    except ConfigError as error:
        return str(error)
    return ""


def _conditions(tried: Tried) -> dict[str, Any]:
    """Fields of ``SimulationSettings``."""
    run = tried.run
    return {"routing": Routing(run.routing), "cached_share": run.cached_share, "metrics": run.metrics}


def _objectives(
    settings: SweepSettings, tried: list[Tried], demands: list[SweptDemand], document: Document
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
