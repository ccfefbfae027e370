"""The way of measurements to the broker, where they may be late or lost.

A sample keeps the time at which it was true; what the broker sees of it is when it came. All chance is drawn by the
sample, not in the order of asking: two policies lose the same scrapes of the same replicas.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from broker.model.observation import GatewayReport
from broker.model.signals import MetricSample, RequestSummary
from simulator.driver import Driver
from traces.conditions import PERFECT, MetricFaults
from traces.randomness import Draws, stream

_SUMMARIES_KEPT = 6_000
"""What the reference gateway keeps for the broker through an outage."""

_MICROSECOND = 1e-6


class MetricPath:
    """``sample`` and ``report`` send what was measured at the driver's present."""

    def __init__(self, driver: Driver, faults: MetricFaults, seed: int) -> None:
        self._driver = driver
        self._faults = faults
        self._unacknowledged: deque[RequestSummary] = deque(maxlen=_SUMMARIES_KEPT)
        self._outages = _Outages(faults, stream(seed, "metrics", "outages"), driver.now)
        self._lost_scrapes = Draws(seed, "metrics", "scrapes")
        self._lost_reports = Draws(seed, "metrics", "reports")
        self._delays = Draws(seed, "metrics", "delays")
        self._perfect = faults == PERFECT
        self.sample: Callable[[MetricSample], None] = driver.observe if self._perfect else self._scraped

    def report(self, report: GatewayReport, summaries: Sequence[RequestSummary] = ()) -> None:
        """A gateway's report, with what it has to tell beside it."""
        if self._perfect:
            for summary in summaries:
                self._driver.observe(summary)
            self._driver.offer(report)
            return
        self._unacknowledged.extend(summaries)
        if self._is_lost(self._lost_reports, self._faults.report_loss, report.gateway_id):
            return
        sent, self._unacknowledged = tuple(self._unacknowledged), deque(maxlen=_SUMMARIES_KEPT)
        self._deliver(report.gateway_id, lambda now: self._take_report(report, sent, now))

    def _scraped(self, sample: MetricSample) -> None:
        if not self._is_lost(self._lost_scrapes, self._faults.loss, sample.replica_id):
            self._deliver(sample.replica_id, lambda now: self._driver.observe(replace(sample, received_at=now)))

    def _take_report(self, report: GatewayReport, summaries: Sequence[RequestSummary], now: float) -> None:
        for summary in summaries:
            self._driver.observe(replace(summary, received_at=now))
        self._driver.offer(replace(report, received_at=now))

    def _is_lost(self, draws: Draws, share: float, source: str) -> bool:
        if self._outages.at(self._driver.now):
            return True
        return bool(share) and draws.uniform(*self._key(source)) < share

    def _deliver(self, source: str, take: Callable[[float], None]) -> None:
        now, median_s = self._driver.now, self._faults.delay_s
        if not median_s:
            take(now)
            return
        arrives_at = now + self._delays.lognormal(median_s, self._faults.delay_sigma, *self._key(source))
        self._driver.at(arrives_at, lambda: take(arrives_at))

    def _key(self, source: str) -> tuple[int, int]:
        return zlib.crc32(source.encode()), round(self._driver.now / _MICROSECOND)


class _Outages:
    """Asked of times that do not go back."""

    def __init__(self, faults: MetricFaults, random: np.random.Generator, begin_at: float) -> None:
        self._faults = faults
        self._random = random
        self._begins_at = self._ends_at = begin_at
        if faults.outage_every_s:
            self._next()

    def at(self, now: float) -> bool:
        if not self._faults.outage_every_s:
            return False
        while now >= self._ends_at:
            self._next()
        return now >= self._begins_at

    def _next(self) -> None:
        self._begins_at = self._ends_at + self._random.exponential(self._faults.outage_every_s)
        self._ends_at = self._begins_at + self._random.exponential(self._faults.outage_s)
