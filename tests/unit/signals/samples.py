"""Samples and summaries that the window's tests are told in."""

from __future__ import annotations

import math

from broker.model.signals import Histogram, MetricSample, RequestSummary
from broker.model.sketch import EMPTY_SKETCH, Sketch

MODEL = "chat"
BOUNDS = (0.5, 1.0, 2.0, math.inf)


def histogram(*counts: float, bounds: tuple[float, ...] = BOUNDS) -> Histogram:
    return Histogram(bounds, counts, counts[-1] * 0.4)


def scrape(
    at: float,
    replica_id: str = "a",
    *,
    running: float | None = 0.0,
    waiting: float | None = 0.0,
    kv: float | None = 0.0,
    prompt: float | None = 0.0,
    generated: float | None = 0.0,
    preempted: float | None = 0.0,
    finished: float | None = 0.0,
    queue_time: Histogram | None = None,
    ttft: Histogram | None = None,
    inter_token: Histogram | None = None,
    received_at: float | None = None,
) -> MetricSample:
    none_yet = histogram(0.0, 0.0, 0.0, 0.0)
    return MetricSample(
        MODEL,
        replica_id,
        at,
        at if received_at is None else received_at,
        running,
        waiting,
        kv,
        prompt,
        generated,
        preempted,
        finished,
        queue_time or none_yet,
        ttft or none_yet,
        inter_token or none_yet,
    )


def report(
    at: float,
    sequence: int,
    gateway_id: str = "gw",
    *,
    boot: str = "boot-1",
    arrived: int = 0,
    failed: int = 0,
    in_flight: int = 0,
    waiting: int = 0,
    oldest: float | None = None,
    ttft: Sketch = EMPTY_SKETCH,
    prompt: Sketch = EMPTY_SKETCH,
    interval_s: float = 1.0,
    received_at: float | None = None,
) -> RequestSummary:
    return RequestSummary(
        MODEL,
        gateway_id,
        boot,
        sequence,
        at,
        at if received_at is None else received_at,
        interval_s,
        arrived=arrived,
        failed=failed,
        in_flight=in_flight,
        waiting=waiting,
        oldest_waiting_since=oldest,
        time_to_first_token=ttft,
        prompt_tokens=prompt,
    )
