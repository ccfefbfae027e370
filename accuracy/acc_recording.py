"""A recorded vLLM (0.32.0 on two CPU cores): fitted on idle, light and medium load, the rest of the run predicted.

Every request after the first 95 s is held out: overload, light load again, and a burst. The simulated engine gets the
arrivals and lengths of the recording and nothing else of it. Nulls: repeat the previous phase's median, and copy the
fitted phase of the nearest request rate.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from accuracy.base import REPOSITORY, Cell, Report, Table, Tell, percent, shared_path, skill
from accuracy.plot import Line, Panel, svg
from broker.model.errors import ConfigError
from signals.ingest.vllm_metrics import parse_cache_config
from simulator.calibration.fit import FittedProfile, changed, fit_profile
from simulator.calibration.recording import Phase, RequestLog, gauges_of, read_metrics_history, read_requests
from simulator.calibration.replay import Floats, Gauges, Times, replay
from simulator.engine.profile import EngineProfile
from simulator.profiles.document import load_profile

REQUESTS = "vllm/recording_v0.32.0_requests.jsonl.gz"
METRICS = "vllm/recording_v0.32.0_metrics.jsonl.gz"
FULL_PAGE = "vllm/metrics_v0.32.0.txt"
FITTED_PHASES = 3
LEAST_REQUESTS = 10
"""A phase with fewer requests has no quantiles worth the name."""
DRAWS = 40
PLOT = REPOSITORY / "build" / "accuracy" / "recording.svg"
METRICS_OF: dict[str, Callable[[Times], Floats]] = {
    "TTFT": lambda times: times.ttft,
    "TPOT": lambda times: times.tpot,
    "E2E": lambda times: times.e2e,
}


@dataclass(frozen=True, slots=True)
class Noise:
    """How the server's pace wanders: the spread of its logarithm, and how long it remembers."""

    sigma: float
    memory_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The recording and what the simulated engine made of the same arrivals, once and under ``DRAWS`` paces."""

    log: RequestLog
    fitted: FittedProfile
    noise: Noise
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

    def within(self, phase: Phase) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        arrival = self.log.times.arrival
        inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = (arrival >= phase.start_s) & (arrival < phase.end_s)
        return inside

    def nearest_fitted(self, phase: Phase) -> Phase:
        """Of the fitted phases with requests, the one of the most alike rate, other than the phase itself."""
        known = [each for each in self.log.phases[:FITTED_PHASES] if each.rate_per_s and each is not phase]
        return min(known, key=lambda each: abs(math.log(each.rate_per_s / phase.rate_per_s)))


def run(tell: Tell) -> Report:
    """Per phase: requests' times, single requests' errors, gauges; each beside its null."""
    paths = [shared_path(name) for name in (REQUESTS, METRICS, FULL_PAGE)]
    requests, metrics, page = paths
    if requests is None or metrics is None or page is None:
        return Report("recording", skipped=f"needs the shared data sets {REQUESTS}, {METRICS} and {FULL_PAGE}")
    tell("recording: fitting idle, light and medium load")
    found = compare_recording(requests, metrics, page, tell)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(_plot(found), encoding="utf-8")
    tables = (_fit_table(found), _quantiles(found), _single_requests(found), _gauges(found), *_pace(found))
    overload = found.log.phases[OVERLOAD - 1]
    inside = found.within(overload)
    headline = {
        f"recording.overload.{name.lower()}_median_error": abs(
            float(np.median(of(found.simulated)[inside]) / np.median(of(found.log.times)[inside]) - 1)
        )
        for name, of in METRICS_OF.items()
    }
    return Report("recording", tables, files=(str(PLOT.relative_to(REPOSITORY)),), headline=headline)


def compare_recording(requests: Path, metrics: Path, page: Path, tell: Tell) -> Comparison:
    log = read_requests(requests, _text(requests))
    samples, cache = read_metrics_history(metrics, _text(metrics))
    cache = cache or parse_cache_config(page.read_text(encoding="utf-8"))
    if cache is None:
        raise ConfigError("no vllm:cache_config_info, so that the block size is not known", path=str(page))
    limits = {"block_size": cache.block_size, "num_blocks": cache.num_gpu_blocks, "max_num_batched_tokens": 2048}
    base = changed(load_profile("steady-30").engine, {**limits, **log.limits})
    fitted = fit_profile([log.until(log.phases[FITTED_PHASES - 1].end_s, "idle, light and medium")], base)
    measured = gauges_of(samples)
    simulated, gauges = replay(fitted.engine, log.requests, sample_at=measured.at.tolist())
    noise = _noise(log, simulated)
    draws = []
    for seed in range(DRAWS):
        tell(f"recording: predicting under wandering pace, draw {seed + 1} of {DRAWS}")
        draws.append(_wandering(fitted.engine, log, noise, measured.at, seed))
    return Comparison(log, fitted, noise, measured, simulated, gauges, tuple(draws))


def _text(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


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
    """The same load on an engine whose whole pace wanders: time is bent for the engine, and bent back."""
    step_s = 0.1
    span = int((log.times.arrival[-1] + 60) / step_s)
    keep = math.exp(-step_s / noise.memory_s)
    shocks = np.random.default_rng(seed).normal(size=span)
    state = np.empty(span)
    state[0] = shocks[0]
    for index in range(1, span):
        state[index] = keep * state[index - 1] + math.sqrt(1 - keep * keep) * shocks[index]
    slowdown = np.exp(noise.sigma * state - noise.sigma**2 / 2)  # 1 on average, so that the mean pace stays as fitted
    real = np.arange(span + 1) * step_s
    work = np.concatenate([[0.0], np.cumsum(step_s / slowdown)])
    bent = np.interp(log.times.arrival, real, work)
    requests = [replace(request, arrival_at=float(at)) for request, at in zip(log.requests, bent, strict=True)]
    times, gauges = replay(engine, requests, sample_at=np.interp(looks, real, work).tolist())
    first_token, end = (np.interp(values, work, real) for values in (times.first_token, times.end))
    return Times(log.times.arrival, first_token, end, times.output_tokens), replace(gauges, at=looks)


def _kind(number: int) -> str:
    return "fitted" if number <= FITTED_PHASES else "held out"


def _fit_table(found: Comparison) -> Table:
    fitted = found.fitted
    rows: list[tuple[Cell, ...]] = [
        (name, f"{getattr(fitted.engine, name):.3g} s", percent(error))
        for name, error in fitted.relative_errors.items()
    ]
    rows += [(each.name, f"{each.value:.3g} s", f"held: {each.reason}") for each in fitted.held]
    return Table(
        "recording_fit",
        "The fit to idle, light and medium load",
        ("coefficient", "value", "standard error"),
        tuple(rows),
        n=fitted.numbers,
        free=len(fitted.relative_errors),
        remarks=(
            f"block_size {fitted.engine.block_size} from vllm:cache_config_info of the same server version (the "
            "recorded pages lack it); max_num_seqs and the number of blocks from its command line.",
            f"The pace of the real server wanders: what the fit leaves of its time between tokens spreads by "
            f"{percent(found.noise.sigma)} and is alike for {found.noise.memory_s:g} s. Standard errors take the "
            "requests as independent and are too small for that.",
        ),
    )


def _quantiles(found: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for number, phase, before in found.phases:
        inside = found.within(phase)
        for name, of in METRICS_OF.items():
            measured, simulated = of(found.log.times)[inside], of(found.simulated)[inside]
            nulls = [of(found.log.times)[found.within(each)] for each in (before, found.nearest_fitted(phase))]
            spread = np.percentile([np.median(of(times)[inside]) for times, _ in found.draws], [5, 95]) * 1000
            for q in (50, 95):
                truth = float(np.percentile(measured, q))
                error = float(np.percentile(simulated, q)) / truth - 1
                wrong = [float(np.percentile(null, q)) / truth - 1 for null in nulls]
                rows.append((
                    phase.name, _kind(number), int(inside.sum()), f"{name} P{q}", round(truth * 1000, 2),
                    round(truth * 1000 * (1 + error), 2), percent(error), percent(wrong[0]), percent(wrong[1]),
                    round(skill(abs(error), min(map(abs, wrong))), 2),
                    f"{spread[0]:.3g} to {spread[1]:.3g}" if q == 50 else None,
                ))  # fmt: skip
    return Table(
        "recording_requests",
        "Median and P95 of requests, by phase (ms)",
        ("phase", "", "n", "figure", "measured", "simulated", "error", "null: previous phase", "null: nearest fitted",
         "skill over the better null", f"90 % of {DRAWS} draws of the pace"),
        tuple(rows),
        n=int(sum(row[2] for row in rows if isinstance(row[2], int)) // 6),
        free=len(found.fitted.relative_errors),
        remarks=(
            "The last column is the floor: the same engine under paces that wander as the fitted phases' did. Under "
            "overload the queue follows from a small difference between arrivals and pace, so that a few percent of "
            "pace are a factor in the time to first token.",
        ),
    )  # fmt: skip


def _single_requests(found: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for number, phase, before in found.phases:
        inside = found.within(phase)
        for name, of in METRICS_OF.items():
            truth = of(found.log.times)[inside]
            errors = np.abs(of(found.simulated)[inside] / truth - 1)
            nulls = np.abs(np.median(of(found.log.times)[found.within(before)]) / truth - 1)
            error, null = float(np.median(errors)), float(np.median(nulls))
            rows.append((
                phase.name, _kind(number), int(inside.sum()), name, percent(error),
                percent(float(np.percentile(errors, 95))), percent(null), percent(float(np.percentile(nulls, 95))),
                round(skill(error, null), 2),
            ))  # fmt: skip
    return Table(
        "recording_single",
        "Errors of single requests, by phase",
        ("phase", "", "n", "metric", "median error", "P95 of errors", "null's median error", "null's P95", "skill"),
        tuple(rows),
        n=int(sum(row[2] for row in rows if isinstance(row[2], int)) // 3),
        free=len(found.fitted.relative_errors),
        remarks=("Null: the previous phase's median for every request.",),
    )


def _gauges(found: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    at = found.measured.at
    previous = None
    for number, phase in enumerate(found.log.phases, 1):
        inside = (at > phase.start_s) & (at <= phase.end_s)
        for name in ("running", "waiting", "kv_use"):
            truth, value = getattr(found.measured, name), getattr(found.gauges, name)
            if previous is not None:
                errors = np.abs(value - truth)[inside]
                null = np.abs(np.nanmedian(truth[previous]) - truth[inside])
                mean_null = np.float64(np.nanmean(null))
                rows.append((
                    phase.name, _kind(number), int(inside.sum()), name, _short(np.nanmean(truth[inside])),
                    _short(np.nanmean(value[inside])), _short(np.nanmean(errors)), _short(np.nanmedian(errors)),
                    _short(np.nanpercentile(errors, 95)), _short(mean_null), _short(np.nanmedian(null)),
                    _short(np.nanpercentile(null, 95)),
                    round(skill(float(np.nanmean(errors)), float(mean_null)), 2) if mean_null else None,
                ))  # fmt: skip
        previous = inside
    return Table(
        "recording_gauges",
        "Absolute errors of the gauges at each scrape, by phase",
        ("phase", "", "n", "gauge", "mean measured", "mean simulated", "mean error", "median error", "P95 of errors",
         "null's mean", "null's median", "null's P95", "skill (means)"),
        tuple(rows),
        n=int((at > found.log.phases[0].end_s).sum()),
        free=len(found.fitted.relative_errors),
        remarks=(
            "Null: the previous phase's median at every scrape. Medians of gauges are whole numbers and often 0; skill "
            "is of the mean errors. Where nothing ran, before and now, the null is perfect and no skill is told.",
        ),
    )  # fmt: skip


PACES = (0.9, 0.95, 1.0, 1.05, 1.1)
OVERLOAD = 4


def _pace(found: Comparison) -> tuple[Table, Table]:
    """How far the server's pace was from the fitted one in each phase, and what that does to the overload."""
    paces: list[tuple[Cell, ...]] = []
    own = 1.0
    for number, phase in enumerate(found.log.phases, 1):
        inside = found.within(phase)
        if inside.sum() < LEAST_REQUESTS:
            continue
        spent = [float((times.end - times.first_token)[inside].sum()) for times in (found.log.times, found.simulated)]
        paces.append((phase.name, _kind(number), int(inside.sum()), percent(spent[0] / spent[1] - 1)))
        if number == OVERLOAD:
            own = spent[0] / spent[1]
    inside = found.within(found.log.phases[OVERLOAD - 1])
    rows: list[tuple[Cell, ...]] = [("measured", *_overload(found.log.times, inside))]
    for pace in (*PACES, own):
        engine = slowed(found.fitted.engine, pace)
        label = f"iterations {percent(pace - 1)}" + (" (its own pace)" if pace is own else "")
        rows.append((label, *_overload(replay(engine, found.log.requests)[0], inside)))
    return (
        Table(
            "recording_pace",
            "Time that the server took for decoding beyond what the fitted engine takes, by phase",
            ("phase", "", "n", "slower by"),
            tuple(paces),
            n=sum(row[2] for row in paces if isinstance(row[2], int)),
            free=len(found.fitted.relative_errors),
            remarks=("The same server, on a machine that does other things: no engine with fixed coefficients follows "
                     "this, and it is the floor under all errors above.",),
        ),
        Table(
            "recording_overload_by_pace",
            "The overload, if all iterations were shorter or longer (medians and P95, ms)",
            ("engine", "TTFT P50", "TTFT P95", "TPOT P50", "E2E P50"),
            tuple(rows),
            n=int(inside.sum()),
            free=len(found.fitted.relative_errors),
            remarks=("A diagnosis, not a prediction: the last row knows the phase's own pace, and shows what is left "
                     "to the engine's rules once the pace is right.",),
        ),
    )  # fmt: skip


def slowed(engine: EngineProfile, factor: float) -> EngineProfile:
    """All terms of the iteration times ``factor``; the front end stays."""
    terms = ("base_s", "s_per_prefill_token", "s_per_decode_sequence", "s_per_kv_token")
    return changed(engine, {name: factor * getattr(engine, name) for name in terms})


def _overload(times: Times, inside: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Cell, ...]:
    ttft, tpot, e2e = times.ttft[inside], times.tpot[inside], times.e2e[inside]
    return tuple(
        round(1000 * float(value), 2)
        for value in (np.median(ttft), np.percentile(ttft, 95), np.nanmedian(tpot), np.median(e2e))
    )


def _short(value: np.float64) -> float:
    return float(f"{value:.3g}")


def _plot(found: Comparison) -> str:
    at = found.measured.at
    marks = [(phase.start_s, f"{phase.rate_per_s:g}/s") for phase in found.log.phases]
    panels = []
    for name, title in (("waiting", "requests waiting"), ("running", "requests running"), ("kv_use", "KV cache use")):
        drawn = np.array([getattr(gauges, name) for _, gauges in found.draws])
        band = (np.percentile(drawn, 5, axis=0), np.percentile(drawn, 95, axis=0))
        panels.append(
            Panel(
                title,
                (
                    Line("simulated", at, getattr(found.gauges, name), band),
                    Line("measured", at, getattr(found.measured, name)),
                ),
            )
        )
    arrival = found.log.times.arrival
    drawn = np.array([times.ttft for times, _ in found.draws])
    band = (np.percentile(drawn, 5, axis=0), np.percentile(drawn, 95, axis=0))
    panels.append(
        Panel(
            "time to first token (s)",
            (Line("simulated", arrival, found.simulated.ttft, band), Line("measured", arrival, found.log.times.ttft)),
        )
    )
    title = f"vLLM 0.32.0 on CPU: fitted on the first {FITTED_PHASES} phases, the rest predicted (band: 90 % of paces)"
    return svg(title, panels, marks)
