"""``tidegate replicas render``: the job that a launch would submit, from the files alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Exit, fail, print_json, print_text, told_errors
from cli.site import HERE

if TYPE_CHECKING:
    from actuators.slurm.job import JobSpec
    from broker.app.settings import SiteSettings
    from broker.model.spec import ModelSpec, PoolSpec


def render(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model whose replica it would be.")],
    pool: Annotated[str | None, typer.Option("--pool", help="The Slurm pool (default: the model's first).", show_default=False)] = None,
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
    policies: Annotated[Path, typer.Option("--policies", help="The policies file.")] = Path("policies.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Print the script of a model's first Slurm job. Asks no Slurm and submits nothing.

    The token is left out, and the wall time is the pool's, not yet fitted before maintenance. What `sbatch` would read
    of it is in its `#SBATCH` lines.
    """
    with told_errors():
        from broker.app.settings import load_policies, load_site

        settings = load_site(site)
        known = {spec.model_id: spec for spec in load_policies(policies, settings)}
        if model not in known:
            raise fail(f"{policies} has no model {model!r}; it has {', '.join(sorted(known))}", Exit.USAGE)
        spec = _job(settings, known[model], _slurm_pool(settings, known[model], pool))
    if as_json:
        print_json({"name": spec.name, "comment": spec.comment, "partition": spec.partition, "script": spec.script})
    else:
        print_text(spec.script)


def _slurm_pool(site: SiteSettings, model: ModelSpec, named: str | None) -> PoolSpec:
    pools = {spec.pool_id: spec for spec in site.spec.pools if spec.kind == "slurm" and spec.pool_id in model.pools}
    if not pools:
        raise fail(f"none of the pools of {model.model_id} ({', '.join(model.pools)}) is of kind slurm", Exit.USAGE)
    if named is not None and named not in pools:
        raise fail(f"{named!r} is no Slurm pool of {model.model_id}; there are {', '.join(pools)}", Exit.USAGE)
    return pools[next(iter(pools)) if named is None else named]


def _job(site: SiteSettings, model: ModelSpec, pool: PoolSpec) -> JobSpec:
    from actuators.slurm.script import HIDDEN_TOKEN, job_spec
    from broker.model.identity import action_id, replica_name
    from broker.model.plan import Launch

    launch = Launch(
        action_id=action_id("launch", site.cluster, model.model_id, 0, 1),
        cluster=site.cluster,
        replica_id=replica_name(model.model_id, 0, 1),
        model=model,
        pool_id=pool.pool_id,
        ordinal=0,
        generation=1,
        tier=pool.tiers[0],
    )
    return job_spec(launch, pool, token=HIDDEN_TOKEN)
