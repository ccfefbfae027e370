"""``tidegate doctor``: is what the site file says true of the site?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from cli.output import Exit, fail, print_json, table, told_errors
from cli.site import HERE

if TYPE_CHECKING:
    from actuators.slurm.checkup import Finding
    from broker.app.settings.slurm import SlurmPool

doctor = typer.Typer(name="doctor", help="Check a site before the broker is let loose on it.", no_args_is_help=True)


@doctor.callback()
def root() -> None:
    """What can be checked is a command of its own."""


@doctor.command("slurm")
def slurm(
    pool: Annotated[str | None, typer.Argument(metavar="[POOL]", help="One Slurm pool (default: all of the site).", show_default=False)] = None,
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Ask Slurm whether the site's pools fit it. Submits nothing, changes nothing; ends with 1 if something must be
    mended."""
    import asyncio

    configure_logging(sys.stderr)
    with told_errors():
        from broker.app.settings import load_site

        pools = {name: one for name, one in load_site(site).pools.items() if one.kind == "slurm"}
        if pool is not None and pool not in pools:
            raise fail(f"{site} has no Slurm pool {pool!r}; it has {', '.join(pools) or 'none'}", Exit.USAGE)
        if not pools:
            raise fail(f"{site} has no pool of kind slurm", Exit.USAGE)
        found = {name: asyncio.run(_found(name, one)) for name, one in pools.items() if pool in (None, name)}
    if as_json:
        print_json({"pools": {name: [_document(finding) for finding in each] for name, each in found.items()}})
    else:
        for name, each in found.items():
            table(f"Pool {name}", ("verdict", "what", "found"), [(one.verdict, one.about, one.words) for one in each])
    if any(finding.verdict == "mend" for each in found.values() for finding in each):
        raise typer.Exit(int(Exit.FAILED))


def _document(finding: Finding) -> dict[str, str]:
    return {"verdict": finding.verdict.value, "about": finding.about, "words": finding.words}


async def _found(pool_id: str, pool: SlurmPool) -> list[Finding]:
    """Slurm that does not answer is a finding too."""
    from actuators.slurm.checkup import Finding, Verdict, findings
    from broker.app.slurm_pool import slurm_client
    from broker.clock import SystemClock
    from broker.model.errors import ActuatorError

    if pool.job is None:
        return [Finding(Verdict.MEND, "job", "is missing: what a job runs and where (docs/slurm.md)")]
    clock = SystemClock()
    client = slurm_client(pool.transport, clock)
    try:
        facts = await client.facts()
        began = clock.monotonic()
        jobs = await client.jobs()
        taken_s = clock.monotonic() - began
    except ActuatorError as error:
        return [Finding(Verdict.MEND, "Slurm", str(error))]
    finally:
        await client.close()
    listing = Finding(Verdict.FINE, "listing", f"{len(jobs)} jobs of ours, in {taken_s:.2f} s")
    return [*findings(pool.to_spec(pool_id), facts, clock.now()), listing]
