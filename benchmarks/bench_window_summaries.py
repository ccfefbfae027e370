"""One model's window taking in gateway summaries, with a snapshot each second of event time."""

from __future__ import annotations

import gc
import math
import random
import time

from benchmarks.base import Measurement
from broker.model.signals import RequestSummary, Signal
from broker.model.sketch import Sketch
from broker.model.snapshot import WindowNeed
from signals.window import SignalWindow

TARGET_PER_S = 300_000.0
NEEDS = (WindowNeed(Signal.QUEUE_AGE, 30.0), WindowNeed(Signal.TTFT_P95, 30.0))
START_AT = 1_700_000_000.0


def run() -> list[Measurement]:
    """The target is held against 100 gateways that report each second; fewer go along: a snapshot costs much the
    same however many report, so that the rate falls with their number."""
    rates = {f"{gateways} gateways": round(_rate(gateways)) for gateways in (100, 32, 8)}
    details = {"summaries_per_s": rates, "needs": len(NEEDS), "snapshots": "one each second of event time"}
    first = float(next(iter(rates.values())))
    return [Measurement("window_summaries", first, "summaries/s", TARGET_PER_S, higher_is_better=True, details=details)]


def _rate(gateways: int, seconds: int = 40) -> float:
    """Summaries a second of processor time, of the best of five runs; making them is not timed."""
    ready = _sketches()
    best = math.inf
    for _ in range(5):
        generator = random.Random(11)
        window = SignalWindow("chat", NEEDS, 15.0)
        spent = 0.0
        gc.collect()
        gc.disable()
        for second in range(seconds):
            summaries = [_summary(gateway, gateways, second, generator.choice(ready)) for gateway in range(gateways)]
            snapshot_at = START_AT + second + 1.0
            began = time.process_time()
            for summary in summaries:
                window.observe(summary)
            window.snapshot(snapshot_at, snapshot_at)
            spent += time.process_time() - began
        gc.enable()
        best = min(best, spent)
    return gateways * seconds / best


def _sketches() -> list[dict[str, Sketch]]:
    """Each gateway takes some 20 requests a second, so that its sketches have 10 to 20 entries."""
    generator = random.Random(7)
    return [
        {
            "queue_age": _lognormal(generator, 6, 0.2),
            "time_to_first_token": _lognormal(generator, 20, 0.3),
            "inter_token": _lognormal(generator, 400, 0.02),
            "prompt_tokens": _lognormal(generator, 20, 800.0),
            "output_tokens": _lognormal(generator, 18, 250.0),
        }
        for _ in range(200)
    ]


def _summary(gateway: int, gateways: int, second: int, sketches: dict[str, Sketch]) -> RequestSummary:
    at = START_AT + second + (gateway + 1) / gateways
    return RequestSummary(
        "chat",
        f"gateway-{gateway}",
        "boot-1",
        second,
        at,
        at,
        1.0,
        arrived=20,
        finished=18,
        in_flight=60,
        waiting=6,
        oldest_waiting_since=at - 0.7,
        queue_age=sketches["queue_age"],
        time_to_first_token=sketches["time_to_first_token"],
        inter_token=sketches["inter_token"],
        prompt_tokens=sketches["prompt_tokens"],
        output_tokens=sketches["output_tokens"],
    )


def _lognormal(generator: random.Random, count: int, median: float) -> Sketch:
    return Sketch.of(median * math.exp(generator.gauss(0.0, 0.4)) for _ in range(count))
