"""A sweep on one process and on two: what a process costs before its first cell, and how much the second one gains."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.base import Measurement
from cli.sweep_plan import plan_sweep
from cli.sweep_run import run_sweep
from simulator.engine.fleet import make_ready
from simulator.sweep.ranking import RankBy
from simulator.sweep.workers import run_all

EXAMPLES = Path(__file__).parents[1] / "deploy" / "examples"
SWEEP = f"""
policies:
  example:
    file: {EXAMPLES / "policies.yaml"}
    grid: {{models.chat.min: [1, 2]}}
traces:
  calm: {{source: {{kind: generated, profile: burstgpt1_conv, rate: 1.5}}, duration: 5m}}
seeds: [1, 2, 3, 4]
"""


def run() -> list[Measurement]:
    make_ready()
    starts_s = [cost for _, cost in run_all(start_s, range(2), jobs=2, preload=("cli.sweep_cells",))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(SWEEP, encoding="utf-8")
        one, two = (_cells_per_s(file, Path(folder) / f"jobs{jobs}", jobs) for jobs in (1, 2))
    return [
        Measurement(
            "sweep_process_start", max(cost for cost in starts_s if isinstance(cost, float)), "s of processor", 1.0
        ),
        Measurement(
            "sweep_scaling", two / one, "times with a second process", 1.6, higher_is_better=True,
            details={"cells_per_s_1": round(one, 3), "cells_per_s_2": round(two, 3)},
        ),
    ]  # fmt: skip


def start_s(task: int) -> float:
    """Processor time of a process that has all modules from its server and loads the engine from the disk."""
    make_ready()
    return time.process_time()


def _cells_per_s(file: Path, out: Path, jobs: int) -> float:
    began = time.perf_counter()
    found = run_sweep(plan_sweep(file), out, jobs, RankBy.COST)
    return len(found.cells) / (time.perf_counter() - began)
