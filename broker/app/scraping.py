"""Reads the metrics of every replica that serves, draining ones too: a drain waits for the engine's own word."""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from broker.app.settings.site import ScrapeSettings
from broker.model.identity import metrics_key
from broker.model.ports import Clock
from broker.model.replica import ReplicaPhase
from broker.model.signals import MetricSample
from broker.model.state import BrokerState
from signals.ingest.scrape import FailureReason, ScrapeFailure, Scraper, ScrapeTarget

logger = structlog.get_logger("broker")

_FOLLOW_INTERVAL_S = 0.1
_SERVING = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING})


def scrape_targets(
    state: BrokerState, site_secret: bytes, wanted: Callable[[str], bool] = lambda replica_id: True
) -> list[ScrapeTarget]:
    """The replicas that serve, of these the ``wanted`` ones by their id."""
    return [
        ScrapeTarget(
            replica.replica_id, replica.model_id, f"{replica.url}/metrics",
            metrics_key(site_secret, replica.replica_id, replica.generation),
        )
        for members in state.replicas.values()
        for replica in members.values()
        if replica.url and replica.phase in _SERVING and wanted(replica.replica_id)
    ]  # fmt: skip


class ScrapeLoop:
    """Keeps a ``Scraper`` on ``targets``, asked again and again; samples go to ``observe``, failures to the log."""

    def __init__(
        self, clock: Clock, settings: ScrapeSettings, targets: Callable[[], Collection[ScrapeTarget]],
        observe: Callable[[MetricSample], None],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._settings = settings
        self._targets = targets
        self._observe = observe
        self._failing: dict[str, FailureReason] = {}

    async def run(self) -> None:
        """For ever."""
        scraper = Scraper(
            self._clock, self._deliver, interval_s=self._settings.interval_s, timeout_s=self._settings.timeout_s
        )
        async with scraper:
            while True:
                targets = self._targets()
                scraper.watch(targets)
                for gone in self._failing.keys() - {target.replica_id for target in targets}:
                    del self._failing[gone]
                await self._clock.sleep_until(self._clock.now() + _FOLLOW_INTERVAL_S)

    def _deliver(self, outcome: MetricSample | ScrapeFailure) -> None:
        if isinstance(outcome, MetricSample):
            self._failing.pop(outcome.replica_id, None)
            self._observe(outcome)
        elif self._failing.get(outcome.replica_id) is not outcome.reason:
            # Told once for each reason: a replica that was killed fails every second until it is withdrawn.
            self._failing[outcome.replica_id] = outcome.reason
            logger.warning(
                "scrape_failed", replica_id=outcome.replica_id, reason=outcome.reason.value, detail=outcome.detail
            )
