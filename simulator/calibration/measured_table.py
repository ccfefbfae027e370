"""Tables of measured set-ups, one CSV row each: model, hardware, limits, a constant-rate load, and mean latencies.

Its columns are ``COLUMNS``; others are passed over.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from broker.model.errors import ConfigError
from simulator.calibration.fit import Figure, Load, Metric, Statistic
from simulator.engine.requests import EngineRequest
from simulator.profiles.physics import GPUS, Gpu, ModelShape

REQUESTS = 250
"""Simulated of each load: at a constant rate with equal lengths the times repeat long before."""
BLOCK_SIZE = 16
COLUMNS = (
    "exp_id", "model", "hardware", "tp", "params", "layers", "kv_heads", "head_dim", "max_num_batched_tokens",
    "max_num_seqs", "kv_blocks_of_16", "uncached_prompt_tokens", "cached_prefix_tokens", "output_tokens",
    "request_rate_per_s", "ttft_mean_ms", "itl_mean_ms", "e2e_mean_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SetUp:
    """One row: a model on its hardware, and one load with its mean TTFT, time between tokens and E2E."""

    name: str
    model: ModelShape
    gpu: Gpu
    tensor_parallel: int
    load: Load


def looks_like_table(first_line: str) -> bool:
    """Whether it is a CSV file at all: which of its columns are missing is for ``read_table`` to say."""
    return "," in first_line and not first_line.lstrip().startswith(("{", "["))


def read_table(path: Path, text: str) -> list[SetUp]:
    """Every row. Raises ``ConfigError`` with line and column of what is wrong."""
    rows = csv.DictReader(text.splitlines())
    if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
        raise ConfigError(
            f"is no table of set-ups: it has no column {', '.join(missing)} (of {', '.join(COLUMNS)}); "
            "docs/accuracy.md tells which files can be used",
            path=str(path), line=1,
        )  # fmt: skip
    found = []
    for line, row in enumerate(rows, 2):
        cells = _Row(path, line, row)
        found.append(_set_up(cells))
    if not found:
        raise ConfigError("holds no row", path=str(path))
    return found


class _Row:
    """One row's cells as numbers, with errors that name the cell."""

    def __init__(self, path: Path, line: int, cells: dict[str, str]) -> None:
        self._path, self._line, self._cells = path, line, cells

    def text(self, column: str) -> str:
        value = self._cells.get(column)
        if not value:
            raise self.error(column, "is empty or missing")
        return value

    def number(self, column: str) -> float:
        try:
            value = float(self.text(column))
        except ValueError:
            raise self.error(column, f"{self._cells[column]!r} is no number") from None
        if not 0 < value < float("inf"):
            raise self.error(column, f"{value:g} is not positive")
        return value

    def whole(self, column: str) -> int:
        return round(self.number(column))

    def error(self, column: str, words: str) -> ConfigError:
        return ConfigError(words, path=str(self._path), line=self._line, field=column)


def _set_up(row: _Row) -> SetUp:
    hardware = row.text("hardware")
    gpu = next((gpu for name, gpu in GPUS.items() if name.startswith(hardware)), None)
    if gpu is None:
        raise row.error("hardware", f"no data sheet of {hardware!r}; there are {', '.join(GPUS)}")
    model = ModelShape(
        row.text("model"), row.number("params"), row.whole("layers"), row.whole("kv_heads"), row.whole("head_dim")
    )
    tensor_parallel = row.whole("tp")
    cached = row.whole("cached_prefix_tokens") // BLOCK_SIZE * BLOCK_SIZE  # whole blocks only, as vLLM caches
    prompt = row.whole("uncached_prompt_tokens") + row.whole("cached_prefix_tokens")
    rate, output = row.number("request_rate_per_s"), row.whole("output_tokens")
    load = Load(
        f"{row.text('exp_id')} {model.name.rpartition('/')[2]} TP{tensor_parallel} {rate:g}/s",
        tuple(EngineRequest(str(index), index / rate, prompt, output, cached) for index in range(REQUESTS)),
        figures=(
            Figure(Metric.TTFT, Statistic.MEAN, row.number("ttft_mean_ms") / 1000),
            Figure(Metric.ITL, Statistic.MEAN, row.number("itl_mean_ms") / 1000),
            Figure(Metric.E2E, Statistic.MEAN, row.number("e2e_mean_ms") / 1000),
        ),
        limits={
            "max_num_seqs": row.whole("max_num_seqs"),
            "max_num_batched_tokens": row.whole("max_num_batched_tokens"),
            "num_blocks": row.whole("kv_blocks_of_16"),
            "block_size": BLOCK_SIZE,
        },
    )
    return SetUp(load.name, model, gpu, tensor_parallel, load)
