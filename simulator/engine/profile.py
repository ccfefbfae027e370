"""How fast and how large one engine is: the coefficients of its iteration time, its limits, its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One engine (one replica), as a model of its time and memory.

    An iteration that computes P prompt tokens and decodes D sequences with K tokens in the KV cache lasts
    ``base_s + s_per_prefill_token * P + s_per_decode_sequence * D + s_per_kv_token * K`` seconds; K counts the
    decoding sequences' tokens at the iteration's start. A sequence holds whole blocks of ``block_size`` tokens.
    ``front_end_s`` is the time the API server spends on each request, one after the other, before the scheduler sees
    it, and ``front_end_s_per_token`` the time it spends on each token that it streams, which requests wait for too.
    ``wakeup_latency_s`` passes before the first iteration of an engine that had nothing to do. vLLM's engine sleeps on
    its queue then (vllm-project/vllm#43702): its thread has to be scheduled again, on a core that may have lowered its
    clock and whose caches are cold, and the worker threads with it. Which of these takes how long is not known; they
    are one delay, the same after short idleness and long, and 0 where nobody measured it.
    ``load_time_s`` is the cold start, process start to first request. ``provenance`` says where the numbers come from
    and what they are good for.

    Raises ``ValueError`` if no engine can have these numbers.
    """

    name: str
    base_s: float
    s_per_prefill_token: float
    s_per_decode_sequence: float
    s_per_kv_token: float
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    load_time_s: float
    front_end_s: float
    provenance: str
    front_end_s_per_token: float = 0.0
    wakeup_latency_s: float = 0.0

    def __post_init__(self) -> None:
        counts = (self.max_num_seqs, self.max_num_batched_tokens, self.block_size, self.num_blocks)
        if min(counts) < 1:
            raise ValueError("max_num_seqs, max_num_batched_tokens, block_size and num_blocks are at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) is less than max_num_seqs "
                f"({self.max_num_seqs}): a full batch could not decode; raise the first or lower the second"
            )
        if self.base_s < 1e-9:
            raise ValueError("base_s is at least 1e-9 s: an iteration takes time")
        costs = (self.s_per_prefill_token, self.s_per_decode_sequence, self.s_per_kv_token)
        delays = (self.front_end_s, self.front_end_s_per_token, self.wakeup_latency_s, self.load_time_s)
        if min(*costs, *delays) < 0:
            raise ValueError("times are not negative")

    @property
    def kv_capacity_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def blocks_for(self, tokens: int) -> int:
        """Whole blocks that hold ``tokens`` tokens."""
        return -(-tokens // self.block_size)


def capacity_rps(profile: EngineProfile, prompt_tokens: float, output_tokens: float) -> float:
    """Requests per second that one replica can finish, for ever, at these mean lengths (nothing cached).

    With N sequences always running, each takes one iteration to prefill and ``output - 1`` to decode, so N / output
    requests finish per iteration, which computes ``prompt * N / output`` prompt tokens, decodes
    ``N * (output - 1) / output`` sequences and reads their KV tokens (on average the prompt and half the output).
    N is the least of ``max_num_seqs``, what the token budget carries, and what the KV cache holds (with half a block
    lost to each sequence). The front end has its own limit, by requests and tokens. Preemptions are left out: where the
    cache is the limit, the true capacity is somewhat lower. Raises ``ValueError`` for lengths below one token.
    """
    if prompt_tokens < 1 or output_tokens < 1:
        raise ValueError("a request has at least one prompt token and one output token")
    mean_context = prompt_tokens + output_tokens / 2
    sequences = min(
        profile.max_num_seqs,
        profile.max_num_batched_tokens * output_tokens / (prompt_tokens + output_tokens - 1),
        profile.kv_capacity_tokens / (mean_context + profile.block_size / 2),
    )
    finished = sequences / output_tokens
    decoding = sequences - finished
    iteration_s = (
        profile.base_s
        + profile.s_per_prefill_token * prompt_tokens * finished
        + profile.s_per_decode_sequence * decoding
        + profile.s_per_kv_token * decoding * mean_context
    )
    rate = finished / iteration_s
    front_end_s = profile.front_end_s + output_tokens * profile.front_end_s_per_token
    return min(rate, 1 / front_end_s) if front_end_s else rate
