"""The metrics of a vLLM 0.32.0 server: its names, types, labels and buckets, with live values where they matter.

What the engine model has no notion of (FLOPs, external caches, multi-modal input) stays at zero, as on a server that
does not use it. HELP lines are left out; the format does not require them.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.prometheus_text import Labels
from simulator.emulator.metrics import Histogram, Scalar
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import Engine, Finished, Iteration

LATENCY_BOUNDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_LATENCY_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
ITERATION_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


def one_two_five(limit: int) -> list[float]:
    """1, 2, 5, 10, 20, 50, ... up to ``limit``: vLLM's buckets for numbers of tokens, by the model's length."""
    bounds: list[float] = []
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power > limit:
                return bounds
            bounds.append(float(digit * power))
        power *= 10


class VllmMetrics:
    """All ``vllm:`` families of one engine. ``created_at`` is the engine's start in epoch seconds."""

    def __init__(self, model_name: str, max_model_len: int, profile: EngineProfile, created_at: float) -> None:
        self._labels = {"engine": "0", "model_name": model_name}
        self._created_at = created_at
        self._families: list[Scalar | Histogram] = []
        for name in ("estimated_flops_per_gpu", "estimated_read_bytes_per_gpu", "estimated_write_bytes_per_gpu"):
            self._counter(name)
        self._running = self._gauge("num_requests_running")
        self._waiting = self._gauge("num_requests_waiting")
        self._waiting_by_reason = self._gauge("num_requests_waiting_by_reason", "reason", ("capacity", "deferred"))
        sleep = self._gauge("engine_sleep_state", "sleep_state", ("awake", "weights_offloaded", "discard_all"))
        sleep.values[0] = 1.0
        self._kv_use = self._gauge("kv_cache_usage_perc")
        self._cache_queries = self._counter("prefix_cache_queries")
        self._cache_hits = self._counter("prefix_cache_hits")
        for name in ("external_prefix_cache_queries", "external_prefix_cache_hits"):
            self._counter(name)
        for name in ("mm_cache_queries", "mm_cache_hits"):
            self._counter(name)
        self._preemptions = self._counter("num_preemptions")
        self._prompt_tokens = self._counter("prompt_tokens")
        self._prompt_tokens_by_source = self._counter(
            "prompt_tokens_by_source", "source", ("local_compute", "local_cache_hit", "external_kv_transfer")
        )
        self._cached_tokens = self._counter("prompt_tokens_cached")
        self._cached_tokens_by_source = self._counter(
            "prompt_tokens_cached_by_source", "source", ("device", "host", "p2p", "disk", "external_unspecified")
        )
        self._generation_tokens = self._counter("generation_tokens")
        self._success = self._counter("request_success", "finished_reason", FINISH_REASONS)
        self._add_admission_rejections(model_name)
        self._add_histograms(one_two_five(max_model_len))
        self._add_cache_config(max_model_len, profile)

    def _add_admission_rejections(self, model_name: str) -> None:
        reasons = ("max_num_queued_reqs", "max_num_queued_tokens")
        series = [{"model_name": model_name, "reason": reason} for reason in reasons]
        self._families.append(Scalar("vllm:admission_rejections_total", "counter", series, self._created_at))

    def _add_histograms(self, token_bounds: Sequence[float]) -> None:
        self._request_prompt_tokens = self._histogram("request_prompt_tokens", token_bounds)
        self._request_generation_tokens = self._histogram("request_generation_tokens", token_bounds)
        self._iteration_tokens = self._histogram("iteration_tokens_total", ITERATION_BOUNDS)
        self._request_max_generation = self._histogram("request_max_num_generation_tokens", token_bounds)
        self._request_n = self._histogram("request_params_n", (1, 2, 5, 10, 20))
        self._request_max_tokens = self._histogram("request_params_max_tokens", token_bounds)
        self._first_token = self._histogram("time_to_first_token_seconds", FIRST_TOKEN_BOUNDS)
        self._inter_token = self._histogram("inter_token_latency_seconds", TOKEN_LATENCY_BOUNDS)
        self._per_output_token = self._histogram("request_time_per_output_token_seconds", TOKEN_LATENCY_BOUNDS)
        self._end_to_end = self._histogram("e2e_request_latency_seconds", LATENCY_BOUNDS)
        self._queue_time = self._histogram("request_queue_time_seconds", LATENCY_BOUNDS)
        self._inference_time = self._histogram("request_inference_time_seconds", LATENCY_BOUNDS)
        self._prefill_time = self._histogram("request_prefill_time_seconds", LATENCY_BOUNDS)
        self._decode_time = self._histogram("request_decode_time_seconds", LATENCY_BOUNDS)
        self._request_preemptions = self._histogram("request_num_preemptions", (1, 2, 3, 4, 5, 10, 20))
        self._prefill_computed = self._histogram("request_prefill_kv_computed_tokens", token_bounds)

    def _add_cache_config(self, max_model_len: int, profile: EngineProfile) -> None:
        """No ``model_name`` here, as on the real server."""
        live = {
            "block_size": profile.block_size,
            "effective_attention_block_size": profile.block_size,
            "kv_cache_max_concurrency": profile.kv_capacity_tokens / max_model_len,
            "kv_cache_size_tokens": profile.kv_capacity_tokens,
            "num_gpu_blocks": profile.num_blocks,
        }
        labels = {**_CACHE_CONFIG, **{name: str(value) for name, value in live.items()}, "engine": "0"}
        info = Scalar("vllm:cache_config_info", "gauge", [labels])
        info.values[0] = 1.0
        self._families.append(info)

    def _series(self, label: str, values: Sequence[str]) -> list[Labels]:
        return [{**self._labels, label: value} for value in values] if label else [self._labels]

    def _gauge(self, name: str, label: str = "", values: Sequence[str] = ()) -> Scalar:
        family = Scalar(f"vllm:{name}", "gauge", self._series(label, values))
        self._families.append(family)
        return family

    def _counter(self, name: str, label: str = "", values: Sequence[str] = ()) -> Scalar:
        family = Scalar(f"vllm:{name}_total", "counter", self._series(label, values), self._created_at)
        self._families.append(family)
        return family

    def _histogram(self, name: str, bounds: Sequence[float]) -> Histogram:
        family = Histogram(f"vllm:{name}", bounds, self._labels, self._created_at)
        self._families.append(family)
        return family

    def observe_iteration(self, iteration: Iteration) -> None:
        tokens = iteration.prefill_tokens + len(iteration.emitted)
        if tokens:
            self._iteration_tokens.observe(tokens)

    def observe_first_token(self, since_arrival_s: float) -> None:
        self._first_token.observe(since_arrival_s)

    def observe_inter_token(self, gap_s: float) -> None:
        self._inter_token.observe(gap_s)

    def observe_finished(
        self, event: Finished, *, arrival_at: float, prompt_tokens: int, cached_tokens: int, output_tokens: int,
        max_tokens: int, reason: str,
    ) -> None:  # fmt: skip
        """A request that came to its end by itself; only now does vLLM observe its queue time."""
        decode_s = event.at - event.first_token_at
        self._success.values[FINISH_REASONS.index(reason)] += 1
        self._request_prompt_tokens.observe(prompt_tokens)
        self._request_generation_tokens.observe(output_tokens)
        self._request_max_generation.observe(output_tokens)
        self._request_n.observe(1)
        self._request_max_tokens.observe(max_tokens)
        self._per_output_token.observe(decode_s / (output_tokens - 1) if output_tokens > 1 else 0.0)
        self._end_to_end.observe(event.at - arrival_at)
        self._queue_time.observe(event.first_scheduled_at - event.queued_at)
        self._inference_time.observe(event.at - event.first_scheduled_at)
        self._prefill_time.observe(event.first_token_at - event.first_scheduled_at)
        self._decode_time.observe(decode_s)
        self._request_preemptions.observe(event.preemptions)
        self._prefill_computed.observe(prompt_tokens - cached_tokens)

    def count_aborted(self) -> None:
        """An abort by the server itself; a client's disconnect is not counted, as on the real one."""
        self._success.values[FINISH_REASONS.index("abort")] += 1

    def text(self, engine: Engine) -> str:
        counters = engine.counters
        self._running.values[0] = engine.running
        self._waiting.values[0] = engine.waiting
        self._waiting_by_reason.values[0] = engine.waiting
        self._kv_use.values[0] = engine.kv_use
        self._cache_queries.values[0] = counters.prompt_tokens
        self._cache_hits.values[0] = counters.cached_tokens
        self._preemptions.values[0] = counters.preemptions
        self._prompt_tokens.values[0] = counters.prompt_tokens
        self._prompt_tokens_by_source.values[:2] = [
            counters.prompt_tokens - counters.cached_tokens,
            counters.cached_tokens,
        ]
        self._cached_tokens.values[0] = counters.cached_tokens
        self._cached_tokens_by_source.values[0] = counters.cached_tokens
        self._generation_tokens.values[0] = counters.generation_tokens
        return "".join(family.text() for family in self._families)


_CACHE_CONFIG = {
    "_block_size_resolved": "True",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "enable_prefix_caching": "True",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_memory_bytes": "None",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "float32",
    "num_cpu_blocks": "None",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}
