"""The figures of a report, each by day of the run, with its interval. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from broker.model.units import format_count
from simulator.quantiles import bucket_counts
from simulator.report.costs import asked_hours, daily_asked_hours, model_hours, unused_hours
from simulator.report.document import (
    QUANTILES,
    AttainmentRow,
    DayCounts,
    Figure,
    GpuHoursRow,
    Interval,
    LatencyRow,
    number,
    quantile_of,
)
from simulator.report.facts import Facts
from simulator.report.gpu_hours import GpuHours, daily_gpu_hours, gpu_hours
from simulator.report.recorder import DAY_S
from simulator.report.slo import FIVE_MINUTES_S, HOUR_S, Booleans, ServiceLevel, WorstWindow
from simulator.report.spread import Spread
from simulator.report.summary import Floats, Latency
from simulator.statistics import DEFAULT_RESAMPLING, Metric, Resampled, estimate

PARTS = ("busy", "idle", "starting", "draining", "withheld")
_MOST_TENANTS = 100
_MOST_COUNTS = 100_000
"""Of all rows together: some hundred kilobytes of the document, which the page has in it, too."""
_ASKED_OR_ALLOCATED = ("requests", "gpu_hours_a_day", "target_changes_a_day")
"""Ends of names of figures that count what was asked, decided and allocated, and no time that an engine took."""
_HOUR_S = 3600.0


class Figures:
    """Makes figures of one run, whose ``seed`` is that of their row."""

    def __init__(self, facts: Facts, seed: int, *, extrapolated: frozenset[str]) -> None:
        """``extrapolated``: models whose engine went beyond what was measured."""
        self._facts = facts
        self._seed = seed
        self._extrapolated = extrapolated
        self._daily = {"": daily_asked_hours(facts)}

    # -- figures by day

    def all(self) -> tuple[Figure, ...]:
        facts = self._facts
        told = list(self._service("", np.ones(len(facts.outcomes), np.bool_)))
        told += self._cost("")
        if len(facts.asked) > 1:
            for model_id in facts.asked:
                told += self._service(model_id, facts.rows_of(model_id))
                told += self._cost(model_id)
        for model_id in facts.not_asked:
            told += self._cost(model_id)
        return tuple(told)

    def _service(self, model_id: str, rows: Booleans) -> Iterator[Figure]:
        facts = self._facts
        arrived = self._by_day(rows)
        kept = self._by_day(rows & facts.kept)
        unanswered = self._by_day(rows & ~facts.table.finished)
        streamed = rows & ~np.isnan(facts.per_token_s)
        answered = rows & ~np.isnan(facts.outcomes.first_token_s)
        gpu_s = self._gpu_hours(model_id) * _HOUR_S
        yield self._figure("attainment", model_id, "share", "higher", kept, arrived)
        yield self._figure("unanswered", model_id, "share", "lower", unanswered, arrived)
        yield self._figure("requests", model_id, "1/s", "", arrived, facts.arrival_lengths * DAY_S)
        ttft_s = self._by_day(answered, facts.first_token_wait_s)
        yield self._figure("ttft_mean", model_id, "s", "lower", ttft_s, self._by_day(answered))
        tpot_s = self._by_day(streamed, facts.per_token_s)
        yield self._figure("tpot_mean", model_id, "s", "lower", tpot_s, self._by_day(streamed))
        yield self._figure("goodput_per_gpu", model_id, "1/s", "higher", kept, gpu_s)
        yield self._figure("gpu_s_per_request", model_id, "s", "lower", gpu_s, arrived)

    def _cost(self, model_id: str) -> Iterator[Figure]:
        facts = self._facts
        days = facts.day_lengths
        yield self._figure("gpu_hours_a_day", model_id, "GPU-hours", "lower", self._gpu_hours(model_id), days)
        for part in PARTS:
            values = self._gpu_hours(model_id, part)
            yield self._figure(f"{part}_gpu_hours_a_day", model_id, "GPU-hours", "", values, days)
        changed = [
            decision.now - facts.started_at
            for decision in facts.decisions
            if decision.target != decision.before and model_id in ("", decision.model_id)
        ]
        day = np.clip(np.floor(np.array(changed) / DAY_S), 0, facts.days - 1).astype(np.int64)
        changes = np.bincount(day, minlength=facts.days).astype(np.float64)
        yield self._figure("target_changes_a_day", model_id, "", "", changes, days)

    def _figure(
        self, name: str, model_id: str, unit: str, better: str, numerator: Floats, denominator: Floats
    ) -> Figure:
        metric = Metric((self._seed,), numerator[None, :], denominator[None, :])
        touched = self._extrapolated if not model_id else self._extrapolated & {model_id}
        return Figure(
            name=name,
            model_id=model_id,
            unit=unit,
            better=better,
            numerator=tuple(map(float, numerator)),
            denominator=tuple(map(float, denominator)),
            value=number(metric.value),
            interval=self._interval(metric),
            extrapolated=bool(touched) and not name.endswith(_ASKED_OR_ALLOCATED),
        )

    def _interval(self, figure: Resampled) -> Interval:
        found = estimate(figure)
        kind = found.resampling
        return Interval(number(found.low), number(found.high), kind.level, found.n, found.blocks, kind.seed)

    def _by_day(self, rows: Booleans, values: Floats | None = None) -> Floats:
        weights = None if values is None else values[rows]
        sums = np.bincount(self._facts.day_of_arrival[rows], weights, minlength=self._facts.days)
        return sums.astype(np.float64)

    def _gpu_hours(self, model_id: str, part: str = "total") -> Floats:
        """By day, of all models that were asked or of one. What a dedicated pool withholds is no single model's."""
        if model_id not in self._daily:
            own = [one.interval for one in self._facts.recorded.replicas if one.model_id == model_id]
            self._daily[model_id] = daily_gpu_hours(own, days=self._facts.days)
        return np.array([getattr(hours, part) for hours in self._daily[model_id]])

    # -- tables

    def attainment(self) -> tuple[AttainmentRow, ...]:
        facts = self._facts
        every = np.ones(len(facts.outcomes), np.bool_)
        rows = [self._share("overall", "", every)]
        if len(facts.asked) > 1:
            rows += [self._share("class", model_id, facts.rows_of(model_id)) for model_id in facts.asked]
        for model_id in facts.asked:
            rows += self._by_prompt_length(model_id)
        rows += self._by_tenant()
        for words, length_s in (("worst hour", HOUR_S), ("worst five minutes", FIVE_MINUTES_S)):
            worst = facts.worst_window(length_s)
            rows += [_worst(words, worst)] if worst is not None else []
        return tuple(rows)

    def _by_prompt_length(self, model_id: str) -> Iterator[AttainmentRow]:
        facts = self._facts
        level = facts.levels[facts.models.index(model_id)]
        lengths = [0.0, *(limit.up_to_tokens for limit in level.first_token)]
        if len(lengths) < 3:
            return
        prompts, own = facts.outcomes.prompt_tokens, facts.rows_of(model_id)
        prefix = f"{model_id}, " if len(facts.asked) > 1 else ""
        for over, up_to in pairwise(lengths):
            words = f"over {over:g} tokens" if np.isinf(up_to) else f"up to {up_to:g} tokens"
            yield self._share("prompt length", prefix + words, own & (prompts > over) & (prompts <= up_to))

    def _by_tenant(self) -> Iterator[AttainmentRow]:
        """The tenants who ask most by name, the others together."""
        facts = self._facts
        names, tenant = facts.tenant_names, facts.table.tenant
        if not names:
            return
        counts = np.bincount(tenant, minlength=len(names))
        most = np.argsort(-counts, kind="stable")
        named = [int(index) for index in most[:_MOST_TENANTS] if counts[index]]
        for index in named:
            yield self._share("tenant", names[index], tenant == index)
        others = [int(index) for index in most[_MOST_TENANTS:] if counts[index]]
        if others:
            yield self._share("tenant", f"({len(others)} others)", np.isin(tenant, others))

    def _share(self, kind: str, name: str, rows: Booleans) -> AttainmentRow:
        kept = self._by_day(rows & self._facts.kept)
        arrived = self._by_day(rows)
        metric = Metric((self._seed,), kept[None, :], arrived[None, :])
        return AttainmentRow(
            kind, name, int(kept.sum()), int(arrived.sum()), number(metric.value), self._interval(metric)
        )

    def latencies(self) -> tuple[LatencyRow, ...]:
        facts = self._facts
        told: list[LatencyRow] = []
        kept = 0
        for model_id in ("", *facts.asked) if len(facts.asked) > 1 else facts.asked:
            rows = facts.rows_of(model_id) if model_id else np.ones(len(facts.outcomes), np.bool_)
            level = facts.levels[facts.models.index(model_id)] if model_id else None
            touched = bool(self._extrapolated if not model_id else self._extrapolated & {model_id})
            out = facts.outcomes
            ended = np.where(facts.table.finished, out.end_s - out.arrival_s, np.nan)
            for what, values, limits in (
                ("ttft", facts.first_token_wait_s, first_token_words(level) if level else ""),
                ("tpot", facts.per_token_s, f"{level.per_token_s:g} s" if level else ""),
                ("end_to_end", ended, ""),
            ):
                there = rows & ~np.isnan(values)
                latency, counts = Latency.of(values[there]), self._counts(values, there)
                intervals = {
                    name: self._interval(quantile_of([latency], [counts], name, (self._seed,)))
                    for name in (QUANTILES if there.any() else ())
                }
                kept += sum(len(day.counts) for day in counts)
                by_day = counts if not model_id or len(facts.asked) == 1 or kept <= _MOST_COUNTS else ()
                told.append(LatencyRow(what, model_id, latency, limits, touched, intervals, by_day))
        return tuple(told)

    def _counts(self, values: Floats, rows: Booleans) -> tuple[DayCounts, ...]:
        days = bucket_counts(values[rows], self._facts.day_of_arrival[rows], self._facts.days)
        told = []
        for day in days:
            used = np.flatnonzero(day)
            first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
            told.append(DayCounts(first, tuple(day[first:end].tolist())))
        return tuple(told)

    def gpu_hours(self) -> tuple[GpuHoursRow, ...]:
        """From second 0 on, and the warm-up apart."""
        facts = self._facts
        rows = [_gpu_row("all", gpu_hours(facts.intervals, facts.holdings, begin_s=0.0))]
        for pool in facts.recorded.site.pools:
            own = [one for one in facts.intervals if one.pool_id == pool.pool_id]
            held = [one for one in facts.holdings if one.pool_id == pool.pool_id]
            rows.append(_gpu_row("pool", gpu_hours(own, held, begin_s=0.0), pool_id=pool.pool_id))
        for model_id in (*facts.asked, *facts.not_asked):
            rows.append(_gpu_row("model", model_hours(facts, (model_id,)), model_id=model_id))
        rows.append(_gpu_row("none", unused_hours(facts)))
        rows.append(_gpu_row("asked", asked_hours(facts)))
        rows.append(_gpu_row("warm_up", gpu_hours(facts.intervals, facts.holdings, end_s=0.0)))
        return tuple(rows)


_PRINTED = {"ttft": "time_to_first_token", "end_to_end": "end_to_end"}
"""A summary's fields for a report's latencies; gaps between tokens are not counted by day."""


def spread_of(facts: Facts, seed: int) -> Spread:
    """Of the figures of all models together that a run prints."""
    n = f"n = 1 seed ({seed}), {format_count(facts.days, 'day block')}"
    if facts.days == 1:
        return Spread(f"{n}, of which no spread is known: no intervals", {})
    whole = "" if len(facts.asked) > 1 else facts.asked[0]
    rows = Figures(facts, seed, extrapolated=frozenset()).latencies()
    return Spread(
        f"{n}; {DEFAULT_RESAMPLING.level:.0%} intervals by bootstrap over days, "
        f"resampling seed {DEFAULT_RESAMPLING.seed}",
        {_PRINTED[row.what]: row.intervals for row in rows if row.model_id == whole and row.what in _PRINTED},
    )


def first_token_words(level: ServiceLevel) -> str:
    limits = level.first_token
    words = [f"{limit.limit_s:g} s up to {limit.up_to_tokens:g} tokens" for limit in limits[:-1]]
    last = limits[-1]
    return ", ".join([*words, f"{last.limit_s:g} s{' beyond' if words else ''}"])


def _worst(words: str, worst: WorstWindow) -> AttainmentRow:
    share = worst.share
    return AttainmentRow(
        words, "", share.kept, share.arrivals, share.value, begin_s=worst.begin_s, length_s=worst.length_s
    )


def _gpu_row(kind: str, hours: GpuHours, *, pool_id: str = "", model_id: str = "") -> GpuHoursRow:
    return GpuHoursRow(
        pool_id, hours.busy, hours.idle, hours.starting, hours.draining, hours.withheld, hours.total, kind, model_id
    )
