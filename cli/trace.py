"""``tidegate trace``: what a trace holds, of requests or of batch jobs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from broker.model.units import format_duration, format_number
from cli.output import errors, print_json, table, tell, told_errors
from traces.options import RequestKind

if TYPE_CHECKING:
    from traces.schema import ShapeInfo, TokenStatistics

trace = typer.Typer(help="Look at request traces.", no_args_is_help=True)


@trace.callback()
def root() -> None:
    """Look at request traces."""


@trace.command("info")
def info(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="BurstGPT, Azure, Mooncake, request log or ServeGen shape; plain or .gz."),
    ],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed rows instead of stopping.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Rates, burstiness, token lengths, failed and bad rows of a trace."""
    from broker.model import wire
    from traces.describe import describe, describe_shape, span_problem

    with told_errors(), errors.status(f"reading {escape(path.name)}"):
        shape = describe_shape(path)
        found = describe(path, skip_bad=skip_bad) if shape is None else None
    if shape is not None:
        _tell_shape(shape, as_json=as_json)
    if found is None:
        return
    if as_json:
        print_json(wire.encode(found))
        return
    rows = [
        ("format", found.format),
        ("rows", f"{found.rows:,} ({found.failed:,} failed, {found.bad:,} malformed)"),
        ("span", format_duration(found.span_s)),
        ("requests a minute", f"mean {format_number(found.mean_per_min, 3)}, peak {found.peak_per_min:,}"),
        ("dispersion a minute", _number(found.dispersion_per_min, "1 is Poisson")),
        ("variation of gaps", _number(found.gap_cv, "1 is Poisson")),
        ("daily correlation", _number(found.daily_correlation, "near 1: follows the day")),
        ("longest gap", f"{format_duration(found.longest_gap_s)}, from {format_duration(found.longest_gap_at_s)} on"),
        ("prompt tokens", _tokens(found.prompt)),
        ("output tokens", _tokens(found.output)),
        ("kinds", ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.items()) or "not told"),
        ("models", _counts(found.models)),
        ("tenants", _counts(found.tenants)),
        ("sessions", "told" if found.has_sessions else "not told"),
        ("shared prefixes", _number(found.prefix_share, "of all prompt tokens")),
    ]
    table(str(path), ("what", "figure"), rows)
    if problem := span_problem(found):
        tell(f"not to be replayed: {problem}")
    if found.first_bad:
        tell(f"first malformed row: {found.first_bad}")


def _tell_shape(shape: ShapeInfo, *, as_json: bool) -> None:
    from broker.model import wire

    if as_json:
        print_json(wire.encode(shape))
        return
    table(
        str(shape.path),
        ("what", "figure"),
        [("format", shape.format), *((name, f"{value:.6g}") for name, value in shape.figures.items())],
    )


@trace.command("fit")
def fit(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The trace, or your gateway's request log; plain or .gz.")],
    name: Annotated[str, typer.Option("--name", help="What the profile is called.")],
    provenance: Annotated[str, typer.Option("--provenance", help="What it was fitted to, in words.")],
    kind: Annotated[RequestKind | None, typer.Option("--kind", help="Fit requests of this kind only.", show_default=False)] = None,
    hourly: Annotated[Path | None, typer.Option("--hourly", help="CSV of counts by hour, for a trace too short to show a day.", show_default=False)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out instead of stopping.")] = False,
) -> None:  # fmt: skip
    """Print a load profile as JSON: rates by hour, burstiness, lengths, sessions, tenants' shares; no row of the trace."""
    from broker.model import wire
    from traces.fit import fit_file

    with told_errors(), errors.status(f"fitting {escape(path.name)}"):
        found = fit_file(path, name=name, provenance=provenance, kind=kind, hourly=hourly, skip_bad=skip_bad)
    print_json(wire.encode(found))


@trace.command("fit-slurm")
def fit_slurm(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="What `sacct` printed (docs/cluster-model.md has the command), - for standard input.")],
    name: Annotated[str, typer.Option("--name", help="What the profile is called.")],
    provenance: Annotated[str, typer.Option("--provenance", help="What it was fitted to, in words.")],
    size: Annotated[int, typer.Option("--size", min=1, help="GPUs of the partitions that the jobs ran in; with --cpus their processors.")],
    partition: Annotated[str | None, typer.Option("--partition", help="Only jobs of this partition.", show_default=False)] = None,
    cpus: Annotated[bool, typer.Option("--cpus", help="Count processors, where jobs ask for no GPUs.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out instead of stopping.")] = False,
) -> None:  # fmt: skip
    """Print a profile of a cluster's other users as JSON, for `background` of cluster.yaml: arrivals by hour of the week,
    sizes, limits, and how much of them is used; no row of it. Replicas of ours are left out."""
    from broker.model import wire
    from traces.batch.fit import fit_batch_profile
    from traces.batch.sacct import Counted, SacctOptions, lines_of, sacct_jobs
    from traces.schema import ReadStatistics

    options = SacctOptions(Counted.CPUS if cpus else Counted.GPUS, partition, skip_bad)
    statistics = ReadStatistics()
    with told_errors(), errors.status(f"fitting {escape(path.name)}"):
        lines = sys.stdin.buffer if str(path) == "-" else lines_of(path)
        jobs = sorted(sacct_jobs(lines, path, options, statistics), key=lambda job: job.submitted_s)
        found = fit_batch_profile(jobs, name=name, provenance=provenance, processors=size, began_at=0.0)
    print_json(wire.encode(found))
    left_out = f"{statistics.failed:,} left out, {statistics.bad:,} malformed"
    errors.print(f"fitted to {len(jobs):,} of {statistics.rows + statistics.bad:,} rows ({left_out})")
    if statistics.first_bad:
        errors.print(f"first malformed row: {escape(statistics.first_bad)}")


def _counts(found: Mapping[str, int]) -> str:
    largest = sorted(found.items(), key=lambda item: -item[1])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(f"{name} {count:,}" for name, count in largest[:_MOST_NAMED]) + more or "not told"


_MOST_NAMED = 8


def _number(value: float | None, meaning: str) -> str:
    return "unknown" if value is None else f"{format_number(value, 3)} ({meaning})"


def _tokens(found: TokenStatistics | None) -> str:
    if found is None:
        return "none"
    quantiles = f"p50 {found.p50:,}, p95 {found.p95:,}, p99 {found.p99:,}, largest {found.largest:,}"
    return f"mean {format_number(found.mean)}, {quantiles}"
