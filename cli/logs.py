"""``tidegate replicas logs``: what one replica wrote, wherever its pool lets it write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from broker.model.errors import ActuatorError
from cli.output import fail, print_json, tell, told_errors
from cli.recorded import log_of, recorded_state
from cli.site import HERE

if TYPE_CHECKING:
    from actuators.slurm.job import JobRecord
    from broker.app.settings import SiteSettings


def replica_logs(
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="The replica's id, as `tidegate replicas` shows it.")],
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, help="How many of the last lines.")] = 100,
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file, whose pools say where logs lie.")] = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Print the end of what a replica wrote: a local one's log, or a Slurm job's output. Needs no broker, but a machine
    that sees the file: the pool's own, or one that shares the jobs' folder."""
    with told_errors():
        from broker.app.settings import load_site

        lines = _lines(load_site(site), replica, tail)
    if as_json:
        print_json({"replica_id": replica, "lines": lines})
        return
    for line in lines:
        tell(line)


def _lines(site: SiteSettings, replica_id: str, count: int) -> list[str]:
    """Raises ``typer.Exit`` where there is nothing to be read, and says why."""
    from actuators.local.logs import log_path, read_log
    from actuators.slurm.outputs import last_lines, written_output

    looked: list[Path] = []
    for pool in site.pools.values():
        if pool.kind == "local":
            if log_path(pool.log_dir, replica_id).exists():
                return read_log(pool.log_dir, replica_id, count)
            looked.append(pool.log_dir)
        elif pool.job is not None:
            folder = Path(pool.job.directory)
            if folder.is_dir() and (output := written_output(folder, replica_id)) is not None:
                return last_lines(output, count)
            looked.append(folder)
    absent = f"there is no log of {replica_id!r} in {', '.join(map(str, looked))}"
    try:
        job = _job_of(site, replica_id)
    except ActuatorError as error:
        raise fail(f"{absent}, and Slurm does not tell where its job writes: {error}") from None
    if job is None or not job.output:
        raise fail(f"{absent}; {_why_no_log(site, replica_id)}")
    if (output := Path(job.output)).exists():  # the site has named another folder since
        return last_lines(output, count)
    raise fail(_not_here(job, count))


def _job_of(site: SiteSettings, replica_id: str) -> JobRecord | None:
    """The replica's job, if Slurm remembers it. Raises ``ActuatorError``."""
    import asyncio

    from actuators.slurm.marks import mark_of_job
    from broker.app.slurm_pool import slurm_client
    from broker.clock import SystemClock

    configure_logging(sys.stderr, warnings_only=True)

    async def listed() -> JobRecord | None:
        for pool in site.pools.values():
            if pool.kind != "slurm" or pool.job is None:
                continue
            client = slurm_client(pool.transport, SystemClock())
            try:
                jobs = await client.jobs()
            finally:
                await client.close()
            for job in jobs:
                mark = mark_of_job(job)
                if mark is not None and (mark.cluster, mark.replica_id) == (site.cluster, replica_id):
                    return job
        return None

    return asyncio.run(listed())


def _not_here(job: JobRecord, count: int) -> str:
    if not job.nodes:
        return (
            f"job {job.job_id} has written nothing: Slurm shows it as {job.state.value} ({job.reason or 'no reason'})"
        )
    node = job.nodes[0]
    return (
        f"job {job.job_id} on {node} writes to {job.output}, which is not visible from this machine: run this where the "
        f"folder is mounted, or look there: ssh {node} tail -n {count} {job.output}"
    )


def _why_no_log(site: SiteSettings, replica_id: str) -> str:
    """By the broker's record, which needs no broker that runs."""
    unknown = "`tidegate replicas` lists the replicas"
    if site.log.kind == "memory":
        return unknown
    state = recorded_state(log_of(site))
    record = next((found for members in state.replicas.values() if (found := members.get(replica_id))), None)
    if record is None:
        return unknown
    if record.started_at is None and (record.detail or record.failure):
        return f"it never started: {record.detail or record.failure}"
    return f"the broker's record of it says {record.phase}" + (f": {record.detail}" if record.detail else "")
