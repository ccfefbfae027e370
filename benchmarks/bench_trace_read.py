"""Reading traces: rows per second of each format, and memory that does not grow with the file."""

from __future__ import annotations

import gzip
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from benchmarks.base import Measurement
from traces.generate import generate
from traces.profiles import load_profile
from traces.rates import RateCurve
from traces.readers import open_trace
from traces.schema import TraceRequest

ROWS = 200_000
MEMORY_ROWS = 50_000
"""Memory is traced on a file of these and on one four times as long; tracing slows reading tenfold."""

ROWS_PER_S_TARGET = 50_000.0
"""An hour of 100 requests a second is read in under ten seconds."""

MEMORY_MB_TARGET = 16.0
GROWTH_TARGET = 1.05


def requests(rows: int) -> Iterator[TraceRequest]:
    curve = RateCurve((0.0, float(rows)), (1.1, 1.1))
    return islice(generate(load_profile("azure2023_conv"), curve, seed=1), rows)


def burstgpt(rows: int) -> Iterator[str]:
    yield "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    for number, r in enumerate(requests(rows)):
        total = r.prompt_tokens + r.output_tokens
        yield f"{r.arrival_s:.0f},s{number // 4},9,GPT-4,{r.prompt_tokens},{r.output_tokens},{total},API log\n"


def azure(rows: int) -> Iterator[str]:
    start = datetime(2024, 5, 10, tzinfo=UTC)
    yield "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    for r in requests(rows):
        at = start + timedelta(seconds=r.arrival_s)
        yield f"{at:%Y-%m-%d %H:%M:%S.%f}0,{r.prompt_tokens},{r.output_tokens}\n"


def mooncake(rows: int) -> Iterator[str]:
    for r in requests(rows):
        blocks = list(range(r.prompt_tokens // 512 + 1))
        yield (
            f'{{"timestamp": {r.arrival_s * 1000:.0f}, "input_length": {r.prompt_tokens}, '
            f'"output_length": {r.output_tokens}, "hash_ids": {blocks}}}\n'
        )


FORMATS: dict[str, Callable[[int], Iterator[str]]] = {"burstgpt": burstgpt, "azure": azure, "mooncake": mooncake}


def written(folder: Path, lines: Iterator[str], *, compressed: bool = False) -> Path:
    path = folder / "trace"
    with gzip.open(path, "wt") if compressed else path.open("w") as file:
        file.writelines(lines)
    return path


def rows_per_s(path: Path) -> float:
    began = time.perf_counter()
    count = sum(1 for _ in open_trace(path))
    return count / (time.perf_counter() - began)


def peak_mb(path: Path) -> float:
    tracemalloc.start()
    try:
        for _ in open_trace(path):
            pass
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def run() -> list[Measurement]:
    measurements = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, lines in FORMATS.items():
            for compressed in (False, True):
                speed = rows_per_s(written(folder, lines(ROWS), compressed=compressed))
                figure = f"trace_read_{label}{'_gz' if compressed else ''}"
                measurements.append(
                    Measurement(figure, round(speed), "rows/s", ROWS_PER_S_TARGET, True, {"rows": ROWS})
                )
        peak_mb(written(folder, azure(MEMORY_ROWS)))  # caches of the first pass are not the trace's memory
        short, long = (peak_mb(written(folder, azure(rows))) for rows in (MEMORY_ROWS, 4 * MEMORY_ROWS))
        details = {"rows": 4 * MEMORY_ROWS, "short_rows": MEMORY_ROWS, "short_mb": round(short, 3)}
        measurements.append(Measurement("trace_read_memory", round(long, 3), "MB", MEMORY_MB_TARGET, False, details))
        measurements.append(
            Measurement("trace_read_memory_growth", round(long / short, 4), "ratio", GROWTH_TARGET, False, details)
        )
    return measurements
