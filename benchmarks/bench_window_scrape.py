"""One model's window taking in scrapes, with a snapshot each second of event time."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator

from benchmarks.base import Measurement
from broker.model.signals import Histogram, MetricSample, Signal
from broker.model.snapshot import WindowNeed
from signals.window import SignalWindow

TARGET_PER_S = 150_000.0
NEEDS = (WindowNeed(Signal.QUEUE_AGE, 30.0), WindowNeed(Signal.KV_CACHE_USE, 30.0))
START_AT = 1_700_000_000.0

_QUEUE = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0, math.inf),
)
_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0, math.inf),
)
_INTER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, math.inf),
)


def run() -> list[Measurement]:
    """The target is held against 20 replicas scraped each 0.5 s, as in the recording; other shapes go along."""
    rates = {
        f"{replicas} replicas each {interval_s:g} s": round(_rate(replicas, interval_s))
        for replicas, interval_s in ((20, 0.5), (20, 1.0), (100, 1.0), (4, 1.0))
    }
    details = {"samples_per_s": rates, "needs": len(NEEDS), "snapshots": "one each second of event time"}
    first = float(next(iter(rates.values())))
    return [Measurement("window_scrape", first, "samples/s", TARGET_PER_S, higher_is_better=True, details=details)]


def _rate(replicas: int, interval_s: float, seconds: int = 40) -> float:
    """Samples a second of processor time, of the best of five runs. Each second's samples are made just before they
    are taken in, as they would come from the parser; making them is not timed."""
    best = math.inf
    for _ in range(5):
        window = SignalWindow("chat", NEEDS, 15.0)
        window.expect([f"chat-{replica}-g1" for replica in range(replicas)], START_AT)
        spent, taken = 0.0, 0
        gc.collect()
        gc.disable()
        for second in range(seconds):
            samples = list(_second(replicas, interval_s, second))
            snapshot_at = START_AT + second + 1.0
            began = time.process_time()
            for sample in samples:
                window.observe(sample)
            window.snapshot(snapshot_at, snapshot_at)
            spent += time.process_time() - began
            taken += len(samples)
        gc.enable()
        best = min(best, spent / taken)
    return 1.0 / best


def _second(replicas: int, interval_s: float, second: int) -> Iterator[MetricSample]:
    """Replicas under load, every field present, a queue at every fourth of them, scrapes spread over the interval."""
    per_second = round(1.0 / interval_s)
    for scrape in range(second * per_second + 1, (second + 1) * per_second + 1):
        for replica in range(replicas):
            at = START_AT + (scrape - 1 + (replica + 1) / replicas) * interval_s
            done = float(scrape * 3 + replica)
            yield scraped("chat", f"chat-{replica}-g1", at, done, 3.0 if replica % 4 == 0 else 0.0)


def scraped(model_id: str, replica_id: str, at: float, done: float, waiting: float = 0.0) -> MetricSample:
    """One replica under load, which has finished ``done`` requests."""
    return MetricSample(
        model_id,
        replica_id,
        at,
        at,
        requests_running=40.0,
        requests_waiting=waiting,
        kv_cache_use=0.6,
        prompt_tokens_total=done * 300.0,
        generation_tokens_total=done * 200.0,
        preemptions_total=done // 150.0,
        requests_finished_total=done,
        queue_time=_histogram(_QUEUE, done),
        time_to_first_token=_histogram(_TTFT, done),
        inter_token_latency=_histogram(_INTER_TOKEN, done * 200.0),
    )


def _histogram(bounds: tuple[float, ...], observed: float) -> Histogram:
    buckets = len(bounds)
    counts = (*[float(int(observed * index / buckets)) for index in range(1, buckets)], observed)
    return Histogram(bounds, counts, observed * 0.4)
