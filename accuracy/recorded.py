"""The recorded vLLM and the simulated engine beside it: what is compared, and what is left to chance."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from accuracy.base import Tell
from accuracy.intervals import blocks_of
from broker.model.errors import ConfigError
from signals.ingest.vllm_metrics import parse_cache_config
from simulator.calibration.fit import FittedProfile, Load, changed, fit_profile
from simulator.calibration.measurements import UNTOLD
from simulator.calibration.recording import (
    Phase,
    RequestLog,
    gauges_of,
    read_metrics_history,
    read_requests,
    total_of,
)
from simulator.calibration.replay import Floats, Gauges, Times, replay
from simulator.engine.profile import EngineProfile

FITTED_PHASES = 3
OVERLOAD = 4
LEAST_REQUESTS = 10
"""A phase with fewer requests has no quantiles worth the name."""
STEP_S = 0.1
COUNTERS = (
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_hits_total",
    *(
        f"vllm:request_{part}_time_seconds_{total}"
        for part in ("queue", "prefill", "decode")
        for total in ("sum", "count")
    ),
)
"""What the server counts of itself, read beside its gauges."""

Counters = dict[str, Floats]
"""One value for each scrape."""
Chosen = npt.NDArray[np.bool_]
"""Which of the requests."""


def kind(number: int) -> str:
    return "fitted" if number <= FITTED_PHASES else "held out"


@dataclass(frozen=True, slots=True)
class Noise:
    """How the server's pace wanders: the spread of its logarithm, and how long it remembers."""

    sigma: float
    memory_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The recording and what the simulated engine made of the same arrivals: once, and in several draws of what the
    fitted phases do not tell, each with an engine fitted to half of their blocks of time and a pace that wanders."""

    log: RequestLog
    base: EngineProfile
    fitted: FittedProfile
    noise: Noise
    counters: Counters
    measured: Gauges
    simulated: Times
    gauges: Gauges
    draws: tuple[tuple[Times, Gauges], ...]

    @property
    def phases(self) -> Iterator[tuple[int, Phase, Phase]]:
        """Each phase with enough requests: its number, itself, and the one with requests before it."""
        before = None
        for number, phase in enumerate(self.log.phases, 1):
            if self.within(phase).sum() >= LEAST_REQUESTS:
                if before is not None:
                    yield number, phase, before
                before = phase

    def within(self, phase: Phase) -> Chosen:
        arrival = self.log.times.arrival
        inside: Chosen = (arrival >= phase.start_s) & (arrival < phase.end_s)
        return inside

    def nearest_fitted(self, phase: Phase) -> Phase:
        """Of the fitted phases with requests, the one of the most alike rate, other than the phase itself."""
        known = [each for each in self.log.phases[:FITTED_PHASES] if each.rate_per_s and each is not phase]
        return min(known, key=lambda each: abs(math.log(each.rate_per_s / phase.rate_per_s)))


def compare_recording(requests: Path, metrics: Path, page: Path, draws: int, tell: Tell) -> Comparison:
    log = read_requests(requests, _text(requests))
    history = _text(metrics)
    samples, cache = read_metrics_history(metrics, history)
    cache = cache or parse_cache_config(page.read_text(encoding="utf-8"))
    if cache is None:
        raise ConfigError("no vllm:cache_config_info, so that the block size is not known", path=str(page))
    base = changed(UNTOLD, {"block_size": cache.block_size, **log.limits})
    load = log.until(log.phases[FITTED_PHASES - 1].end_s, "idle, light and medium")
    fitted = fit_profile([load], base)
    measured = gauges_of(samples)
    simulated, gauges = replay(fitted.engine, log.requests, sample_at=measured.at.tolist())
    noise = _noise(log, simulated)
    drawn = []
    for seed in range(draws):
        tell(f"recording: fitting to half of it and predicting under wandering pace, draw {seed + 1} of {draws}")
        engine = fit_profile([_half(load, seed)], base, free=tuple(fitted.relative_errors)).engine
        drawn.append(_wandering(engine, log, noise, measured.at, seed))
    counters = _counters(history)
    return Comparison(log, base, fitted, noise, counters, measured, simulated, gauges, tuple(drawn))


def _text(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def _half(load: Load, seed: int) -> Load:
    """The same load, with the measured times of half of its blocks of time. A fit to a half differs from the fit to
    the whole about as that differs from the truth (the jackknife that leaves half out)."""
    assert load.measured is not None
    blocks = blocks_of(load.measured.arrival)
    left_out = np.concatenate([blocks[each] for each in np.random.default_rng(seed).permutation(len(blocks))[::2]])
    first_token, end = load.measured.first_token.copy(), load.measured.end.copy()
    first_token[left_out] = end[left_out] = np.nan
    return replace(load, measured=replace(load.measured, first_token=first_token, end=end))


def _noise(log: RequestLog, simulated: Times) -> Noise:
    """From what the fit leaves of the fitted phases' times between tokens: two requests a little apart in time are
    wrong alike, and the time after which that falls to 1/e is the memory."""
    chosen = log.times.arrival < log.phases[FITTED_PHASES - 1].end_s
    left = np.log(log.times.tpot / simulated.tpot)[chosen]
    left = left - left.mean()
    middle = ((log.times.first_token + log.times.end) / 2)[chosen]
    apart = np.abs(middle[:, None] - middle[None, :])
    product = left[:, None] * left[None, :]
    for lag in np.arange(0.25, 20.0, 0.25):
        near = (apart > lag - 0.25) & (apart <= lag)
        if near.any() and product[near].mean() < left.var() / math.e:
            return Noise(float(left.std()), float(lag))
    return Noise(float(left.std()), 20.0)


def _wandering(engine: EngineProfile, log: RequestLog, noise: Noise, looks: Floats, seed: int) -> tuple[Times, Gauges]:
    """The same load on an engine whose whole pace wanders."""
    span = _span(log)
    keep = math.exp(-STEP_S / noise.memory_s)
    shocks = np.random.default_rng(seed).normal(size=span)
    state = np.empty(span)
    state[0] = shocks[0]
    for index in range(1, span):
        state[index] = keep * state[index - 1] + math.sqrt(1 - keep * keep) * shocks[index]
    # 1 on average, so that the mean pace stays as fitted
    return paced(engine, log, np.exp(noise.sigma * state - noise.sigma**2 / 2), looks)


def _span(log: RequestLog) -> int:
    return int((log.times.arrival[-1] + 60) / STEP_S)


def steps_of(log: RequestLog) -> Floats:
    """The middles of the steps of ``STEP_S`` that ``paced`` takes a slowdown for."""
    return np.arange(_span(log), dtype=np.float64) * STEP_S + STEP_S / 2


def paced(engine: EngineProfile, log: RequestLog, slowdown: Floats, looks: Floats) -> tuple[Times, Gauges]:
    """The same load on an engine that is ``slowdown`` times slower in each ``STEP_S``: time is bent for the engine,
    and bent back."""
    real = np.arange(len(slowdown) + 1) * STEP_S
    work = np.concatenate([[0.0], np.cumsum(STEP_S / slowdown)])
    bent = np.interp(log.times.arrival, real, work)
    requests = [replace(request, arrival_at=float(at)) for request, at in zip(log.requests, bent, strict=True)]
    times, gauges = replay(engine, requests, sample_at=np.interp(looks, real, work).tolist())
    first_token, end = (np.interp(values, work, real) for values in (times.first_token, times.end))
    return Times(log.times.arrival, first_token, end, times.output_tokens), replace(gauges, at=looks)


def _counters(history: str) -> Counters:
    """By scrape in order of time; a label set more is a value more to add."""
    pages = sorted((json.loads(line) for line in history.splitlines() if line.strip()), key=lambda page: page["t"])
    return {name: np.array([total_of(page["text"], name) for page in pages]) for name in COUNTERS}
