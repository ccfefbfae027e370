"""One step in which 20 of 500 models changed; 10,000 replicas."""

from __future__ import annotations

from benchmarks.base import Measurement
from benchmarks.step_timing import site, timed
from broker.model.observation import Observation

REPETITIONS = 500
CHANGED = 20
TARGET_MS = 10.0


def run() -> list[Measurement]:
    large = site()

    def observe(sequence: int, now: float) -> list[Observation]:
        first = sequence * CHANGED % len(large.models)
        return large.snapshots(large.models[first : first + CHANGED], sequence, now)

    timings = timed(large, REPETITIONS, observe, interval_s=0.05)
    return [Measurement("step_dirty", timings.p99_ms, "ms", TARGET_MS, details=timings.details())]
