"""Conditions of a simulated run that are no load: how measurements travel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricFaults:
    """How measurements reach the broker late, or not at all. The defaults are a perfect path.

    Each scrape of a replica is lost with probability ``loss`` and otherwise arrives a lognormal delay after it was
    taken, of median ``delay_s`` and ``delay_sigma``. Gateways' reports take as long; one that is lost, with probability
    ``report_loss``, is sent again with the next. In an outage nothing arrives of what was sent in it: outages last
    ``outage_s`` on average, with ``outage_every_s`` on average between them (both exponential); 0 for none.
    """

    loss: float = 0.0
    report_loss: float = 0.0
    delay_s: float = 0.0
    delay_sigma: float = 0.5
    outage_every_s: float = 0.0
    outage_s: float = 30.0


PERFECT = MetricFaults()


def faults_of(loss: float | None, delay_s: float | None) -> MetricFaults | None:
    """Scrapes and reports that are lost and late alike; None where nothing is said of either."""
    if loss is None and delay_s is None:
        return None
    return MetricFaults(loss=loss or 0.0, report_loss=loss or 0.0, delay_s=delay_s or 0.0)
