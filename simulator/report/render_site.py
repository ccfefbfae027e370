"""Prints what a summary tells of several models, of a cluster's queue and of its other users."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from broker.model.units import format_duration
from simulator.cluster.harm import Harm
from simulator.report.summary import BatchFigures, RunSummary


def render_site(summary: RunSummary, console: Console) -> None:
    """Nothing where one model was asked and no cluster simulated."""
    for table in _tables(summary):
        console.print(table)


def _tables(summary: RunSummary) -> Iterator[Table]:
    if summary.models:
        yield _models(summary)
    if summary.queues:
        yield _queues(summary)
    if summary.batch is not None:
        yield _batch(summary.batch)


def _models(summary: RunSummary) -> Table:
    columns = ("sent", "finished", "TTFT P50", "TTFT P95", "inter-token P95", "ready, peak", "replica time")
    table = _table("Models", "model", *columns)
    for model_id, figures in summary.models.items():
        table.add_row(
            escape(model_id), f"{figures.requests.sent:,}", f"{figures.requests.finished:,}",
            _seconds(figures.time_to_first_token.p50_s), _seconds(figures.time_to_first_token.p95_s),
            _seconds(figures.inter_token.p95_s), str(figures.peak_ready),
            format_duration(round(sum(figures.replica_seconds.values()))),
        )  # fmt: skip
    return table


def _queues(summary: RunSummary) -> Table:
    columns = ("jobs", "started", "wait, mean", "P50", "P95", "max", "as they ended")
    table = _table("Replicas' jobs in the queue", "pool", *columns)
    for pool_id, queue in summary.queues.items():
        wait = queue.queue_wait
        table.add_row(
            escape(pool_id), str(queue.submitted), str(queue.started), _seconds(wait.mean_s), _seconds(wait.p50_s),
            _seconds(wait.p95_s), _seconds(wait.max_s),
            ", ".join(f"{count} {state}" for state, count in queue.states.items()),
        )  # fmt: skip
    return table


def _batch(batch: BatchFigures) -> Table:
    columns = ("jobs", "lost", "delay, mean", "P95", "P99", "delayed", "slowdown without", "with", "null: mean", "P95")
    table = _table("Batch jobs, with the replicas against without", "GPUs", *columns)
    null = {line.size: line for line in batch.null}
    for line in batch.harm:
        chance = null.get(line.size, Harm(line.size, 0, 0))
        table.add_row(
            line.size, f"{line.jobs:,}", f"{line.lost:,}", _seconds(line.delay_mean_s), _seconds(line.delay_p95_s),
            _seconds(line.delay_p99_s), "-" if line.delayed_share is None else f"{line.delayed_share:.1%}",
            _ratio(line.slowdown_before), _ratio(line.slowdown_after), _seconds(chance.delay_mean_s),
            _seconds(chance.delay_p95_s),
        )  # fmt: skip
    refused = f"; {batch.refused:,} jobs fit no partition" if batch.refused else ""
    table.caption = (
        f"null: no replicas, submissions moved by up to {batch.jitter_s:g} s; mean wait {_seconds(batch.wait.mean_s)} "
        f"with the replicas, {_seconds(batch.wait_without.mean_s)} without{refused}"
    )
    table.caption_justify = "left"
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if abs(value) < 1 else f"{value:,.1f} s" if abs(value) < 1000 else f"{value:,.0f} s"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
