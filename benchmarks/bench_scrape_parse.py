"""Reading one 52 KB page of vLLM metrics."""

from __future__ import annotations

import os
import timeit
from pathlib import Path

from benchmarks.base import Measurement
from signals.ingest.vllm_metrics import METRIC_NAMES, parse_metrics

TARGET_US = 200.0
_SHARED = Path(os.environ.get("TIDEGATE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
_BUCKETS = {"queue_time": 22, "time_to_first_token": 23, "inter_token_latency": 20}
_OTHER_FAMILIES = 42


def run() -> list[Measurement]:
    dump = _SHARED / "vllm" / "metrics_v0.32.0.txt"
    page = dump.read_bytes() if dump.exists() else generated_page()
    rounds = timeit.repeat(lambda: parse_metrics(page, "tiny", "tiny-0-g1", 0.0, 0.0), number=200, repeat=15)
    best_us = min(rounds) / 200 * 1e6
    details = {
        "page_bytes": len(page),
        "page": "recorded" if dump.exists() else "generated",
        "median_us": round(sorted(rounds)[len(rounds) // 2] / 200 * 1e6, 1),
    }
    return [Measurement("scrape_parse", round(best_us, 1), "us", TARGET_US, details=details)]


def generated_page() -> bytes:
    """A page of a real one's size and shape: the needed families among as many that nobody needs."""
    families = []
    for field, names in METRIC_NAMES.items():
        families.append(_family(names[0].name, _BUCKETS.get(field, 0)))
        families += [_family(f"vllm:other_{field}_{index}", 16 if index == 0 else 0) for index in range(3)]
    families += [_family(f"vllm:another_{index}_seconds", 12) for index in range(_OTHER_FAMILIES // 3)]
    return "".join(families).encode()


def _family(name: str, buckets: int) -> str:
    head = f"# HELP {name} What an engine says of itself, in a line as long as most.\n# TYPE {name} gauge\n"
    labels = 'engine="0",model_name="tiny"'
    if not buckets:
        return head + f"{name}{{{labels}}} 3.0\n"
    bounds = [f"{0.001 * 1.7**index:.4g}" for index in range(buckets - 1)] + ["+Inf"]
    lines = [f'{name}_bucket{{engine="0",le="{bound}",model_name="tiny"}} {i}.0\n' for i, bound in enumerate(bounds)]
    return head + "".join(lines) + f"{name}_count{{{labels}}} 9.0\n{name}_sum{{{labels}}} 12.5\n"
