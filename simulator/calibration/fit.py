"""An engine's coefficients from loads that were measured, and what the measurements could not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from simulator.calibration.replay import Floats, Times, replay
from simulator.calibration.solve import Parameter, Solution, solve
from simulator.engine.profile import EngineProfile
from simulator.engine.requests import EngineRequest
from simulator.profiles.profile import COEFFICIENTS

Metric = Literal["ttft", "tpot", "itl", "e2e", "output_rate"]
Statistic = Literal["mean", "median", "p90", "p95", "p99", "total"]
_PERCENTILES = {"median": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
TAIL_WEIGHT = 0.3
"""A P90 or P99 of a few hundred requests is a handful of them; it counts less than a mean or a median."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: seconds, or output tokens per second (``output_rate``, ``total``). ``itl`` is the mean time
    between tokens over all tokens, ``tpot`` over one request's, of which then the statistic is taken."""

    metric: Metric
    statistic: Statistic
    value: float

    @property
    def name(self) -> str:
        return self.metric if self.statistic == "total" else f"{self.metric} {self.statistic}"


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
    if figure.metric == "output_rate":
        return float(times.output_tokens.sum() / (times.end.max() - times.arrival.min()))
    if figure.metric == "itl":
        gaps = (times.output_tokens - 1).sum()
        return float((times.end - times.first_token).sum() / gaps) if gaps else float("nan")
    values = {"ttft": times.ttft, "tpot": times.tpot, "e2e": times.e2e}[figure.metric]
    if figure.statistic == "mean":
        return float(np.nanmean(values))
    return float(np.nanpercentile(values, _PERCENTILES[figure.statistic]))


def load_residuals(load: Load, times: Times) -> Floats:
    """Relative errors of a load's figures; of times by request, the error of the first token on a log scale with
    outliers tamed (a queue of hundreds is no hundredfold error), and of the decoding in shares of its mean: the error
    in seconds keeps the sum right, and with it how much work the engine does in a second."""
    parts = []
    if load.figures:
        weights = [1.0 if figure.statistic in ("mean", "median", "total") else TAIL_WEIGHT for figure in load.figures]
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


def _tamed(errors: Floats, width: float = 0.15) -> Floats:
    """Charbonnier's loss as residuals: quadratic within ``width``, linear beyond."""
    return np.sign(errors) * np.sqrt(2 * width**2 * (np.sqrt(1 + (errors / width) ** 2) - 1))


SCALES = {
    "base_s": 0.3,
    "s_per_prefill_token": 2e-3,
    "s_per_decode_sequence": 5e-3,
    "s_per_kv_token": 5e-6,
    "front_end_s": 0.3,
    "front_end_s_per_token": 2e-3,
}
"""Of each coefficient, the share of a typical iteration's time that is its scale: an engine may be a thousand times as
fast as another."""

GIVE_UP_FIRST = (
    "front_end_s_per_token", "s_per_kv_token", "s_per_decode_sequence", "s_per_prefill_token", "front_end_s", "base_s",
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
    typical_s = _typical_iteration_s(loads)
    start = _start(base, typical_s, free, floors)
    held = {name: Held(name, getattr(start, name), "held as asked") for name in COEFFICIENTS if name not in free}
    _hold_without_effect(loads, start, held)
    while True:
        names = [name for name in COEFFICIENTS if name not in held]
        if not names:
            raise ValueError("the measurements say nothing about any coefficient: " + _reasons(held.values()))
        parameters = [
            Parameter(name, getattr(start, name), SCALES[name] * typical_s, low=floors.get(name, _LOWEST.get(name, 0.0)))
            for name in names
        ]
        solution = solve(lambda values: _all_residuals(loads, start, values), parameters, tell=tell)
        if not solution.unknown:
            break
        worst = solution.unknown[0]
        given_up = next(name for name in GIVE_UP_FIRST if name in worst)
        others = ", ".join(name for name in worst if name != given_up)
        reason = f"cannot be told apart from {others}" if others else "its effect is within the noise"
        start = replace(start, **{given_up: _held_value(base, given_up, floors)})
        held[given_up] = Held(given_up, getattr(start, given_up), reason)
    return _fitted(loads, start, held, solution, floors)


_LOWEST = {"base_s": 1e-6}


def _typical_iteration_s(loads: Sequence[Load]) -> float:
    """About the time of an iteration: the mean time between tokens, or failing that a share of the first token's."""
    found = []
    for load in loads:
        found += [figure.value for figure in load.figures if figure.metric in ("tpot", "itl")]
        if load.measured is not None:
            found += [float(np.nanmean(load.measured.tpot))]
    found = [value for value in found if np.isfinite(value) and value > 0]
    if not found:
        raise ValueError("no time between tokens was measured: without it nothing is known of an iteration")
    return float(np.median(found))


def _start(
    base: EngineProfile, typical_s: float, free: Sequence[str], floors: Mapping[str, float]
) -> EngineProfile:
    """Where the search begins: most of an iteration is its base, the rest small."""
    shares = {"base_s": 0.8, "s_per_prefill_token": 1e-3, "s_per_decode_sequence": 5e-3, "front_end_s": 0.1}
    values = {name: max(shares.get(name, 0.0) * typical_s, floors.get(name, 0.0)) for name in free}
    return replace(base, **values)


def _held_value(base: EngineProfile, name: str, floors: Mapping[str, float]) -> float:
    return max(float(getattr(base, name)), floors.get(name, 0.0))


def _hold_without_effect(loads: Sequence[Load], start: EngineProfile, held: dict[str, Held]) -> None:
    """What a load cannot show, whatever its figures: said in plain words before any arithmetic."""
    requests = [request for load in loads for request in load.requests]
    computed = sum(request.prompt_tokens - request.cached_tokens for request in requests)
    prompts = sum(request.prompt_tokens for request in requests)
    if computed < 0.05 * prompts:
        name = "s_per_prefill_token"
        share = 1 - computed / prompts
        held.setdefault(
            name,
            Held(name, getattr(start, name), f"{share:.0%} of the prompt tokens were cached: hardly any was computed"),
        )
    if not any(figure.metric in ("ttft", "e2e") for load in loads for figure in load.figures) and not any(
        load.measured is not None for load in loads
    ):
        for name in ("front_end_s", "front_end_s_per_token", "s_per_prefill_token"):
            held.setdefault(name, Held(name, getattr(start, name), "no time to first token was measured"))


def _reasons(held: Sequence[Held] | object) -> str:
    return "; ".join(f"{each.name} {each.reason}" for each in held)  # type: ignore[attr-defined]


def simulate_load(load: Load, engine: EngineProfile) -> Times:
    """What ``engine`` makes of a load, under the load's own limits."""
    return replay(replace(engine, **load.limits), load.requests, concurrency=load.concurrency)[0]


def _all_residuals(loads: Sequence[Load], start: EngineProfile, values: Mapping[str, float]) -> Floats:
    engine = replace(start, **values)
    return np.concatenate([load_residuals(load, simulate_load(load, engine)) for load in loads])


def _fitted(
    loads: Sequence[Load],
    start: EngineProfile,
    held: Mapping[str, Held],
    solution: Solution,
    floors: Mapping[str, float],
) -> FittedProfile:
    engine = replace(start, **solution.values)
    remarks = [f"{each.name} is not known ({each.reason}); held at {each.value:.3g} s" for each in held.values()]
    if "s_per_prefill_token" in solution.at_bound and floors.get("s_per_prefill_token"):
        remarks.append(
            "s_per_prefill_token would go below its physical floor: prompts were faster than the hardware can compute "
            "them, so they came from the prefix cache; give --cached-share, or measure with distinct prompts"
        )
    if len({load.concurrency for load in loads}) == len(loads) == 1 and not loads[0].measured:
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


_TOLD: tuple[tuple[Metric, Statistic], ...] = (
    ("ttft", "median"), ("ttft", "p95"), ("tpot", "median"), ("tpot", "p95"), ("e2e", "median"), ("e2e", "p95"),
)  # fmt: skip


def compare(load: Load, times: Times) -> list[Residual]:
    """A load's figures beside the simulated ones; where each request was measured, medians and P95 of all."""
    figures = list(load.figures)
    if load.measured is not None:
        figures += [Figure(metric, statistic, figure_of(Figure(metric, statistic, 0.0), load.measured)) for metric, statistic in _TOLD]
    return [Residual(load.name, figure.name, figure.value, figure_of(figure, times)) for figure in figures]
