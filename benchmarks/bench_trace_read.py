"""Traces: rows read, scaled and generated per second of CPU, and memory that does not grow with the file."""

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
from traces.options import ScaleMethod
from traces.profiles import load_profile
from traces.rates import steady
from traces.readers import open_trace
from traces.schema import Requests, TraceRequest
from traces.shape import scale_rate

ROWS = 1_000_000
JSON_ROWS = 100_000
MEMORY_ROWS = 250_000
"""Memory is traced on a file of these and on one four times as long; tracing slows reading."""

COLUMNS_TARGET = 1_000_000.0
"""The engine kernel simulates a million requests a second; neither reading nor making them may take longer."""

ROWS_TARGET = 100_000.0
JSON_TARGET = 50_000.0
MADE_TARGET = 1_000_000.0
MEMORY_MB_TARGET = 24.0
GROWTH_TARGET = 1.05


def requests(rows: int) -> Iterator[TraceRequest]:
    return islice(generate(load_profile("azure2023_conv"), steady(1.1, float(rows)), seed=1), rows)


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


FORMATS: dict[str, tuple[Callable[[int], Iterator[str]], int, float]] = {
    "burstgpt": (burstgpt, ROWS, COLUMNS_TARGET),
    "azure": (azure, ROWS, COLUMNS_TARGET),
    "mooncake": (mooncake, JSON_ROWS, JSON_TARGET),
}


def written(folder: Path, lines: Iterator[str], *, compressed: bool = False) -> Path:
    path = folder / "trace"
    with gzip.open(path, "wt", compresslevel=6) if compressed else path.open("w") as file:
        file.writelines(lines)
    return path


def per_s(count: Callable[[], int]) -> float:
    """What ``count`` counts, per second of CPU."""
    began = time.process_time()
    counted = count()
    return counted / (time.process_time() - began)


def in_blocks(made: Requests) -> int:
    return sum(len(block) for block in made.blocks())


def peak_mb(path: Path) -> float:
    tracemalloc.start()
    try:
        in_blocks(open_trace(path))
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def reading(folder: Path) -> Iterator[Measurement]:
    for label, (lines, rows, target) in FORMATS.items():
        for compressed in (False, True):
            path = written(folder, lines(rows), compressed=compressed)
            speed = per_s(lambda path=path: in_blocks(open_trace(path)))  # type: ignore[misc]
            figure = f"trace_read_{label}{'_gz' if compressed else ''}"
            yield Measurement(figure, round(speed), "rows/s", target, True, {"rows": rows})
            if label == "burstgpt" and not compressed:
                speed = per_s(lambda path=path: sum(1 for _ in open_trace(path)))  # type: ignore[misc]
                yield Measurement("trace_read_one_by_one", round(speed), "rows/s", ROWS_TARGET, True, {"rows": rows})


def memory(folder: Path) -> Iterator[Measurement]:
    peak_mb(written(folder, burstgpt(MEMORY_ROWS)))  # caches of the first pass are not the trace's memory
    short, long = (peak_mb(written(folder, burstgpt(rows))) for rows in (MEMORY_ROWS, 4 * MEMORY_ROWS))
    details = {"rows": 4 * MEMORY_ROWS, "short_rows": MEMORY_ROWS, "short_mb": round(short, 3)}
    yield Measurement("trace_read_memory", round(long, 3), "MB", MEMORY_MB_TARGET, False, details)
    yield Measurement("trace_read_memory_growth", round(long / short, 4), "ratio", GROWTH_TARGET, False, details)


def making() -> Iterator[Measurement]:
    curve = steady(1000.0, 2000.0)
    for name in ("azure2023_conv", "mooncake_conv"):
        speed = per_s(lambda name=name: in_blocks(generate(load_profile(name), curve, seed=1)))  # type: ignore[misc]
        yield Measurement(f"trace_generate_{name}", round(speed), "requests/s", MADE_TARGET, True)
    source = generate(load_profile("azure2023_conv"), steady(100.0, 5000.0), seed=1)
    for method in ScaleMethod:
        speed = per_s(lambda method=method: in_blocks(scale_rate(source, 4.0, 1, method)))  # type: ignore[misc]
        yield Measurement(f"trace_scale_{method}", round(speed), "requests/s", MADE_TARGET, True, {"factor": 4})


def run() -> list[Measurement]:
    with tempfile.TemporaryDirectory() as name:
        return [*reading(Path(name)), *memory(Path(name)), *making()]
