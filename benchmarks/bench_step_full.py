"""One step in which all of 500 models and 10,000 replicas changed, and the memory of a process that does it.

``step_full``: a new snapshot of each model, and a listing of all replicas that says what the last one said.
``step_full_records``: the listing shows each replica's process running for the first time, so that each record changes.
``step_full_memory``: the peak of a process of its own that does both.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from benchmarks import control_world as world
from benchmarks.base import Measurement
from benchmarks.step_timing import site, timed
from broker.model.observation import Observation
from broker.model.replica import ReplicaPhase

REPETITIONS = 100
TARGET_MS = 100.0
TARGET_MB = 300.0


def run() -> list[Measurement]:
    measured = subprocess.run([sys.executable, "-m", __name__], check=True, capture_output=True, text=True)
    return [Measurement(**found) for found in json.loads(measured.stdout)]


def measure() -> list[dict[str, object]]:
    full = _full(shadows=False)
    shadowed = _full(shadows=True)
    return [
        {"name": "step_full", **full},
        {"name": "step_full_shadows", **shadowed},
        {"name": "step_full_records", **_records()},
        {
            "name": "step_full_memory",
            "value": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "unit": "MiB",
            "target": TARGET_MB,
            "details": {"replicas": world.REPLICAS, "models": world.MODELS},
        },
    ]


def _full(*, shadows: bool) -> dict[str, object]:
    large = site(shadows=shadows)

    def observe(sequence: int, now: float) -> list[Observation]:
        listed = world.listing(large.models, now, ReplicaPhase.STARTING)
        return [*large.snapshots(large.models, sequence, now), listed]

    timings = timed(large, REPETITIONS, observe, interval_s=1.0)
    return {"value": timings.p99_ms, "unit": "ms", "target": TARGET_MS, "details": timings.details()}


def _records() -> dict[str, object]:
    large = site(phase=ReplicaPhase.PENDING)

    def observe(sequence: int, now: float) -> list[Observation]:
        listed = world.listing(large.models, now, ReplicaPhase.STARTING, started_at=now)
        return [*large.snapshots(large.models, sequence, now), listed]

    timings = timed(large, REPETITIONS // 2, observe, interval_s=1.0, again=True)
    return {"value": timings.p99_ms, "unit": "ms", "target": TARGET_MS, "details": timings.details()}


if __name__ == "__main__":
    print(json.dumps(measure()))
