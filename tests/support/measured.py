"""Measurements that are known to be true: made by an engine whose coefficients the fit must find again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simulator.calibration.fit import Load
from simulator.calibration.replay import Times, replay
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineRequest

TRUE_ENGINE = EngineProfile(
    name="true", base_s=0.012, s_per_prefill_token=40e-6, s_per_decode_sequence=150e-6, s_per_kv_token=0.08e-6,
    max_num_seqs=64, max_num_batched_tokens=2048, block_size=16, num_blocks=20_000, load_time_s=0.0,
    front_end_s=0.004, provenance="chosen for tests",
)  # fmt: skip
BLANK = replace(
    TRUE_ENGINE, base_s=0.001, s_per_prefill_token=0.0, s_per_decode_sequence=0.0, s_per_kv_token=0.0, front_end_s=0.0
)


def poisson_requests(rate_per_s: float, count: int, *, seed: int = 1, cached_share: float = 0.0) -> list[EngineRequest]:
    """Independent arrivals with widely spread lengths."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate_per_s, count))
    prompts = random.integers(20, 1500, count).tolist()
    outputs = random.integers(5, 300, count).tolist()
    return [
        EngineRequest(str(index), float(at), prompt, output, int(prompt * cached_share))
        for index, (at, prompt, output) in enumerate(zip(arrivals, prompts, outputs, strict=True))
    ]


def measured_load(requests: Sequence[EngineRequest], name: str = "measured") -> Load:
    """The requests with the times that the true engine gives each."""
    return Load(name, tuple(requests), measured=replay(TRUE_ENGINE, requests)[0])


def bench_result(requests: Sequence[EngineRequest], times: Times, **changes: Any) -> dict[str, Any]:
    """What ``vllm bench serve --save-result --save-detailed`` would have written of these times."""
    result: dict[str, Any] = {
        "model_id": "true-model", "num_prompts": len(requests), "request_rate": 5.0, "burstiness": 1.0,
        "max_concurrency": None, "completed": len(requests), "duration": float(times.end.max() - times.arrival.min()),
        "total_input_tokens": sum(request.prompt_tokens for request in requests),
        "total_output_tokens": sum(request.output_tokens for request in requests),
        "output_throughput": float(times.output_tokens.sum() / (times.end.max() - times.arrival.min())),
        "input_lens": [request.prompt_tokens for request in requests],
        "output_lens": [request.output_tokens for request in requests],
        "ttfts": times.ttft.tolist(),
        "itls": [
            [gap] * (request.output_tokens - 1) if request.output_tokens > 1 else []
            for request, gap in zip(requests, times.tpot.tolist(), strict=True)
        ],
        "start_times": (1000.0 + times.arrival).tolist(),
    }  # fmt: skip
    for name, values in (("ttft", times.ttft), ("tpot", times.tpot), ("e2el", times.e2e)):
        result[f"mean_{name}_ms"] = 1000 * float(np.nanmean(values))
        result[f"median_{name}_ms"] = 1000 * float(np.nanmedian(values))
        result[f"p99_{name}_ms"] = 1000 * float(np.nanpercentile(values, 99))
    return result | changes


DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times")


def request_log(requests: Sequence[EngineRequest], times: Times, server: str = "--max-num-seqs 64") -> str:
    """A request log as JSON lines."""
    lines = [json.dumps({"phases": [[60, 5.0]], "server": server})]
    rows = zip(requests, times.arrival, times.first_token, times.end, strict=True)
    for request, arrival, first_token, end in rows:
        lines.append(json.dumps({
            "arrival_s": float(arrival), "first_token_s": float(first_token), "end_s": float(end), "status": 200,
            "prompt_tokens": request.prompt_tokens, "completion_tokens": request.output_tokens,
        }))  # fmt: skip
    return "\n".join(lines)
