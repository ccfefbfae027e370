"""Reads the metrics of every replica that serves, draining ones too: a drain waits for the engine's own word."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from broker.app.runtime import Runtime
from broker.app.settings.site import ScrapeSettings
from broker.model.identity import metrics_key
from broker.model.replica import ReplicaPhase
from broker.model.signals import MetricSample
from signals.ingest.scrape import FailureReason, ScrapeFailure, Scraper, ScrapeTarget

logger = structlog.get_logger("broker")

_FOLLOW_INTERVAL_S = 0.1
_SERVING = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING})


class ScrapeLoop:
    """Keeps a ``Scraper`` on the replicas that serve; samples go to the runtime, failures to the log."""

    def __init__(self, runtime: Runtime, site_secret: bytes, settings: ScrapeSettings) -> None:
        self._runtime = runtime
        self._secret = site_secret
        self._settings = settings
        self._failing: dict[str, FailureReason] = {}

    async def run(self) -> None:
        """For ever."""
        clock = self._runtime.clock
        scraper = Scraper(
            clock, self._deliver, interval_s=self._settings.interval_s, timeout_s=self._settings.timeout_s
        )
        async with scraper:
            while True:
                targets = list(self._targets())
                scraper.watch(targets)
                for gone in self._failing.keys() - {target.replica_id for target in targets}:
                    del self._failing[gone]
                await clock.sleep_until(clock.now() + _FOLLOW_INTERVAL_S)

    def _targets(self) -> Iterator[ScrapeTarget]:
        for members in self._runtime.core.loop.state.replicas.values():
            for replica in members.values():
                if replica.url and replica.phase in _SERVING:
                    key = metrics_key(self._secret, replica.replica_id, replica.generation)
                    yield ScrapeTarget(replica.replica_id, replica.model_id, f"{replica.url}/metrics", key)

    def _deliver(self, outcome: MetricSample | ScrapeFailure) -> None:
        if isinstance(outcome, MetricSample):
            self._failing.pop(outcome.replica_id, None)
            self._runtime.observe(outcome)
        elif self._failing.get(outcome.replica_id) is not outcome.reason:
            # Told once for each reason: a replica that was killed fails every second until it is withdrawn.
            self._failing[outcome.replica_id] = outcome.reason
            logger.warning(
                "scrape_failed", replica_id=outcome.replica_id, reason=outcome.reason.value, detail=outcome.detail
            )
