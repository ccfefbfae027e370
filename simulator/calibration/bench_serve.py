"""Results of ``vllm bench serve --save-result`` (or ``--append-result``), with or without ``--save-detailed``.

The format is vLLM's own (``vllm/benchmarks/serve.py``): one JSON object for each run, several runs of one file on a
line each. A run names its traffic (``num_prompts``, ``request_rate``, ``burstiness``, ``max_concurrency``), token
totals and, in milliseconds, statistics of TTFT, TPOT, ITL and E2EL. ``--save-detailed`` adds each request's lengths,
time to first token, gaps between tokens, and in newer versions when it was sent.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from broker.model.errors import ConfigError
from simulator.calibration.fit import Figure, Load, Metric, Statistic
from simulator.calibration.replay import Floats, Times
from simulator.calibration.rows import refused_with
from simulator.engine.requests import EngineRequest

SEED = 1


class _Run(BaseModel):
    """What of a run is read; the rest is passed over, as versions differ."""

    model_config = ConfigDict(extra="allow")

    num_prompts: int
    request_rate: float | str
    burstiness: float = 1.0
    max_concurrency: int | None = None
    completed: int
    duration: float
    total_input_tokens: int
    total_output_tokens: int
    output_throughput: float | None = None
    model_id: str | None = None
    input_lens: list[int] | None = None
    output_lens: list[int] | None = None
    ttfts: list[float] | None = None
    itls: list[list[float]] | None = None
    start_times: list[float] | None = None
    errors: list[str] | None = None


def looks_like_bench(first: dict[str, Any]) -> bool:
    """Whether a JSON object is such a result."""
    return {"num_prompts", "request_rate", "total_input_tokens"} <= first.keys()


def read_bench(path: Path, text: str, *, cached_share: float = 0.0) -> list[Load]:
    """The loads of one file. Of each prompt, ``cached_share`` is taken as served from the prefix cache, which the
    format does not tell. Raises ``ConfigError`` with the line of what is wrong."""
    loads = []
    documents = _documents(path, text)
    for number, (line, data) in enumerate(documents, 1):
        name = path.stem if len(documents) == 1 else f"{path.stem}#{number}"
        with refused_with(path, line):
            loads.append(_load(name, _Run.model_validate(data), cached_share))
    return loads


def _documents(path: Path, text: str) -> list[tuple[int, Any]]:
    """Each JSON object with the line on which it begins: one in the whole file, or one after the other."""
    decoder = json.JSONDecoder()
    found: list[tuple[int, Any]] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return found
        line = 1 + text.count("\n", 0, at)
        try:
            data, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"is not JSON: {error}", path=str(path), line=line) from None
        if not isinstance(data, dict) or not looks_like_bench(data):
            raise ConfigError("is no result of `vllm bench serve --save-result`", path=str(path), line=line)
        found.append((line, data))


def _load(name: str, run: _Run, cached_share: float) -> Load:
    if run.completed < 1:
        raise ValueError(f"{name}: no request was completed, so nothing was measured")
    served = _served(run)
    prompts = _lengths(name, "input_lens", run.input_lens, served, run.total_input_tokens)
    outputs = _lengths(name, "output_lens", run.output_lens, served, run.total_output_tokens)
    sent = run.start_times is not None and len(run.start_times) == run.num_prompts
    arrivals = _sent(run, served) if sent else _drawn(run, len(served))
    requests = tuple(
        EngineRequest(str(index), float(at), prompt, output, int(min(prompt * cached_share, prompt - 1)))
        for index, (at, prompt, output) in enumerate(zip(arrivals, prompts, outputs, strict=True))
    )
    measured = _times(run, served, arrivals, outputs) if sent else None
    return Load(
        name,
        requests,
        figures=() if measured is not None else _figures(run),
        measured=measured,
        concurrency=None if sent else run.max_concurrency,
    )


def _served(run: _Run) -> list[int]:
    """Places of the requests that succeeded; a failed one has no output."""
    if run.output_lens is not None and len(run.output_lens) == run.num_prompts:
        return [index for index, length in enumerate(run.output_lens) if length > 0]
    return list(range(run.completed))


def _lengths(name: str, field: str, given: list[int] | None, served: list[int], total: int) -> list[int]:
    """Each request's, or the mean for all where the file has only totals."""
    if given is not None and len(given) > served[-1]:
        return [max(1, given[index]) for index in served]
    mean = total / len(served)
    if mean < 1:
        raise ValueError(f"{name}: {total} tokens ({field}) for {len(served)} requests; each has at least one")
    return [round(mean)] * len(served)


def _sent(run: _Run, served: list[int]) -> Floats:
    assert run.start_times is not None
    times = np.array([run.start_times[index] for index in served], dtype=np.float64)
    since_first: Floats = times - times.min()
    return since_first


def _drawn(run: _Run, count: int) -> Floats:
    """Arrivals as the benchmark draws them: gamma gaps of the given burstiness, or all at once."""
    rate = math.inf if run.request_rate == "inf" else float(run.request_rate)
    if not rate > 0:
        raise ValueError(f"request_rate {run.request_rate} is no rate")
    if math.isinf(rate):
        return np.zeros(count)
    if run.burstiness <= 0:
        raise ValueError(f"burstiness {run.burstiness} is not positive")
    gaps = np.random.default_rng(SEED).gamma(run.burstiness, 1 / (rate * run.burstiness), count)
    arrivals: Floats = np.cumsum(gaps) - gaps[0]
    return arrivals * ((count - 1) / rate / arrivals[-1]) if count > 1 else arrivals


def _times(run: _Run, served: list[int], arrivals: Floats, outputs: list[int]) -> Times | None:
    """Every request's own times, in the order of the requests; None without ``--save-detailed``."""
    if run.ttfts is None or run.itls is None or min(len(run.ttfts), len(run.itls)) <= served[-1]:
        return None
    first_token = arrivals + np.array([run.ttfts[index] for index in served])
    end = first_token + np.array([sum(run.itls[index]) for index in served])
    return Times(arrivals, first_token, end, np.array(outputs, dtype=np.float64))


_NAMES = {
    f"{statistic}_{field}_ms": (metric, statistic)
    for field, metric in (("ttft", Metric.TTFT), ("tpot", Metric.TPOT), ("e2el", Metric.E2E))
    for statistic in Statistic
} | {"mean_itl_ms": (Metric.ITL, Statistic.MEAN)}


def _figures(run: _Run) -> tuple[Figure, ...]:
    """The statistics that the file has; of gaps between single tokens only their mean, as the engine has no jitter."""
    extra = run.model_extra or {}
    found = [
        Figure(metric, statistic, float(extra[name]) / 1000)
        for name, (metric, statistic) in _NAMES.items()
        if isinstance(extra.get(name), int | float) and extra[name] > 0
    ]
    if run.output_throughput:
        found.append(Figure(Metric.OUTPUT_RATE, Statistic.MEAN, run.output_throughput))
    if not found:
        raise ValueError("has no statistics of TTFT, TPOT, ITL or E2EL")
    return tuple(found)
