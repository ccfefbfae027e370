"""The same requests through the compiled engine and through NVIDIA's replay (`ai-dynamo-runtime`), in one run.

Both have 16 workers, round robin, requests of the same arrivals (whole milliseconds) and lengths without common
prefixes, and an engine with continuous batching, chunked prefill, 256 sequences, 2,048 tokens an iteration and a KV
cache of 8,192 blocks of 16. Ours counts each iteration's time by its linear coefficients, theirs by the polynomial that
is built in, slowed so that requests last about as long as ours and batches are alike; the means that came out stand
beside the times. Theirs reads a trace, ours takes arrays; what their own clock says without the reading is told too.

Its own environment has it, for it asks for an older pydantic than Tidegate: `make benchmarks-dynamo`, or any
interpreter that has `ai-dynamo-runtime`, named by TIDEGATE_DYNAMO_PYTHON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.base import Measurement
from benchmarks.bench_engine_reference import PROFILE
from benchmarks.bench_sim_engine import REPLICAS, Workload, draw
from simulator.engine.fleet import EngineFleet, make_ready
from simulator.engine.routing import Routing

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / "build" / "dynamo-venv" / "bin" / "python"
VARIABLE = "TIDEGATE_DYNAMO_PYTHON"
REQUESTS = 20_000
RUNS = 3
TRACE_BLOCK = 512
SPEEDUP = 0.625
"""Of their iterations: with it, requests last about as long in both."""
TARGET = 10.0
TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Side:
    """The least of several runs' times, and what came out."""

    cpu_s: float
    wall_s: float
    mean_ttft_ms: float
    mean_e2e_ms: float
    output_tokens: int
    own_wall_s: float | None = None


def run() -> list[Measurement]:
    python = interpreter()
    if python is None:
        print(
            "sim_vs_dynamo: NVIDIA's replay is not installed; `make benchmarks-dynamo` installs ai-dynamo-runtime into "
            f"build/dynamo-venv, or name an interpreter that has it by {VARIABLE}",
            file=sys.stderr,
        )
        return []
    make_ready()
    load = whole_milliseconds(draw(REPLICAS, REQUESTS))
    theirs, ours = replay_theirs(python, load), replay_ours(load)
    assert ours.output_tokens == theirs.output_tokens
    details = {
        "requests": REQUESTS,
        "replicas": REPLICAS,
        "cpu_requests_per_s": round(REQUESTS / ours.cpu_s),
        "dynamo_cpu_requests_per_s": round(REQUESTS / theirs.cpu_s),
        "wall_ratio": round(theirs.wall_s / ours.wall_s, 1),
        "dynamo_own_wall_requests_per_s": round(REQUESTS / (theirs.own_wall_s or theirs.wall_s)),
        "mean_ttft_ms": round(ours.mean_ttft_ms, 1),
        "dynamo_mean_ttft_ms": round(theirs.mean_ttft_ms, 1),
        "mean_e2e_ms": round(ours.mean_e2e_ms),
        "dynamo_mean_e2e_ms": round(theirs.mean_e2e_ms),
    }
    ratio = round(theirs.cpu_s / ours.cpu_s, 1)
    return [Measurement("sim_vs_dynamo", ratio, "times their processor time", TARGET, True, details)]


def interpreter() -> Path | None:
    """The one that the environment names, else the one that `make benchmarks-dynamo` made; None if there is none."""
    named = os.environ.get(VARIABLE)
    python = Path(named) if named else ENVIRONMENT
    if not python.exists():
        return None
    answer = subprocess.run([python, "-c", "from dynamo import _core"], capture_output=True, timeout=60, check=False)
    return python if answer.returncode == 0 else None


def whole_milliseconds(load: Workload) -> Workload:
    return Workload(np.round(load.arrivals, 3), load.prompts, load.outputs)


def replay_ours(load: Workload) -> Side:
    times, latencies, first_tokens = [], np.zeros(REQUESTS), np.zeros(REQUESTS)
    for _ in range(2 * RUNS):
        fleet = EngineFleet()
        fleet.route(0, [fleet.start(PROFILE) for _ in range(REPLICAS)], Routing.ROUND_ROBIN)
        cpu, wall = time.process_time(), time.perf_counter()
        fleet.submit(load.arrivals, load.prompts, load.outputs, np.arange(REQUESTS))
        fleet.run_until(math.inf)
        done, first = fleet.take_completions(), fleet.take_first_tokens()
        latencies[done.request] = done.at - done.arrival_at
        first_tokens[first.request] = first.at
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_s, wall_s = least(times)
    assert np.all(latencies > 0)
    mean_ttft_s = float((first_tokens - load.arrivals).mean())
    return Side(cpu_s, wall_s, 1000 * mean_ttft_s, 1000 * float(latencies.mean()), int(load.outputs.sum()))


def replay_theirs(python: Path, load: Workload) -> Side:
    engine = {
        "backend": "vllm",
        "num_gpu_blocks": PROFILE.num_blocks,
        "block_size": PROFILE.block_size,
        "max_num_seqs": PROFILE.max_num_seqs,
        "max_num_batched_tokens": PROFILE.max_num_batched_tokens,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": True,
        "speedup_ratio": SPEEDUP,
    }
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        write_trace(trace, load)
        question = {
            "trace": str(trace), "engine": engine, "workers": REPLICAS, "runs": RUNS, "trace_block_size": TRACE_BLOCK,
        }  # fmt: skip
        answer = ask(python, question)
    summary = answer["summary"]
    assert summary["completed_requests"] == REQUESTS, summary
    cpu_s, wall_s = least(answer["times"])
    return Side(
        cpu_s,
        wall_s,
        summary["mean_ttft_ms"],
        summary["mean_e2e_latency_ms"],
        int(summary["total_output_tokens"]),
        summary["wall_time_ms"] / 1000,
    )


def ask(python: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    script = Path(__file__).with_name("dynamo_replay.py")
    done = subprocess.run(
        [python, script], input=json.dumps(question), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"NVIDIA's replay failed ({python}): {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return answer


def write_trace(path: Path, load: Workload) -> None:
    """Mooncake's format, in which equal hashes are a common prefix: here every block has a hash of its own."""
    blocks = 0
    with path.open("w", encoding="utf-8") as file:
        for at, prompt, output in zip(load.arrivals, load.prompts, load.outputs, strict=True):
            own = -(-int(prompt) // TRACE_BLOCK)
            row = {
                "timestamp": round(1000 * at), "input_length": int(prompt), "output_length": int(output),
                "hash_ids": list(range(blocks, blocks + own)),
            }  # fmt: skip
            blocks += own
            file.write(json.dumps(row) + "\n")


def least(times: list[tuple[float, float]] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """The least processor and the least wall-clock time: what the work takes on a machine that does nothing else."""
    cpu, wall = zip(*times, strict=True)
    return min(cpu), min(wall)
