"""``tidegate topics``: the topics of a log in Kafka, made and checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.log_lines import configure_logging
from cli.output import Exit, print_json, table, tell, told_errors
from cli.site import HERE, kafka_of

if TYPE_CHECKING:
    from broker.log.kafka.setup import TopicReport

topics = typer.Typer(name="topics", help="Make and check the topics of a log in Kafka.", no_args_is_help=True)

Site = Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document for scripts.")]


@topics.command("init")
def init(
    site: Site = HERE,
    replication: Annotated[int | None, typer.Option("--replication", metavar="COPIES", min=1, max=100, help="Copies of each topic that is made (default: the site file's, else three, or as many as there are servers).", show_default=False)] = None,
    alter: Annotated[bool, typer.Option("--alter", help="Also set what differs of topics that are there, where it can be set.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would come of it.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make the topics that are missing. Those that are there are left as they are, but for --alter, and none is ever
    deleted. Ends with 1 if something must still be mended."""
    import asyncio
    from dataclasses import replace

    configure_logging(sys.stderr, warnings_only=True)
    with told_errors():
        connection, layout = kafka_of(site)
        from broker.log.kafka.setup import Done, initialised

        if replication is not None:
            layout = replace(layout, replication=replication)
        reports = asyncio.run(initialised(connection, layout, alter=alter, dry_run=dry_run))
    _show("Topics, as they would be" if dry_run else "Topics", reports, as_json=as_json)
    if not as_json:
        changed = sum(report.done in (Done.MADE, Done.ALTERED) for report in reports)
        tell(f"{changed} of {len(reports)} {'would be' if dry_run else 'were'} made or altered.")
    _end(reports)


@topics.command("check")
def check(site: Site = HERE, as_json: AsJson = False) -> None:
    """Compare the topics with what the broker needs; changes nothing. Ends with 1 if something must be mended."""
    import asyncio

    configure_logging(sys.stderr, warnings_only=True)
    with told_errors():
        connection, layout = kafka_of(site)
        from broker.log.kafka.setup import checked

        reports = asyncio.run(checked(connection, layout))
    _show("Topics", reports, as_json=as_json)
    _end(reports)


def _show(title: str, reports: Sequence[TopicReport], *, as_json: bool) -> None:
    if as_json:
        print_json({"topics": [_document(report) for report in reports]})
        return
    columns = ("topic", "verdict", "done", "partitions", "copies", "found")
    rows = [
        (
            report.wanted.name, _verdict(report), report.done, report.found and report.found.partitions,
            report.found and report.found.copies,
            "; ".join(f"{finding.about}: {finding.words}" for finding in report.findings),
        )
        for report in reports
    ]  # fmt: skip
    table(title, columns, rows, whole=("topic", "verdict"), lesser=("done", "partitions", "copies"))


def _verdict(report: TopicReport) -> str:
    """The worst of what was found."""
    from broker.model.finding import Verdict

    return max((finding.verdict for finding in report.findings), key=list(Verdict).index, default=Verdict.FINE)


def _document(report: TopicReport) -> dict[str, Any]:
    return {
        "topic": report.wanted.name,
        "verdict": _verdict(report),
        "done": report.done,
        "partitions": report.found and report.found.partitions,
        "copies": report.found and report.found.copies,
        "findings": [finding.document() for finding in report.findings],
    }


def _end(reports: Sequence[TopicReport]) -> None:
    if any(_verdict(report) == "mend" for report in reports):
        raise typer.Exit(int(Exit.FAILED))
