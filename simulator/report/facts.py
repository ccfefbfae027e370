"""A run as its report looks at it: requests with their verdicts, GPUs with their intervals, days. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from broker.model.plan import Decision
from broker.model.replica import Tier
from broker.model.spec import ModelSpec
from simulator.report.gpu_hours import Holding, PhaseInterval, weight_of
from simulator.report.recorder import DAY_S, Recorded
from simulator.report.slo import Booleans, RequestTable, ServiceLevel, WorstWindow, kept_in_time, worst_window
from simulator.report.summary import OUTCOMES, BatchFigures, Cut, Floats, Outcome, Outcomes, QueueFigures

NO_TENANT = "(none)"


@dataclass(frozen=True, eq=False)
class Facts:
    """``models`` and ``tenants`` name the numbers in ``outcomes``; ``started_at`` is second 0, in epoch seconds. What
    follows ``duration_s`` is as in the run's ``RunSummary``."""

    outcomes: Outcomes
    models: tuple[str, ...]
    tenants: tuple[str, ...]
    recorded: Recorded
    decisions: Sequence[Decision]
    started_at: float
    duration_s: float
    queues: Mapping[str, QueueFigures] = field(default_factory=dict)
    batch: BatchFigures | None = None
    cuts: tuple[Cut, ...] = ()
    drained_s: float = 0.0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def last_arrival_s(self) -> float:
        """0 where nobody asked."""
        return float(self.outcomes.arrival_s[-1]) if len(self.outcomes) else 0.0

    @property
    def days(self) -> int:
        """Of the arrivals, which are blocks of a resampling. A rest of less than half a day, and all that a run goes on
        for after its load, belong to the day before: as a block of its own the minute of a tail made a day's run look
        like two days that agree."""
        return max(1, math.floor(self.last_arrival_s / DAY_S + 0.5))

    @property
    def day_lengths(self) -> Floats:
        """In days, by day of the run, the last one to the run's end."""
        return self._lengths_to(self.duration_s)

    @property
    def arrival_lengths(self) -> Floats:
        """In days, by day of the run: for how long requests came, to the last arrival; a run goes on until they end."""
        return self._lengths_to(self.last_arrival_s)

    def _lengths_to(self, end_s: float) -> Floats:
        return np.diff(np.append(np.arange(self.days, dtype=np.float64), max(end_s, 1e-9) / DAY_S))

    def spec(self, model_id: str) -> ModelSpec:
        return next(model for model in self.recorded.models if model.model_id == model_id)

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """Models that somebody asked, in their order."""
        counts = np.bincount(self.outcomes.model, minlength=len(self.models))
        return tuple(name for name, count in zip(self.models, counts, strict=True) if count)

    def rows_of(self, model_id: str) -> Booleans:
        return np.asarray(self.outcomes.model == self.models.index(model_id))

    @cached_property
    def not_asked(self) -> tuple[str, ...]:
        """Models that nobody asked; their minimum runs all the same."""
        return tuple(model.model_id for model in self.recorded.models if model.model_id not in self.asked)

    # -- requests

    @cached_property
    def levels(self) -> tuple[ServiceLevel, ...]:
        return tuple(ServiceLevel.of(model_id, self.spec(model_id).slo) for model_id in self.models)

    @cached_property
    def table(self) -> RequestTable:
        out = self.outcomes
        return RequestTable(
            arrival_s=out.arrival_s,
            first_token_s=out.first_token_s,
            end_s=out.end_s,
            prompt_tokens=out.prompt_tokens.astype(np.int64),
            output_tokens=out.output_tokens.astype(np.int64),
            finished=out.status == OUTCOMES.index(Outcome.FINISHED),
            level=out.model.astype(np.int64),
            tenant=out.tenant.astype(np.int64) + 1,
        )

    def worst_window(self, length_s: float) -> WorstWindow | None:
        """None of a run that is shorter, whose worst is the whole, or that nobody asked."""
        if self.duration_s < length_s:
            return None
        return worst_window(self.outcomes.arrival_s, self.kept, length_s)

    @property
    def tenant_names(self) -> tuple[str, ...]:
        """By the table's numbers; none where no request has a tenant."""
        return (NO_TENANT, *self.tenants) if len(self.outcomes) and self.outcomes.tenant.max() >= 0 else ()

    @cached_property
    def kept(self) -> Booleans:
        return kept_in_time(self.table, self.levels)

    @cached_property
    def first_token_wait_s(self) -> Floats:
        """NaN without a first token."""
        return np.asarray(self.outcomes.first_token_s - self.outcomes.arrival_s)

    @cached_property
    def per_token_s(self) -> Floats:
        """Mean time per output token after the first; NaN where there is none or the answer did not end."""
        table = self.table
        streamed = table.finished & (table.output_tokens > 1)
        pace_s = np.full(len(table), np.nan)
        further = table.output_tokens[streamed] - 1
        pace_s[streamed] = (table.end_s[streamed] - table.first_token_s[streamed]) / further
        return pace_s

    @cached_property
    def day_of_arrival(self) -> NDArray[np.int64]:
        return np.clip(np.floor(self.outcomes.arrival_s / DAY_S), 0, self.days - 1).astype(np.int64)

    # -- GPUs

    @cached_property
    def intervals(self) -> tuple[PhaseInterval, ...]:
        return tuple(one.interval for one in self.recorded.replicas)

    @cached_property
    def holdings(self) -> tuple[Holding, ...]:
        """Pools that take baseline replicas only are dedicated: nobody else has their GPUs while the service runs."""
        return tuple(
            Holding(pool.pool_id, self.recorded.begin_s, self.duration_s, pool.gpus, weight_of(pool))
            for pool in self.recorded.site.pools
            if pool.tiers == (Tier.BASELINE,)
        )
