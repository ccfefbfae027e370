"""What the demo plays, and the site and policies it plays it on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

from broker.model.errors import ConfigError, TraceError
from broker.model.units import format_number
from cli.replayed import nothing_sent, trace_counts
from simulator.engine.profile import EngineProfile, capacity_rps
from simulator.profiles.document import load_profile as engine_profile
from simulator.report.summary import TraceCounts
from traces.counts import count_window
from traces.describe import describe, span_problem
from traces.generate import DEMO_PEAK, demo_load, scale_tokens
from traces.options import LARGEST_RATE_SCALE, ScaleMethod
from traces.profiles import load_profile
from traces.readers import open_trace
from traces.schema import TraceRequest, replayable
from traces.shape import Window, parse_window, scale_rate, window

MODEL_ID = "chat"
MAXIMUM = 4
TRACE_S = 60.0
TAIL_S = 26.0
"""After the last arrival: the streams end, the windows clear, the last drains finish."""
ANSWERS_S = 48.0
"""How long the last answers may take; the longest of BurstGPT's are 2,000 tokens."""

_TRACE_LOAD = 1.8
"""A trace is scaled so that its window needs this many replicas on average, unless --rate-scale says otherwise."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """``requests`` arrive within ``load_s``; ``counts`` tells what became of a trace's rows, None if generated."""

    title: str
    requests: list[TraceRequest]
    load_s: float
    profile: str
    shaped: bool
    counts: TraceCounts | None = None


def generated(seed: int, load_s: float) -> Scenario:
    """A load with the fitted shape of a conversation service, its lengths shortened to fit a minute."""
    engine = engine_profile("demo").engine
    profile = scale_tokens(load_profile("azure2023_conv"), prompt=0.1, output=0.25)
    sample = list(islice(demo_load(profile, 10.0, 600.0, seed), 2000))
    one_replica = _capacity(engine, sample)
    requests = list(demo_load(profile, one_replica, load_s, seed))
    title = f"generated load, peak {DEMO_PEAK:g} times one replica's {one_replica:.1f} requests/s"
    return Scenario(title, requests, load_s, "demo", shaped=True)


def _capacity(engine: EngineProfile, requests: Iterable[TraceRequest]) -> float:
    found = list(requests)
    return capacity_rps(
        engine, fmean(request.prompt_tokens for request in found), fmean(request.output_tokens for request in found)
    )


def from_trace(
    path: Path, *, span: str | None, rate_scale: float | None, method: ScaleMethod, skip_bad: bool, seed: int
) -> Scenario:
    """A part of a real trace, at its own pace. Raises ``TraceError`` or ``ConfigError``."""
    chosen = parse_window(span) if span else Window(0.0, TRACE_S)
    if chosen.end_s - chosen.start_s > 90.0:
        raise ConfigError(f"{span} is longer than the 90s that fit a demo; `tidegate simulate` takes any length")
    if problem := span_problem(describe(path, skip_bad=skip_bad)):
        raise TraceError(problem, path=str(path))
    reader = open_trace(path, skip_bad=skip_bad)
    part = count_window(reader, chosen)
    factor = rate_scale if rate_scale is not None else _factor(lambda: replayable(reader), chosen, method, seed)
    scaled = window(scale_rate(replayable(reader), factor, seed, method), chosen.start_s, chosen.end_s)
    requests = list(scaled)
    if not requests:
        raise ConfigError(
            f"{path.name}: {nothing_sent(part, factor)}; choose another --window, or a larger --rate-scale"
        )
    title = (
        f"{path.name} ({reader.format.name}), window {chosen}: {len(requests):,} requests at {format_number(factor)} "
        f"times its rate ({method})"
    )
    load_s = chosen.end_s - chosen.start_s
    return Scenario(title, requests, load_s, "demo-trace", shaped=False, counts=trace_counts(part, factor))


def _factor(requests: Callable[[], Iterable[TraceRequest]], chosen: Window, method: ScaleMethod, seed: int) -> float:
    """The scale at which the window needs ``_TRACE_LOAD`` replicas; judged on the whole trace for copies, which mix it."""
    engine = engine_profile("demo-trace").engine
    whole = list(requests())
    if not whole:
        raise ConfigError("the trace has no request that was answered")
    span_s = max(request.arrival_s for request in whole) or 1.0
    inside = [request for request in whole if chosen.start_s <= request.arrival_s < chosen.end_s]
    wanted = _TRACE_LOAD * _capacity(engine, whole)
    here = len(inside) / (min(chosen.end_s, span_s) - chosen.start_s) if inside else 0.0
    rate = len(whole) / span_s if method is ScaleMethod.SUPERPOSE or not here else here
    return min(LARGEST_RATE_SCALE, wanted / rate)


def policies_yaml(profile: str, stop_grace_s: float) -> str:
    """The demo's rules are those of the shipped example with shorter times: its day lasts a minute."""
    return f"""\
models:
  {MODEL_ID}:
    engine:
      command: ["{{python}}", "-m", "simulator.emulator", "--model", "{{model}}", "--host", "{{host}}",
                "--port", "{{port}}", "--profile", "{profile}", "--shutdown-timeout", "30"]
      profile: {profile}
    min: 1
    max: {MAXIMUM}
    drain_limit: 90s
    stop_grace: {stop_grace_s:g}s
    load_timeout: 60s
    policy:
      kind: threshold
      rules:
        - {{name: queue, signal: queue_age_s, above: 0.7s, for: 2s, change: +1}}
        - {{name: busy, signal: requests_per_replica, above: {_busy(profile)}, for: 2s, change: +1}}
        - {{name: cache, signal: kv_cache_use, above: 0.85, for: 2s, change: +1}}
        - {{name: calm, signal: requests_per_replica, below: {_calm(profile)}, for: 4s, projected: true, change: -1}}
"""


def _busy(profile: str) -> int:
    return round(engine_profile(profile).engine.max_num_seqs * 0.9)


def _calm(profile: str) -> int:
    return round(engine_profile(profile).engine.max_num_seqs * 0.75)
