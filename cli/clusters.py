"""``cluster.yaml`` as the simulator takes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from broker.app.settings.cluster import (
    ClusterSettings,
    ColdStartSettings,
    GeneratedBackground,
    LoggedBackground,
    Spread,
    load_cluster,
)
from broker.model.errors import ConfigError
from simulator.cluster.calendar import StartRule, WeeklyWindow
from simulator.cluster.plan import Background, ClusterPlan, Failures, GeneratedJobs, LoggedJobs, PlannedMaintenance
from simulator.cluster.spec import ClusterSpec, NodeGroup, Partition, PreemptMode
from simulator.cold_start import ColdStart, Duration

_GIB = 2.0**30


def read_cluster(path: str | Path) -> ClusterPlan:
    """Raises ``ConfigErrors`` for a file that describes no cluster."""
    settings = load_cluster(path)
    try:
        return _plan(settings)
    except ConfigError as error:
        raise ConfigError(error.problem, path=str(path), field=error.field) from None


def bad_rows_notes(cluster: ClusterPlan, lasts_s: float) -> Iterator[str]:
    """What `skip_bad` leaves out of logs of batch jobs within so many seconds."""
    for load in cluster.background:
        if isinstance(load.source, LoggedJobs) and load.source.skip_bad:
            count, first = load.source.bad_rows(lasts_s)
            if count:
                rows = "row is" if count == 1 else "rows are"
                yield f"{load.source.path.name}: {count:,} {rows} left out of background {load.name}; the first: {first}"


def _plan(settings: ClusterSettings) -> ClusterPlan:
    starts = settings.cold_starts
    failures = settings.failures
    return ClusterPlan(
        _spec(settings),
        background=tuple(_background(name, load) for name, load in settings.background.items()),
        maintenance=tuple(
            PlannedMaintenance(name, each.begins_s, each.lasts_s, tuple(each.nodes))
            for name, each in settings.maintenance.items()
        ),
        failures=None if failures is None else Failures(failures.mean_between_s, failures.mean_repair_s),
        cold_starts={} if starts is None else {name: _cold_start(each) for name, each in starts.models.items()},
        cache_gib=0.0 if starts is None else starts.cache_bytes / _GIB,
        lead_s=settings.lead_s,
        exit_s=settings.exit_s,
    )


def _spec(settings: ClusterSettings) -> ClusterSpec:
    return ClusterSpec(
        tuple(NodeGroup(name, group.count, group.gpus) for name, group in settings.nodes.items()),
        tuple(
            Partition(
                name, tuple(each.nodes), math.inf if each.max_time_s is None else each.max_time_s, each.tier,
                PreemptMode(each.preempt), each.grace_s,
            )
            for name, each in settings.partitions.items()
        ),
        tuple(
            StartRule(
                rule.over_s, tuple(WeeklyWindow(*window.hours) for window in rule.windows), rule.time_zone,
                rule.ends_inside,
            )
            for rule in settings.start_rules
        ),
        priority_per_hour=settings.priority_per_hour,
        backfill_depth=settings.backfill_depth,
        requeue_delay_s=settings.requeue_delay_s,
    )  # fmt: skip


def _background(name: str, load: LoggedBackground | GeneratedBackground) -> Background:
    if isinstance(load, LoggedBackground):
        logged = LoggedJobs(load.path, load.begin_s, load.skip_bad)
        return Background(
            name, logged, load.partition, load.processors_per_gpu, load.default_limit_s, requeue=load.requeue
        )
    generated = GeneratedJobs(load.to_profile(), load.rate_scale)
    return Background(name, generated, load.partition, load.processors_per_gpu, requeue=load.requeue)


def _cold_start(start: ColdStartSettings) -> ColdStart:
    return ColdStart(
        cached_gib=start.weights_bytes / _GIB,
        boot=_duration(start.boot),
        fetch=_duration(start.fetch),
        load=_duration(start.load),
        compile=_duration(start.compile),
        warm_up=_duration(start.warm_up),
        boot_again=_duration(start.boot_again or start.boot),
        warm_up_again=_duration(start.warm_up_again or start.warm_up),
    )


def _duration(spread: Spread) -> Duration:
    return Duration(spread.median_s, spread.sigma)
