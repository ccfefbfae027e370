"""What physics alone says of an engine: no iteration can be faster than reading the weights once, no prompt token
cheaper than its floating-point operations, no cached token cheaper than reading its keys and values.

A profile made here is a floor: real engines were measured at 1.1 to 1.7 times it. It serves where nothing was measured,
and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.profiles.profile import LoadTime, Method, Profile, Value


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU by its maker's data sheet: dense 16-bit throughput (no sparsity), memory and its bandwidth."""

    name: str
    flops: float
    bytes_per_s: float
    memory_bytes: float
    default_max_num_seqs: int
    default_max_num_batched_tokens: int


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100 SXM", 989e12, 3.35e12, 80e9, 1024, 8192),
        Gpu("H200", 989e12, 4.8e12, 141e9, 1024, 8192),
        Gpu("A100 80GB", 312e12, 2.039e12, 80e9, 256, 2048),
        Gpu("L40S", 362e12, 0.864e12, 48e9, 256, 2048),
    )
}
"""NVIDIA's data sheets. The limits are vLLM's defaults for its API server: 1024 sequences and 8192 tokens on 70 GiB and
more, except the A100, 256 and 2048 elsewhere."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a dense decoder's architecture its time and memory follow from."""

    name: str
    parameters: float
    layers: int
    kv_heads: int
    head_dim: int
    bytes_per_weight: float = 2.0
    bytes_per_kv: float = 2.0

    @property
    def weight_bytes(self) -> float:
        return self.parameters * self.bytes_per_weight

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_kv


@dataclass(frozen=True, slots=True)
class Floors:
    """The least that an iteration, a prompt token and a cached token can cost."""

    base_s: float
    s_per_prefill_token: float
    s_per_kv_token: float


def floors(model: ModelShape, gpu: Gpu, tensor_parallel: int) -> Floors:
    """Weights and cache are spread evenly over the GPUs, which read and compute at once and talk for nothing."""
    return Floors(
        base_s=model.weight_bytes / tensor_parallel / gpu.bytes_per_s,
        s_per_prefill_token=2 * model.parameters / tensor_parallel / gpu.flops,
        s_per_kv_token=model.kv_bytes_per_token / tensor_parallel / gpu.bytes_per_s,
    )


MEMORY_USE = 0.9
"""vLLM's ``gpu_memory_utilization`` unless it is told another."""
OVERHEAD_BYTES = 4e9
"""Of each GPU, for activations and graphs."""


def kv_capacity_tokens(model: ModelShape, gpu: Gpu, tensor_parallel: int) -> int:
    """Tokens that fit beside the weights. Raises ``ValueError`` if the weights do not fit."""
    room = tensor_parallel * (gpu.memory_bytes * MEMORY_USE - OVERHEAD_BYTES) - model.weight_bytes
    if room < model.kv_bytes_per_token:
        raise ValueError(
            f"{model.name} ({model.weight_bytes / 1e9:.0f} GB of weights) does not fit on {tensor_parallel} x "
            f"{gpu.name}; use more GPUs or fewer bytes for each weight"
        )
    return int(room // model.kv_bytes_per_token)


BLOCK_SIZE = 16


def from_physics(name: str, model: ModelShape, gpu: Gpu, tensor_parallel: int, load_time: LoadTime) -> Profile:
    """A profile of floors for what was not measured. Raises ``ValueError`` if the model does not fit the GPUs."""
    least = floors(model, gpu, tensor_parallel)
    capacity = kv_capacity_tokens(model, gpu, tensor_parallel)

    def floor(value: float, source: str) -> Value:
        return Value(value, Method.FLOOR, source)

    unknown = "not derivable from data sheets; left out"
    return Profile(
        name=name,
        hardware=f"{tensor_parallel} x {gpu.name}",
        model=model.name,
        tensor_parallel=tensor_parallel,
        precision=f"{8 * model.bytes_per_weight:g}-bit weights",
        summary=f"Physics alone ({gpu.name}'s data sheet, {model.parameters / 1e9:g} billion parameters): the fastest "
        "that this could be. Nothing was measured; real engines are slower.",
        coefficients={
            "base_s": floor(least.base_s, "weights / memory bandwidth"),
            "s_per_prefill_token": floor(least.s_per_prefill_token, "2 x parameters / throughput"),
            "s_per_decode_sequence": floor(least.s_per_prefill_token, "2 x parameters / throughput, as for a prompt"),
            "s_per_kv_token": floor(least.s_per_kv_token, "keys and values of one token / memory bandwidth"),
            "front_end_s": floor(0.0, unknown),
            "front_end_s_per_token": floor(0.0, unknown),
            "wakeup_latency_s": floor(0.0, unknown),
        },
        limits={
            "max_num_seqs": Value(gpu.default_max_num_seqs, Method.DEFAULT, "vLLM's default on this GPU"),
            "max_num_batched_tokens": Value(
                gpu.default_max_num_batched_tokens, Method.DEFAULT, "vLLM's default on this GPU"
            ),
            "block_size": Value(BLOCK_SIZE, Method.DEFAULT, "vLLM's default on GPUs"),
            "num_blocks": Value(
                capacity // BLOCK_SIZE, Method.DERIVED, "90 % of the memory less weights and 4 GB for each GPU"
            ),
        },
        load_time=load_time,
    )
