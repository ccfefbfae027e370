"""``tidegate adopt``: our jobs are taken back after the broker's state was lost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.log_lines import configure_logging
from cli.output import errors, local_time, print_json, table, tell, told_errors
from cli.recorded import log_of, recorded_state
from cli.site import HERE

if TYPE_CHECKING:
    from broker.app.adopting import Adoption, FoundJob
    from broker.model.replica import Replica


def adopt(
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
    policies: Annotated[Path, typer.Option("--policies", help="The policies file.")] = Path("policies.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Take them back; without it they are only shown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")] = False,
) -> None:  # fmt: skip
    """Find our Slurm jobs that the broker's state does not know, since it was lost or is an older backup, and take them
    back before `tidegate run`. They serve on meanwhile. Where there is something to take back, --yes is refused while a
    broker runs on that state."""
    import asyncio

    configure_logging(sys.stderr, warnings_only=True)
    with told_errors():
        from broker.app.adopting import Verdict, adoption_of, found_jobs
        from broker.model import wire

        adoption = adoption_of(site, policies)
        found = asyncio.run(found_jobs(adoption, recorded_state(log_of(adoption.site))))
        wanted = [each for each in found if each.verdict in (Verdict.TAKE, Verdict.END)]
        if not as_json:
            _tell_found(found)
        taken = asyncio.run(_taken(adoption, wanted)) if yes and wanted else []
    if as_json:
        records = [wire.encode(record) for record in taken]
        print_json({"jobs": [_document(each) for each in found], "replicas": records})
    elif yes and wanted:
        _tell_taken(taken)
    elif wanted:
        tell(f"Nothing was changed. `tidegate adopt --yes` takes back {len(wanted)} of them.")
    else:
        tell("There is nothing to take back.")


async def _taken(adoption: Adoption, wanted: list[FoundJob]) -> list[Replica]:
    """The records of the jobs that were wanted, those that there are now."""
    from broker.app.adopting import PATIENCE_S, take_back
    from broker.app.settings import load_secrets, site_secret

    secret = site_secret(load_secrets(adoption.site))
    marks = [each.mark for each in wanted if each.mark is not None]
    with errors.status(f"waiting up to {PATIENCE_S:g} s for the jobs' agents"):
        state = await take_back(adoption, secret, sorted({mark.log_id for mark in marks} - {""}))
    records = (state.replicas_of(mark.model_id).get(mark.replica_id) for mark in marks)
    return [record for record in records if record is not None]


def _tell_found(found: list[FoundJob]) -> None:
    rows = [
        (
            each.job.job_id, each.mark.replica_id if each.mark else each.job.name, each.mark.pool_id if each.mark else "",
            each.job.state.value.lower(), ",".join(each.job.nodes), _end(each.job.end_at), each.verdict, each.words,
        )
        for each in found
    ]  # fmt: skip
    table(
        "Jobs", ("job", "replica", "pool", "state", "node", "ends", "verdict", "why"), rows,
        whole=("job", "replica", "verdict"), lesser=("pool", "ends", "node"),
    )  # fmt: skip


def _end(at: float | None) -> str:
    return "" if at is None else local_time(at, "%F %H:%M")


def _tell_taken(taken: list[Replica]) -> None:
    rows = [(record.replica_id, record.phase.value, record.url or "", _words(record)) for record in taken]
    table("Taken back", ("replica", "phase", "url", "detail"), rows, whole=("replica", "phase", "url"))
    tell("They are on record. `tidegate run` goes on from there.")


def _words(record: Replica) -> str:
    from broker.model.replica import ReplicaPhase

    if record.phase is ReplicaPhase.STARTING and record.url is None:
        return "its agent was not heard; the broker goes on waiting for it"
    return record.detail


def _document(found: FoundJob) -> dict[str, Any]:
    job, mark = found.job, found.mark
    return {
        "job_id": job.job_id,
        "name": job.name,
        "replica_id": None if mark is None else mark.replica_id,
        "pool_id": None if mark is None else mark.pool_id,
        "state": job.state.value,
        "nodes": list(job.nodes),
        "end_at": job.end_at,
        "verdict": found.verdict.value,
        "words": found.words,
    }
