"""A live replica's history: its ``/metrics`` page at many times, and each request as its client saw it.

The request log is JSON lines, gzip-compressed or not: the first may tell the set-up (``server``: the command line,
``phases``: pairs of seconds and requests per second), each other one is a request with ``arrival_s``,
``first_token_s``, ``end_s`` (seconds on one clock), ``prompt_tokens``, ``completion_tokens`` and ``status``. The
metrics history is JSON lines ``{"t": seconds, "text": [the page's lines]}`` on the same clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from broker.model.errors import ConfigError, WireError
from broker.model.signals import MetricSample
from signals.ingest.vllm_metrics import CacheConfig, parse_cache_config, parse_metrics
from simulator.calibration.fit import Load
from simulator.calibration.replay import Gauges, Times
from simulator.calibration.rows import refused_with
from simulator.engine.requests import EngineRequest


class _RequestIn(BaseModel):
    arrival_s: float
    first_token_s: float | None = None
    end_s: float | None = None
    status: int = 200
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of constant load."""

    name: str
    start_s: float
    end_s: float
    rate_per_s: float


@dataclass(frozen=True, slots=True)
class RequestLog:
    """Requests in order of arrival, with their measured times; ``limits`` and ``phases`` as the first line tells."""

    requests: tuple[EngineRequest, ...]
    times: Times
    phases: tuple[Phase, ...]
    limits: dict[str, int]
    failed: int

    def until(self, end_s: float, name: str) -> Load:
        """The load of the requests that arrived before ``end_s``."""
        count = int(np.searchsorted(self.times.arrival, end_s))
        times = self.times
        return Load(
            name,
            self.requests[:count],
            measured=Times(
                times.arrival[:count], times.first_token[:count], times.end[:count], times.output_tokens[:count]
            ),
            limits=self.limits,
        )


def looks_like_requests(first: dict[str, Any]) -> bool:
    return "phases" in first or "arrival_s" in first


def looks_like_metrics(first: dict[str, Any]) -> bool:
    return {"t", "text"} <= first.keys()


def read_requests(path: Path, text: str) -> RequestLog:
    """Raises ``ConfigError`` with the line of what is wrong. Requests that failed are left out and counted."""
    rows: list[_RequestIn] = []
    head: dict[str, Any] = {}
    failed = 0
    for number, data in _lines(path, text):
        if "arrival_s" not in data:
            head |= data
            continue
        with refused_with(path, number):
            row = _RequestIn.model_validate(data)
            if row.status != 200 or row.first_token_s is None or row.end_s is None or row.completion_tokens < 1:
                failed += 1
                continue
            if not row.arrival_s <= row.first_token_s <= row.end_s:
                raise ValueError("a request arrives, gets its first token and ends in this order")
            EngineRequest("", row.arrival_s, row.prompt_tokens, row.completion_tokens, row.cached_tokens)
            rows.append(row)
    if not rows:
        raise ConfigError("holds no request that succeeded", path=str(path))
    rows.sort(key=lambda row: row.arrival_s)
    requests = tuple(
        EngineRequest(str(index), row.arrival_s, row.prompt_tokens, row.completion_tokens, row.cached_tokens)
        for index, row in enumerate(rows)
    )
    columns = np.array([[row.arrival_s, row.first_token_s, row.end_s, row.completion_tokens] for row in rows])
    return RequestLog(requests, Times(*columns.T), _phases(head), _limits(head), failed)


def read_metrics_history(path: Path, text: str) -> tuple[tuple[MetricSample, ...], CacheConfig | None]:
    """The pages in order of time, and the cache's size if any page told it. Raises ``ConfigError`` with the line."""
    samples, cache = [], None
    for number, data in _lines(path, text):
        try:
            at, page = float(data["t"]), "\n".join(data["text"])
            samples.append(parse_metrics(page, "", "", at, at))
            cache = cache or parse_cache_config(page)
        except (KeyError, TypeError, ValueError, WireError) as error:
            raise ConfigError(f"is no metrics page with its time: {error}", path=str(path), line=number) from None
    return tuple(sorted(samples, key=lambda sample: sample.observed_at)), cache


def total_of(page: Sequence[str], name: str) -> float:
    """A counter of one page by its full name, over all its sets of labels; 0 where the page lacks it."""
    return sum(float(line.rpartition(" ")[2]) for line in page if line.startswith((f"{name}{{", f"{name} ")))


def gauges_of(samples: Sequence[MetricSample]) -> Gauges:
    """What the replica's gauges showed; NaN where a page lacks one."""
    rows = [
        (sample.observed_at, sample.requests_running, sample.requests_waiting, sample.kv_cache_use)
        for sample in samples
    ]
    return Gauges(*np.array(rows, dtype=np.float64).reshape(len(rows), 4).T)


def _lines(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"is not JSON: {error}", path=str(path), line=number) from None
        if not isinstance(data, dict):
            raise ConfigError("is no JSON object", path=str(path), line=number)
        found.append((number, data))
    return found


def _phases(head: dict[str, Any]) -> tuple[Phase, ...]:
    phases, start = [], 0.0
    for number, (length_s, rate) in enumerate(head.get("phases", ()), 1):
        phases.append(Phase(f"{number}: {rate:g}/s", start, start + length_s, float(rate)))
        start += length_s
    return tuple(phases)


_OPTIONS = {
    "max_num_seqs": r"--max-num-seqs[= ](\d+)",
    "max_num_batched_tokens": r"--max-num-batched-tokens[= ](\d+)",
    "num_blocks": r"--num-gpu-blocks-override[= ](\d+)",
    "block_size": r"--block-size[= ](\d+)",
}


def _limits(head: dict[str, Any]) -> dict[str, int]:
    """What the server's command line says. vLLM keeps one block for itself (its null block), and its gauge counts
    without it: the recorded shares of 24 blocks are 23rds."""
    found = {name: re.search(pattern, str(head.get("server", ""))) for name, pattern in _OPTIONS.items()}
    limits = {name: int(match[1]) for name, match in found.items() if match is not None}
    if "num_blocks" in limits:
        limits["num_blocks"] -= 1
    return limits
