"""``tidegate state waits``: how long replicas waited and loaded, as the broker learned it, for people and simulations."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from broker.model.units import format_duration
from cli.output import fail, local_time, print_json, print_text, table, told_errors
from cli.recorded import recorded_state

if TYPE_CHECKING:
    from broker.model.state import StartTime, StartTimes

_PART_H = 6
"""Queues differ by the time of day, and the log keeps 64 starts of a model in a pool: too few for every hour."""


def tell_waits(log: Path, *, as_yaml: bool, as_json: bool) -> None:
    """Raises ``typer.Exit`` where nothing was learned yet."""
    from broker.model import wire

    with told_errors():
        state = recorded_state(log)
    learned = [state.starts[key] for key in sorted(state.starts)]
    if not any(starts.latest for starts in learned):
        raise fail(f"{log} has no start of a replica on record yet; the broker writes each down once it serves")
    if as_json:
        print_json({"starts": [wire.encode(starts) for starts in learned]})
    elif as_yaml:
        print_text("\n".join(_section(learned)) + "\n")
    else:
        columns = ("starts", "median", "P95")
        table("In the queue", ("pool", "GPUs", "time of day", *columns), list(_queue_rows(learned)))
        table("From its start to ready", ("model", *columns), list(_load_rows(learned)))


def _queue_rows(learned: Sequence[StartTimes]) -> Iterator[tuple[object, ...]]:
    """Of all models alike: a queue knows sizes."""
    waits: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for starts in learned:
        for start in starts.latest:
            part = int(local_time(start.at, "%H")) // _PART_H
            waits[starts.pool_id, starts.gpus, part].append(start.queue_s)
    for (pool_id, gpus, part), found in sorted(waits.items()):
        yield pool_id, gpus, f"{part * _PART_H:02}-{(part + 1) * _PART_H:02} h", *_figures(found)


def _load_rows(learned: Sequence[StartTimes]) -> Iterator[tuple[object, ...]]:
    for model_id, loads in _loads(learned).items():
        yield model_id, *_figures(loads)


def _loads(learned: Sequence[StartTimes]) -> Mapping[str, list[float]]:
    loads: dict[str, list[float]] = defaultdict(list)
    for starts in learned:
        loads[starts.model_id].extend(start.load_s for start in starts.latest)
    return dict(sorted(loads.items()))


def _figures(values: Sequence[float]) -> tuple[int, str, str]:
    p95 = sorted(values)[math.ceil(0.95 * len(values)) - 1]
    return len(values), _duration(statistics.median(values)), _duration(p95)


def _duration(seconds: float) -> str:
    return format_duration(round(seconds, 1))


def _section(learned: Sequence[StartTimes]) -> Iterator[str]:
    """Of ``cluster.yaml``. What of a load is fetching, or depends on the node, nobody told the broker."""
    latest: list[StartTime] = [start for starts in learned for start in starts.latest]
    until = datetime.fromtimestamp(max(start.at for start in latest), UTC)
    yield f"# Learned by the broker from {len(latest)} starts up to {until:%F %H:%M} UTC. Hold the simulated queue against"
    yield "# these waits:"
    for pool_id, gpus, part, count, median, p95 in _queue_rows(learned):
        yield f"#   pool {pool_id}, {gpus} GPUs, {part}: median {median}, P95 {p95} of {count}"
    yield "cold_starts:"
    yield "  cache: 1GiB"
    yield "  models:"
    for model_id, loads in _loads(learned).items():
        logarithms = [math.log(max(load_s, 0.1)) for load_s in loads]
        sigma = statistics.stdev(logarithms) if len(loads) > 1 else 0.0
        yield f"    {model_id}:"
        yield "      weights: 1GiB"
        yield "      boot: {median: 0s}"
        yield f"      load: {{median: {_duration(math.exp(statistics.fmean(logarithms)))}, sigma: {sigma:.2f}}}"
