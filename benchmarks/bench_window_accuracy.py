"""What the window says of a recorded vLLM, phase by phase, against what its clients saw (needs the recording)."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.base import Measurement
from benchmarks.window_accuracy import compare, read_recording

_SHARED = Path(os.environ.get("TIDEGATE_SHARED", Path(__file__).resolve().parents[2] / "shared"))

QUEUE_AGE_TARGET_S = 0.25
"""Half a scrape interval of the recording: gauges cannot tell when between two scrapes a request came."""


def run() -> list[Measurement]:
    """One line for each phase and source: the mean absolute error of the queue age, all other errors beside it.
    Nothing without the recording."""
    folder = _SHARED / "vllm"
    if not (folder / "recording_v0.32.0_requests.jsonl.gz").exists():
        return []
    measurements = []
    for row in compare(read_recording(folder)):
        name = f"window_accuracy.{row.source}.{row.phase}"
        details = {"from_s": row.start_s, "to_s": row.end_s, "signals": row.errors}
        value = round(row.errors["queue_age_s"]["mae"], 4)
        measurements.append(Measurement(name, value, "s", QUEUE_AGE_TARGET_S, details=details))
    return measurements
