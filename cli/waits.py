"""``tidegate state waits``: how long replicas waited and loaded, as the broker learned it, for people and simulations."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from broker.model.units import format_duration
from cli.output import fail, local_time, print_json, print_text, table, told_errors
from cli.recorded import recorded_state

if TYPE_CHECKING:
    from broker.model.starts import StartTime, StartTimes
    from cli.recorded import DurableLog

_PART_H = 6
"""Queues differ by the time of day, and the log keeps 64 starts of a model in a pool: too few for every hour."""


def tell_waits(log: DurableLog, *, as_yaml: bool, as_json: bool) -> None:
    """Raises ``typer.Exit`` where nothing was learned yet."""
    from broker.model import wire

    with told_errors():
        state = recorded_state(log)
    learned = [starts for _, starts in sorted(state.starts.items()) if starts.latest]
    if not learned:
        raise fail(f"{log} has no start of a replica on record yet; the broker writes each down once it serves")
    if as_json:
        print_json({"starts": [wire.encode(starts) for starts in learned]})
    elif as_yaml:
        print_text("\n".join(_section(learned)) + "\n")
    else:
        columns = ("starts", "median", "P95")
        table("In the queue", ("pool", "GPUs", "time of day", *columns), list(_queue_rows(learned)))
        places = ("model", "nodes", "weights in memory")
        table("From its start to ready", (*places, *columns), list(_load_rows(learned)))


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
    """Of all pools alike: a node loads as its class does."""
    loads: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for starts in learned:
        for start in starts.latest:
            loads[starts.model_id, start.place.node_class, start.place.weights_cached].append(start.load_s)
    for (model_id, node_class, cached), found in sorted(loads.items()):
        yield model_id, node_class or "unknown", "yes" if cached else "no", *_figures(found)


def _figures(values: Sequence[float]) -> tuple[int, str, str]:
    p95 = sorted(values)[math.ceil(0.95 * len(values)) - 1]
    return len(values), _duration(statistics.median(values)), _duration(p95)


def _duration(seconds: float) -> str:
    return format_duration(round(seconds, 1))


def _section(learned: Sequence[StartTimes]) -> Iterator[str]:
    """Of ``cluster.yaml``, whose models load alike on all nodes."""
    latest: list[StartTime] = [start for starts in learned for start in starts.latest]
    until = datetime.fromtimestamp(max(start.at for start in latest), UTC)
    yield f"# Learned by the broker from {len(latest)} starts up to {until:%F %H:%M} UTC. Hold the simulated queue against"
    yield "# these waits, and the loads against these:"
    for pool_id, gpus, part, count, median, p95 in _queue_rows(learned):
        yield f"#   pool {pool_id}, {gpus} GPUs, {part}: median {median}, P95 {p95} of {count}"
    for model_id, nodes, cached, count, median, p95 in _load_rows(learned):
        yield f"#   model {model_id}, nodes {nodes}, weights in memory {cached}: median {median}, P95 {p95} of {count}"
    yield "# `cache` and `weights` are made up, since nobody told the sizes: with these a node keeps the model that it had last."
    yield "cold_starts:"
    yield "  cache: 1GiB"
    yield "  models:"
    for model_id in sorted({starts.model_id for starts in learned}):
        yield f"    {model_id}:"
        yield "      weights: 1GiB"
        yield "      boot: {median: 0s}"
        yield from _spreads([start for starts in learned if starts.model_id == model_id for start in starts.latest])


def _spreads(starts: Sequence[StartTime]) -> Iterator[str]:
    """``load`` is what a start takes whose weights the node has in memory, ``fetch`` what one without them takes more.
    Where all starts were of one kind there is nothing to tell them apart by."""
    cached = [start.load_s for start in starts if start.place.weights_cached]
    fetched = [start.load_s for start in starts if not start.place.weights_cached]
    if cached and fetched:
        more_s = max(0.0, _median_s(fetched) - _median_s(cached))
        yield f"      fetch: {{median: {_duration(more_s)}, sigma: {_sigma(fetched):.2f}}}"
    loads = cached or fetched
    yield f"      load: {{median: {_duration(_median_s(loads))}, sigma: {_sigma(loads):.2f}}}"


def _median_s(loads: Sequence[float]) -> float:
    """Of the lognormal distribution that fits them."""
    return math.exp(statistics.fmean(_logarithms(loads)))


def _sigma(loads: Sequence[float]) -> float:
    return statistics.stdev(_logarithms(loads)) if len(loads) > 1 else 0.0


def _logarithms(loads: Sequence[float]) -> list[float]:
    return [math.log(max(load_s, 0.1)) for load_s in loads]
