"""``tidegate doctor``: is what the site file says true of the site?"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from cli.output import Exit, duration_option, fail, print_json, table, told_errors
from cli.site import HERE, kafka_of

if TYPE_CHECKING:
    from actuators.slurm.client import SlurmClient
    from broker.app.settings.slurm import SlurmPool
    from broker.model.finding import Finding
    from broker.model.ports import Clock
    from broker.model.spec import PoolSpec

doctor = typer.Typer(name="doctor", help="Check a site before the broker is let loose on it.", no_args_is_help=True)


@doctor.callback()
def root() -> None:
    """What can be checked is a command of its own."""


@doctor.command("slurm")
def slurm(
    pool: Annotated[str | None, typer.Argument(metavar="[POOL]", help="One Slurm pool (default: all of the site).", show_default=False)] = None,
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
    probe: Annotated[bool, typer.Option("--probe", help="Submit one short job for each pool, with one GPU, that looks at a node: Python, modules, container, weights, GPUs, the way to the broker and to the job's ports, clock, signals.")] = False,
    wait: Annotated[str, typer.Option("--wait", metavar="DURATION", help="How long each such job may wait to start before it is cancelled.")] = "1m",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Ask Slurm whether the site's pools fit it. Without --probe nothing is submitted or changed. Ends with 1 if something
    must be mended."""
    import asyncio

    configure_logging(sys.stderr, warnings_only=True)
    wait_s = duration_option("--wait", wait) if probe else None
    with told_errors():
        from broker.app.settings import load_site

        settings = load_site(site)
        pools = {name: one for name, one in settings.pools.items() if one.kind == "slurm"}
        if pool is not None and pool not in pools:
            raise fail(f"{site} has no Slurm pool {pool!r}; it has {', '.join(pools) or 'none'}", Exit.USAGE)
        if not pools:
            raise fail(f"{site} has no pool of kind slurm", Exit.USAGE)
        found = {
            name: asyncio.run(_found(name, one, settings.cluster, wait_s))
            for name, one in pools.items() if pool in (None, name)
        }  # fmt: skip
    if as_json:
        print_json({"pools": {name: [finding.document() for finding in each] for name, each in found.items()}})
    else:
        for name, each in found.items():
            _show(f"Pool {name}", each)
    _end(chain.from_iterable(found.values()))


@doctor.command("kafka")
def kafka(
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:
    """Ask Kafka whether a broker can keep its log there: reached, allowed, topics, clock, messages. What a broker does is
    tried in transactions that are given up; nobody who leads is disturbed. Ends with 1 if something must be mended."""
    import asyncio

    configure_logging(sys.stderr, warnings_only=True)
    with told_errors():
        connection, layout = kafka_of(site)
        from broker.clock import SystemClock
        from broker.log.kafka.probe import examined

        found = asyncio.run(examined(connection, layout, SystemClock()))
    if as_json:
        print_json({"kafka": [finding.document() for finding in found]})
    else:
        _show(f"Kafka at {connection}", found)
    _end(found)


def _show(title: str, found: list[Finding]) -> None:
    table(title, ("verdict", "what", "found"), [(one.verdict, one.about, one.words) for one in found])


def _end(found: Iterable[Finding]) -> None:
    if any(finding.verdict == "mend" for finding in found):
        raise typer.Exit(int(Exit.FAILED))


async def _found(pool_id: str, pool: SlurmPool, cluster: str, probe_wait_s: float | None) -> list[Finding]:
    """Slurm that does not answer is a finding too. ``probe_wait_s`` is None where nothing is to be submitted."""
    from broker.app.slurm_pool import slurm_client
    from broker.clock import SystemClock
    from broker.model.errors import ActuatorError
    from broker.model.finding import Finding, Verdict

    if pool.job is None:
        return [Finding(Verdict.MEND, "job", "is missing: what a job runs and where (docs/slurm.md)")]
    clock = SystemClock()
    try:
        client = slurm_client(pool.transport, clock)
        try:
            return await _asked(client, pool.to_spec(pool_id), cluster, clock, probe_wait_s)
        finally:
            await client.close()
    except ActuatorError as error:
        return [Finding(Verdict.MEND, "Slurm", str(error))]


async def _asked(
    client: SlurmClient, pool: PoolSpec, cluster: str, clock: Clock, probe_wait_s: float | None
) -> list[Finding]:
    from actuators.slurm.checkup import findings, listing_finding
    from actuators.slurm.probe import probed
    from broker.model.finding import Finding, Verdict

    facts = await client.facts()
    began = clock.monotonic()
    jobs = await client.jobs()
    listing = listing_finding(jobs, cluster, pool.pool_id, clock.monotonic() - began)
    of_site = [*findings(pool, facts, clock.now()), listing]
    if any(finding.verdict is Verdict.MEND for finding in of_site):
        return [*of_site, Finding(Verdict.LOOK, "nodes", "not looked at before that is mended")]
    return [*of_site, *await probed(client, pool, facts, clock, probe_wait_s)]
