"""An engine's coefficients from loads that were measured, and what the measurements could not tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from simulator.calibration.replay import Floats, Times, replay
from simulator.calibration.solve import Parameter, Solution, solve
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineRequest
from simulator.profiles.profile import COEFFICIENTS


class Metric(StrEnum):
    """What is measured, in seconds. ``ITL`` is the mean time between tokens over all tokens, ``TPOT`` over one
    request's, of which then a statistic is taken. ``OUTPUT_RATE`` is in tokens per second, over the whole load."""

    TTFT = "ttft"
    TPOT = "tpot"
    ITL = "itl"
    E2E = "e2e"
    OUTPUT_RATE = "output_rate"


class Statistic(StrEnum):
    MEAN = "mean"
    MEDIAN = "median"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"


_PERCENTILES = {Statistic.MEDIAN: 50.0, Statistic.P90: 90.0, Statistic.P95: 95.0, Statistic.P99: 99.0}
_TAILS = (Statistic.P90, Statistic.P95, Statistic.P99)
TAIL_WEIGHT = 0.3
"""A P90 or P99 of a few hundred requests is a handful of them; it counts less than a mean or a median."""
OUTLYING = 0.5
"""As a logarithm of measured to simulated TTFT: what is off by a factor beyond 1.6 counts as an outlier."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    metric: Metric
    statistic: Statistic
    value: float

    @property
    def name(self) -> str:
        return f"{self.metric} {self.statistic}"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests and what was measured of them: ``figures`` of all, or ``measured`` times of each (NaN where unknown).

    ``concurrency``: the most that the client kept open, see ``replay``. ``limits`` stand in for the base profile's
    where this load ran with others (``max_num_seqs``, ``num_blocks`` and so on).
    """

    name: str
    requests: tuple[EngineRequest, ...]
    figures: tuple[Figure, ...] = ()
    measured: Times | None = None
    concurrency: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Residual:
    """One figure as measured and as the fitted profile has it."""

    load: str
    figure: str
    measured: float
    simulated: float

    @property
    def relative_error(self) -> float:
        return self.simulated / self.measured - 1


@dataclass(frozen=True, slots=True)
class Held:
    """A coefficient that was not fitted, at which value, and why."""

    name: str
    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class FittedProfile:
    """The engine with its fitted coefficients; ``relative_errors`` has the names of the fitted ones.

    ``remarks`` say in words what the data cannot tell.
    """

    engine: EngineProfile
    relative_errors: Mapping[str, float]
    held: tuple[Held, ...]
    residuals: tuple[Residual, ...]
    remarks: tuple[str, ...]
    numbers: int
    rms: float
    condition: float
    evaluations: int


def figure_of(figure: Figure, times: Times) -> float:
    """The same figure of simulated (or measured) times."""
    if figure.metric is Metric.OUTPUT_RATE:
        return float(times.output_tokens.sum() / (times.end.max() - times.arrival.min()))
    if figure.metric is Metric.ITL:
        gaps = (times.output_tokens - 1).sum()
        return float((times.end - times.first_token).sum() / gaps) if gaps else float("nan")
    values = {Metric.TTFT: times.ttft, Metric.TPOT: times.tpot, Metric.E2E: times.e2e}[figure.metric]
    if figure.statistic is Statistic.MEAN:
        return float(np.nanmean(values))
    return float(np.nanpercentile(values, _PERCENTILES[figure.statistic]))


def load_residuals(load: Load, times: Times) -> Floats:
    """Relative errors of a load's figures; of times by request, the error of the first token on a log scale with
    outliers tamed (a queue of hundreds is no hundredfold error), and of the decoding in shares of its mean: the error
    in seconds keeps the sum right, and with it how much work the engine does in a second."""
    parts = []
    if load.figures:
        weights = [TAIL_WEIGHT if figure.statistic in _TAILS else 1.0 for figure in load.figures]
        ratios = [figure_of(figure, times) / figure.value for figure in load.figures]
        parts.append(np.log(ratios) * weights)
    if load.measured is not None:
        known = np.isfinite(load.measured.ttft)
        parts.append(_tamed(np.log(times.ttft[known] / np.maximum(load.measured.ttft[known], 1e-6))))
        decoding = load.measured.end - load.measured.first_token
        known = np.isfinite(decoding) & (times.output_tokens > 1)
        if known.any():
            parts.append(2 * ((times.end - times.first_token) - decoding)[known] / decoding[known].mean())
    return np.concatenate(parts)


def _tamed(errors: Floats) -> Floats:
    """Charbonnier's loss as residuals: quadratic within ``OUTLYING``, linear beyond."""
    return np.sign(errors) * np.sqrt(2 * OUTLYING**2 * (np.sqrt(1 + (errors / OUTLYING) ** 2) - 1))


PLACES = 4
"""Of a recorded server's fits from one place each, the residuals differed by as much as a coefficient more saves."""
GIVE_UP_FIRST = (
    "front_end_s_per_token", "wakeup_latency_s", "s_per_kv_token", "s_per_decode_sequence", "s_per_prefill_token",
    "front_end_s", "base_s",
)  # fmt: skip
"""Where only a combination is known, the smaller effect is the one to hold."""


def fit_profile(
    loads: Sequence[Load],
    base: EngineProfile,
    *,
    free: Sequence[str] = COEFFICIENTS,
    floors: Mapping[str, float] | None = None,
    tell: Callable[[int, float], None] | None = None,
) -> FittedProfile:
    """Fit the coefficients named ``free`` to ``loads``; the others, and what turns out not to be known, stay as in
    ``base``. ``floors`` are lower bounds (see ``simulator.profiles.physics``). Raises ``ValueError`` without loads or
    where nothing at all can be told."""
    if not loads or not any(load.requests for load in loads):
        raise ValueError("no load with requests to fit to")
    floors = floors or {}
    scales = _typical(loads).scales
    unseen = _without_effect(loads) | {name: "held as asked" for name in COEFFICIENTS if name not in free}
    held = {name: Held(name, _held_value(base, name, floors), reason) for name, reason in unseen.items()}
    start = _start(changed(base, {each.name: each.value for each in held.values()}), scales, held, floors)
    while True:
        names = [name for name in COEFFICIENTS if name not in held]
        if not names:
            reasons = "; ".join(f"{each.name}: {each.reason}" for each in held.values())
            raise ValueError(f"the measurements say nothing about any coefficient ({reasons})")
        parameters = [
            Parameter(name, getattr(start, name), scales[name], low=floors.get(name, _LOWEST.get(name, 0.0)))
            for name in names
        ]
        solution = solve(partial(_all_residuals, loads, start), parameters, places=PLACES, tell=tell)
        if not solution.unknown:
            break
        worst = solution.unknown[0]
        given_up = next(name for name in GIVE_UP_FIRST if name in worst)
        others = ", ".join(name for name in worst if name != given_up)
        reason = f"cannot be told apart from {others}" if others else "its effect is within the noise"
        start = changed(start, solution.values | {given_up: _held_value(base, given_up, floors)})
        held[given_up] = Held(given_up, getattr(start, given_up), reason)
    return _fitted(loads, start, held, solution, floors)


_LOWEST = {"base_s": 1e-6}


@dataclass(frozen=True, slots=True)
class _Typical:
    """About what an engine does under some loads: how long an iteration is, and what is in it."""

    iteration_s: float
    sequences: float
    prompt_tokens: float
    context_tokens: float

    @property
    def scales(self) -> dict[str, float]:
        """Of each coefficient the value at which it would make up a good part of an iteration. An engine may be a
        thousand times as fast as another, and hold four sequences or five hundred."""
        return {
            "base_s": 0.5 * self.iteration_s,
            "s_per_prefill_token": 0.5 * self.iteration_s / self.prompt_tokens,
            "s_per_decode_sequence": 0.2 * self.iteration_s / self.sequences,
            "s_per_kv_token": 0.2 * self.iteration_s / (self.sequences * self.context_tokens),
            "front_end_s": 0.5 * self.iteration_s,
            "front_end_s_per_token": 0.1 * self.iteration_s / self.sequences,
            "wakeup_latency_s": 0.5 * self.iteration_s,
        }


def _typical(loads: Sequence[Load]) -> _Typical:
    """Raises ``ValueError`` where no time between tokens was measured."""
    iterations = []
    for load in loads:
        iterations += [figure.value for figure in load.figures if figure.metric in (Metric.TPOT, Metric.ITL)]
        if load.measured is not None:
            iterations.append(float(np.nanmean(load.measured.tpot)))
    iterations = [value for value in iterations if np.isfinite(value) and value > 0]
    if not iterations:
        raise ValueError("no time between tokens was measured: without it nothing is known of an iteration")
    iteration_s = float(np.median(iterations))
    requests = [request for load in loads for request in load.requests]
    computed = float(np.mean([request.prompt_tokens - request.cached_tokens for request in requests]))
    prompt = float(np.mean([request.prompt_tokens for request in requests]))
    output = float(np.mean([request.output_tokens for request in requests]))
    together = max(_sequences(load, output * iteration_s) for load in loads)
    return _Typical(iteration_s, together, max(computed, 1.0), prompt + output / 2)


def _sequences(load: Load, request_s: float) -> float:
    """Sequences at once, by Little's law, within what the client and the batch allow."""
    span_s = load.requests[-1].arrival_at - load.requests[0].arrival_at + request_s
    allowed = min(load.concurrency or len(load.requests), load.limits.get("max_num_seqs", len(load.requests)))
    return max(1.0, min(allowed, len(load.requests) * request_s / span_s))


def _start(
    base: EngineProfile, scales: Mapping[str, float], held: Collection[str], floors: Mapping[str, float]
) -> EngineProfile:
    """Where the search begins: most of an iteration is its base, the rest small."""
    shares = {"base_s": 1.6, "s_per_prefill_token": 0.5, "s_per_decode_sequence": 0.5, "front_end_s": 0.5,
              "wakeup_latency_s": 0.5}  # fmt: skip
    values = {name: max(shares.get(name, 0.1) * scales[name], floors.get(name, 0.0)) for name in scales}
    return changed(base, {name: value for name, value in values.items() if name not in held})


def _held_value(base: EngineProfile, name: str, floors: Mapping[str, float]) -> float:
    return max(float(getattr(base, name)), floors.get(name, 0.0))


def _without_effect(loads: Sequence[Load]) -> dict[str, str]:
    """What a load cannot show, whatever its figures: said in plain words before any arithmetic."""
    requests = [request for load in loads for request in load.requests]
    computed = sum(request.prompt_tokens - request.cached_tokens for request in requests)
    prompts = sum(request.prompt_tokens for request in requests)
    found = {}
    if computed < 0.05 * prompts:
        share = 1 - computed / prompts
        found["s_per_prefill_token"] = f"{share:.0%} of the prompt tokens were cached: hardly any was computed"
    if not any(figure.metric in (Metric.TTFT, Metric.E2E) for load in loads for figure in load.figures) and not any(
        load.measured is not None for load in loads
    ):
        for name in ("front_end_s", "front_end_s_per_token", "wakeup_latency_s", "s_per_prefill_token"):
            found.setdefault(name, "no time to first token was measured")
    return found


def changed(engine: EngineProfile, values: Mapping[str, float]) -> EngineProfile:
    """``engine`` with some of its coefficients or limits replaced."""
    fields: dict[str, Any] = dict(values)
    return replace(engine, **fields)


def simulate_load(load: Load, engine: EngineProfile) -> Times:
    """What ``engine`` makes of a load, under the load's own limits."""
    return replay(changed(engine, load.limits), load.requests, concurrency=load.concurrency)[0]


def _all_residuals(loads: Sequence[Load], start: EngineProfile, values: Mapping[str, float]) -> Floats:
    engine = changed(start, values)
    return np.concatenate([load_residuals(load, simulate_load(load, engine)) for load in loads])


def _fitted(
    loads: Sequence[Load],
    start: EngineProfile,
    held: Mapping[str, Held],
    solution: Solution,
    floors: Mapping[str, float],
) -> FittedProfile:
    engine = changed(start, solution.values)
    remarks = [f"{each.name} is not known ({each.reason}); held at {each.value:.3g} s" for each in held.values()]
    if "s_per_prefill_token" in solution.at_bound and floors.get("s_per_prefill_token"):
        remarks.append(
            "s_per_prefill_token would go below its physical floor: prompts were faster than the hardware can compute "
            "them, so they came from the prefix cache; give --cached-share, or measure with distinct prompts"
        )
    if len(loads) == 1 and loads[0].measured is None:
        remarks.append("one load only: how the time grows with the batch is guessed, not measured; add another load")
    return FittedProfile(
        engine=engine,
        relative_errors=solution.relative_errors,
        held=tuple(held.values()),
        residuals=tuple(residual for load in loads for residual in compare(load, simulate_load(load, engine))),
        remarks=tuple(remarks),
        numbers=solution.residuals.size,
        rms=solution.rms,
        condition=solution.condition,
        evaluations=solution.evaluations,
    )


_TOLD = tuple(
    Figure(metric, statistic, 0.0)
    for metric in (Metric.TTFT, Metric.TPOT, Metric.E2E)
    for statistic in (Statistic.MEDIAN, Statistic.P95)
)


def compare(load: Load, times: Times) -> list[Residual]:
    """A load's figures beside the simulated ones; where each request was measured, medians and P95 of all."""
    figures = list(load.figures)
    if load.measured is not None:
        figures += [replace(figure, value=figure_of(figure, load.measured)) for figure in _TOLD]
    return [Residual(load.name, figure.name, figure.value, figure_of(figure, times)) for figure in figures]
