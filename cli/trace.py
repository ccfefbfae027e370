"""``tidegate trace``: what a trace holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from broker.model.units import format_duration
from cli.output import errors, print_json, table, tell, told_errors

if TYPE_CHECKING:
    from traces.schema import TokenStatistics

trace = typer.Typer(help="Look at request traces.", no_args_is_help=True)


@trace.callback()
def root() -> None:
    """Look at request traces."""


@trace.command("info")
def info(
    path: Annotated[Path, typer.Argument(help="BurstGPT, Azure or Mooncake; plain or .gz.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed rows instead of stopping.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Rates, burstiness, token lengths, failed and bad rows of a trace."""
    from broker.model import wire
    from traces.describe import describe

    with told_errors(), errors.status(f"reading {escape(path.name)}"):
        found = describe(path, skip_bad=skip_bad)
    if as_json:
        print_json(wire.encode(found))
        return
    rows = [
        ("format", found.format),
        ("rows", f"{found.rows} ({found.failed} failed, {found.bad} malformed)"),
        ("span", format_duration(found.span_s)),
        ("requests a minute", f"mean {found.mean_per_min:.3g}, peak {found.peak_per_min}"),
        ("dispersion a minute", _number(found.dispersion_per_min, "1 is Poisson")),
        ("variation of gaps", _number(found.gap_cv, "1 is Poisson")),
        ("daily correlation", _number(found.daily_correlation, "near 1: follows the day")),
        ("prompt tokens", _tokens(found.prompt)),
        ("output tokens", _tokens(found.output)),
        ("kinds", ", ".join(f"{kind} {count}" for kind, count in found.kinds.items()) or "not told"),
    ]
    table(str(path), ("what", "figure"), rows)
    if found.first_bad:
        tell(f"first malformed row: {found.first_bad}")


def _number(value: float | None, meaning: str) -> str:
    return "unknown" if value is None else f"{value:.3g} ({meaning})"


def _tokens(found: TokenStatistics | None) -> str:
    if found is None:
        return "none"
    return f"mean {found.mean:.4g}, p50 {found.p50}, p95 {found.p95}, p99 {found.p99}, largest {found.largest}"
