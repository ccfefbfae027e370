"""Files of measurements, recognised by what is in them, and the profile that a fit to them makes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from broker.model.errors import ConfigError, WireError
from signals.ingest.vllm_metrics import parse_cache_config
from simulator.calibration.bench_serve import looks_like_bench, read_bench
from simulator.calibration.fit import FittedProfile, Load, changed, simulate_load
from simulator.calibration.measured_table import SetUp, looks_like_table, read_table
from simulator.calibration.recording import (
    RequestLog,
    looks_like_metrics,
    looks_like_requests,
    read_metrics_history,
    read_requests,
    total_of,
)
from simulator.calibration.replay import Times
from simulator.engine.profile import EngineProfile
from simulator.profiles.physics import floors
from simulator.profiles.profile import COEFFICIENTS, LIMITS, LoadTime, Method, Profile, Range, Value, WorkloadRange

LARGEST_BYTES = 1 << 30


@dataclass(slots=True)
class Measurements:
    """What some files hold together. ``limits`` are those that the files tell of the engine; ``floors`` what the
    hardware allows at best, where they tell that; ``sources`` names each file with its kind."""

    loads: list[Load] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    hardware: str = "not told"
    model: str = "not told"
    tensor_parallel: int = 1


def read_measurements(
    paths: Sequence[Path], *, rows: Sequence[str] = (), cached_share: float = 0.0, until_s: float | None = None
) -> Measurements:
    """Read every file: results of ``vllm bench serve``, request logs, metrics pages or histories, and tables of
    set-ups, of which ``rows`` (``exp_id``) are taken. Of a request log, only what arrived before ``until_s``.

    Raises ``ConfigError`` that names file and line.
    """
    found = Measurements()
    for path in paths:
        _read(path, _text(path), found, rows, cached_share, until_s)
    if not found.loads:
        raise ConfigError("no file holds a load: give a request log, a result of `vllm bench serve`, or a table")
    found.loads = [replace(load, limits={**found.limits, **load.limits}) for load in found.loads]
    return found


def _read(
    path: Path, text: str, found: Measurements, rows: Sequence[str], cached_share: float, until_s: float | None
) -> None:
    first_line = text.partition("\n")[0]
    if first_line.startswith(("#", "vllm:")):
        _add_cache(path, text, found)
    elif looks_like_table(first_line):
        _add_set_ups(path, read_table(path, text), rows, found)
        found.sources.append(f"{path.name} (table of set-ups)")
    else:
        first = _first_json(path, text)
        if looks_like_bench(first):
            found.loads += read_bench(path, text, cached_share=cached_share)
            found.model = str(first.get("model_id") or found.model)
            found.sources.append(f"{path.name} (vllm bench serve)")
        elif looks_like_requests(first):
            _add_log(path, read_requests(path, text), found, until_s)
        elif looks_like_metrics(first):
            samples, cache = read_metrics_history(path, text)
            if cache is not None:
                found.limits |= {"block_size": cache.block_size, "num_blocks": cache.num_gpu_blocks - 1}
            _add_prefix_hits(text, found)
            found.sources.append(f"{path.name} (/metrics, {len(samples)} pages)")
        else:
            raise ConfigError(
                "is no result of `vllm bench serve`, no request log, no metrics history and no table of set-ups; "
                "docs/accuracy.md tells the formats",
                path=str(path),
            )


def _text(path: Path) -> str:
    """Plain or gzip-compressed, told by the content."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except (OSError, EOFError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot be read: {words}", path=str(path)) from None
    if len(raw) > LARGEST_BYTES:
        raise ConfigError("holds more than 1 GiB; cut it to some thousands of requests", path=str(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text", path=str(path)) from None


def _first_json(path: Path, text: str) -> dict[str, Any]:
    try:
        first = json.JSONDecoder().raw_decode(text.lstrip())[0]
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is neither JSON nor a table nor a metrics page: {error}", path=str(path)) from None
    return first if isinstance(first, dict) else {}


def _add_set_ups(path: Path, set_ups: Sequence[SetUp], rows: Sequence[str], found: Measurements) -> None:
    chosen = [each for each in set_ups if not rows or each.name.split()[0] in rows]
    if not chosen or len({(each.model, each.gpu, each.tensor_parallel) for each in chosen}) > 1:
        known = "; ".join(each.name for each in set_ups)
        raise ConfigError(
            f"name rows of one model and one number of GPUs with --row (their first word): {known}", path=str(path)
        )
    first = chosen[0]
    least = floors(first.model, first.gpu, first.tensor_parallel)
    found.loads += [each.load for each in chosen]
    found.floors |= {
        "base_s": least.base_s,
        "s_per_prefill_token": least.s_per_prefill_token,
        "s_per_decode_sequence": least.s_per_prefill_token,
        "s_per_kv_token": least.s_per_kv_token,
    }
    found.hardware, found.model = f"{first.tensor_parallel} x {first.gpu.name}", first.model.name
    found.tensor_parallel = first.tensor_parallel


def _add_cache(path: Path, text: str, found: Measurements) -> None:
    try:
        cache = parse_cache_config(text)
    except WireError as error:
        raise ConfigError(str(error), path=str(path)) from None
    if cache is None:
        raise ConfigError("a metrics page without vllm:cache_config_info tells nothing here", path=str(path))
    found.limits = {"block_size": cache.block_size, "num_blocks": cache.num_gpu_blocks - 1} | found.limits
    found.sources.append(f"{path.name} (a page of /metrics)")


def _add_log(path: Path, log: RequestLog, found: Measurements, until_s: float | None) -> None:
    load = log.until(until_s if until_s is not None else float("inf"), path.name)
    if not load.requests:
        raise ConfigError(f"no request arrived before {until_s:g} s", path=str(path), field="--until")
    found.loads.append(load)
    found.limits |= log.limits
    found.sources.append(f"{path.name} ({len(load.requests)} requests)")
    if log.failed:
        found.remarks.append(f"{path.name}: {log.failed} failed requests were left out, and with them their load")


def _add_prefix_hits(text: str, found: Measurements) -> None:
    """Prefix-cache hits that a history counted and the request log may not tell."""
    hits = total_of(json.loads(text.strip().rpartition("\n")[2])["text"], "vllm:prefix_cache_hits_total")
    if hits:
        found.remarks.append(
            f"the replica served {hits:g} prompt tokens from its prefix cache; give cached_tokens in the request log, "
            "or the time per prompt token comes out too small"
        )


UNTOLD = EngineProfile("floors", 1e-3, 0.0, 0.0, 0.0, 256, 2048, 16, 1 << 16, 0.0, 0.0, "where nothing is told")
"""vLLM's limits on small GPUs, and a cache that never fills."""


def base_engine(found: Measurements, like: EngineProfile | None, limits: Mapping[str, int]) -> EngineProfile:
    """Where a fit starts, and what stays where nothing was measured: ``like``, or the physical floors."""
    start = like or changed(UNTOLD, found.floors)
    return changed(start, {**found.limits, **limits})


def assumed_cache(found: Measurements, like: Profile | None, limits: Mapping[str, int]) -> str:
    """What of the KV cache's size nobody told, so that it was assumed; empty if all of it was told. A server's command
    line tells the number of blocks, not how large vLLM made them."""
    told = {**found.limits, **limits}
    if like is not None or {"block_size", "num_blocks"} <= told.keys():
        return ""
    size, blocks = UNTOLD.block_size, UNTOLD.num_blocks
    words = {
        "block_size": f"block size unknown, took {size}",
        "num_blocks": f"number of blocks unknown, took {blocks:,}",
    }
    assumed = ", ".join(text for limit, text in words.items() if limit not in told)
    return f"{assumed}; give a page of the engine's /metrics, or --block-size and --num-blocks"


def profile_of(
    name: str,
    found: Measurements,
    fitted: FittedProfile,
    *,
    like: Profile | None = None,
    limits: Mapping[str, int] | None = None,
) -> Profile:
    """The profile file's content: every number with where it comes from, valid where it was measured."""
    source = "fitted to " + ", ".join(found.sources)
    held = {each.name: each for each in fitted.held}
    coefficients = {}
    for coefficient in COEFFICIENTS:
        value = float(getattr(fitted.engine, coefficient))
        if coefficient in held:
            method = Method.FLOOR if found.floors.get(coefficient) == value or not value else Method.CHOSEN
            coefficients[coefficient] = Value(value, method, f"not known from these data: {held[coefficient].reason}")
        else:
            error = round(fitted.relative_errors[coefficient], 4)
            coefficients[coefficient] = Value(value, Method.FITTED, "see summary", relative_error=error)
    load_time = like.load_time if like is not None else LoadTime(60.0, 0.0, Method.CHOSEN, "not measured here: assumed")
    return Profile(
        name=name,
        hardware=like.hardware if like is not None else found.hardware,
        model=like.model if like is not None else found.model,
        tensor_parallel=like.tensor_parallel if like is not None else found.tensor_parallel,
        precision=like.precision if like is not None else "not told",
        summary=f"{source[0].upper()}{source[1:]}: {fitted.numbers} numbers, {len(fitted.relative_errors)} free "
        f"parameters, residual {fitted.rms:.1%} (root mean square). {' '.join(f'{each}.' for each in fitted.remarks)}",
        coefficients=coefficients,
        limits=_limits_of(found, fitted.engine, like, limits or {}),
        load_time=load_time,
        valid=measured_range(found.loads, fitted.engine),
    )


def _limits_of(
    found: Measurements, engine: EngineProfile, like: Profile | None, given: Mapping[str, int]
) -> dict[str, Value]:
    """What the options give, else what the loads ran with (the first of them), else as another profile or assumed."""
    told = {**found.loads[0].limits, **given}
    values = {}
    for limit in LIMITS:
        if limit in told:
            values[limit] = Value(told[limit], Method.MEASURED, "told by the files or options")
        elif like is not None:
            values[limit] = Value(getattr(engine, limit), like.limits[limit].method, f"as {like.name}")
        else:
            values[limit] = Value(getattr(engine, limit), Method.CHOSEN, "assumed")
    return values


def measured_range(loads: Sequence[Load], engine: EngineProfile) -> WorkloadRange:
    """Between which lengths, cached shares and numbers of open requests the loads lie."""
    requests = [request for load in loads for request in load.requests]
    prompts = [request.prompt_tokens for request in requests]
    outputs = [request.output_tokens for request in requests]
    shares = [request.cached_tokens / request.prompt_tokens for request in requests]
    most = max(_most_open(load.measured or simulate_load(load, engine)) for load in loads)
    return WorkloadRange(
        Range(min(prompts), max(prompts)), Range(min(outputs), max(outputs)),
        Range(round(min(shares), 3), round(max(shares), 3)), Range(1, most),
    )  # fmt: skip


def _most_open(times: Times) -> int:
    at = np.concatenate([times.arrival, times.end])
    change = np.concatenate([np.ones(len(times.arrival)), -np.ones(len(times.end))])
    order = np.lexsort((change, at))
    return int(np.cumsum(change[order]).max())
