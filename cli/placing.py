"""Where simulated replicas run: the site's pools, the cluster behind them, and whether the models fit at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from broker.app.settings.document import read_document
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.spec import ModelSpec, PoolSpec, SiteSpec
from cli.clusters import read_cluster
from simulator.cluster.places import SLURM
from simulator.cluster.plan import ClusterPlan


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


def roomy_site(models: tuple[ModelSpec, ...]) -> SiteSpec:
    """One pool with room for all, where no site is given."""
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
    """Which model gets a trace: the first, if none is wanted. Raises ``ConfigError`` for one that is not there."""
    names = [model.model_id for model in models]
    if wanted is not None and wanted not in names:
        raise ConfigError(f"no model {wanted!r} in the policies; there are {', '.join(names)}", field="--model")
    return wanted or names[0]


def require_fits(models: tuple[ModelSpec, ...], site: SiteSpec, cluster: ClusterPlan | None) -> None:
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


def in_its_file(problem: ConfigError, files: Mapping[str, Path | None]) -> ConfigError:
    """A problem of pools or models where its file has it; ``files`` by the first step of their fields."""
    kind, _, rest = (problem.field or "").partition(".")
    path = files.get(kind)
    if path is None or problem.path is not None:
        return problem
    if kind == "cold_starts":  # of a model, whose name may have dots
        section, _, name = rest.partition(".")
        return read_document(path).problem((kind, section, name), problem.problem)
    name, _, option = rest.rpartition(".")
    return read_document(path).problem((kind, name, option), problem.problem)
