"""Prints what a summary tells of several models, of a cluster's queue and of its other users."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from broker.model.units import format_duration
from simulator.cluster.harm import Harm
from simulator.report.fitting import fitted
from simulator.report.summary import BatchFigures, RunSummary


def render_site(summary: RunSummary, console: Console) -> None:
    """Nothing where one model was asked and no cluster simulated."""
    for table in _tables(summary, console):
        console.print(table)


def _tables(summary: RunSummary, console: Console) -> Iterator[Table]:
    if summary.models:
        yield from _models(summary, console)
    if summary.queues:
        yield from _queues(summary, console)
    if summary.batch is not None:
        yield from _batch(summary.batch, console)


def _models(summary: RunSummary, console: Console) -> Iterator[Table]:
    columns = ("model", "sent", "finished", "TTFT P50", "TTFT P95", "inter-token P95", "ready, peak", "replica time")
    rows = [
        (
            model_id, f"{figures.requests.sent:,}", f"{figures.requests.finished:,}",
            _seconds(figures.time_to_first_token.p50_s), _seconds(figures.time_to_first_token.p95_s),
            _seconds(figures.inter_token.p95_s), str(figures.peak_ready),
            format_duration(round(sum(figures.replica_seconds.values()))),
        )
        for model_id, figures in summary.models.items()
    ]  # fmt: skip
    return fitted(console, "Models", columns, rows)


def _queues(summary: RunSummary, console: Console) -> Iterator[Table]:
    columns = ("pool", "jobs", "started", "wait, mean", "P50", "P95", "max", "as they ended")
    rows = [
        (
            pool_id, str(queue.submitted), str(queue.started), _seconds(queue.queue_wait.mean_s),
            _seconds(queue.queue_wait.p50_s), _seconds(queue.queue_wait.p95_s), _seconds(queue.queue_wait.max_s),
            ", ".join(f"{count} {state}" for state, count in queue.states.items()),
        )
        for pool_id, queue in summary.queues.items()
    ]  # fmt: skip
    return fitted(console, "Replicas' jobs in the queue", columns, rows, words=("as they ended",))


def _batch(batch: BatchFigures, console: Console) -> Iterator[Table]:
    columns = (
        "GPUs", "jobs", "lost", "delay, mean", "P95", "P99", "delayed", "slowdown without", "with", "null: mean",
        "null: P95",
    )  # fmt: skip
    null = {line.size: line for line in batch.null}
    rows = []
    for line in batch.harm:
        chance = null.get(line.size, Harm(line.size, 0, 0))
        rows.append((
            line.size, f"{line.jobs:,}", f"{line.lost:,}", _seconds(line.delay_mean_s), _seconds(line.delay_p95_s),
            _seconds(line.delay_p99_s), "-" if line.delayed_share is None else f"{line.delayed_share:.1%}",
            _ratio(line.slowdown_before), _ratio(line.slowdown_after), _seconds(chance.delay_mean_s),
            _seconds(chance.delay_p95_s),
        ))  # fmt: skip
    refused = f"; {batch.refused:,} jobs fit no partition" if batch.refused else ""
    caption = (
        f"null: no replicas, submissions moved by up to {batch.jitter_s:g} s; mean wait {_seconds(batch.wait.mean_s)} "
        f"with the replicas, {_seconds(batch.wait_without.mean_s)} without{refused}"
    )
    return fitted(console, "Batch jobs, with the replicas against without", columns, rows, caption=caption)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if abs(value) < 1 else f"{value:,.1f} s" if abs(value) < 1000 else f"{value:,.0f} s"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
