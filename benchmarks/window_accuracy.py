"""A recording of a real vLLM through ``SignalWindow``, compared with what its clients saw.

The recording has the server's ``/metrics`` each 0.5 s and each request's arrival, first token and end by the clients'
clock. The window is fed once with the scrapes alone, and once with the summaries that a gateway would have sent.
The truth at a time is computed from the requests: who was open, who had no first token yet, what arrived.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from broker.model.signals import MetricSample, RequestSummary, Signal
from broker.model.sketch import Sketch
from signals.ingest.vllm_metrics import parse_metrics
from signals.window import SignalWindow

MODEL = "tiny"
SMOOTHING_S = 15.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of constant load."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Recording:
    """Scrapes of one server, and its requests in columns (seconds from the start, tokens)."""

    phases: tuple[Phase, ...]
    samples: tuple[MetricSample, ...]
    arrival: Floats
    first_token: Floats
    end: Floats
    prompt: Floats
    output: Floats


@dataclass(frozen=True, slots=True)
class PhaseErrors:
    """For each signal: the truth's mean, the mean error (bias), the mean absolute error and the largest one."""

    source: str
    phase: str
    start_s: float
    end_s: float
    errors: dict[str, dict[str, float]]


def read_recording(folder: Path) -> Recording:
    with gzip.open(folder / "recording_v0.32.0_requests.jsonl.gz", "rt") as lines:
        head, *requests = (json.loads(line) for line in lines)
    with gzip.open(folder / "recording_v0.32.0_metrics.jsonl.gz", "rt") as lines:
        scrapes = [json.loads(line) for line in lines]
    samples = tuple(
        parse_metrics("\n".join(scrape["text"]), MODEL, "tiny-0-g1", scrape["t"], scrape["t"]) for scrape in scrapes
    )
    ends = np.cumsum([0.0, *[length for length, _ in head["phases"]]]).tolist()
    phases = tuple(
        Phase(f"{index + 1}: {rate:g}/s", start, end)
        for index, ((_, rate), start, end) in enumerate(zip(head["phases"], ends[:-1], ends[1:], strict=True))
    )
    columns = ("arrival_s", "first_token_s", "end_s", "prompt_tokens", "completion_tokens")
    return Recording(phases, samples, *(np.array([request[name] for request in requests]) for name in columns))


def gateway_summaries(recording: Recording, seconds: int) -> Iterator[RequestSummary]:
    """What a gateway between these clients and the server would have sent, one summary a second, at the half second:
    on average the latest report is half its interval old."""
    for second in range(1, seconds + 1):
        start, at = second - 1.5, second - 0.5
        arrived = _within(recording.arrival, start, at)
        started = _within(recording.first_token, start, at)
        ended = _within(recording.end, start, at)
        waiting = (recording.arrival <= at) & (recording.first_token > at)
        spans = recording.end[ended] - recording.first_token[ended]
        gaps = spans / np.maximum(recording.output[ended] - 1, 1)
        yield RequestSummary(
            MODEL,
            "gateway-1",
            "boot-1",
            second,
            at,
            at,
            1.0,
            arrived=int(arrived.sum()),
            finished=int(ended.sum()),
            in_flight=int(((recording.arrival <= at) & (recording.end > at)).sum()),
            waiting=int(waiting.sum()),
            oldest_waiting_since=float(recording.arrival[waiting].min()) if waiting.any() else None,
            queue_age=Sketch.of(at - recording.arrival[waiting]),
            time_to_first_token=Sketch.of(recording.first_token[started] - recording.arrival[started]),
            inter_token=Sketch.of(gaps),
            prompt_tokens=Sketch.of(recording.prompt[arrived]),
            output_tokens=Sketch.of(recording.output[ended]),
        )


def compare(recording: Recording) -> list[PhaseErrors]:
    """Errors by phase, first of the engines' metrics alone, then of the gateway's summaries alone."""
    seconds = int(recording.samples[-1].observed_at)
    rows = []
    sources: dict[str, Sequence[MetricSample | RequestSummary]] = {
        "engine": list(recording.samples),
        "gateway": list(gateway_summaries(recording, seconds)),
    }
    for source, samples in sources.items():
        said = _said(samples, seconds)
        for phase in recording.phases:
            ticks = [tick for tick in range(1, seconds + 1) if phase.start_s < tick <= phase.end_s]
            errors = {}
            for signal, truth_at in _TRUTHS.items():
                truth = np.array([truth_at(recording, float(tick)) for tick in ticks])
                value = np.array([said[signal][tick - 1] for tick in ticks])
                both = np.isfinite(truth) & np.isfinite(value)
                if both.any():
                    errors[signal.value] = _errors(truth[both], value[both])
            rows.append(PhaseErrors(source, phase.name, phase.start_s, phase.end_s, errors))
    return rows


def _said(samples: Sequence[MetricSample | RequestSummary], seconds: int) -> dict[Signal, Floats]:
    """Each signal's reading at each whole second, NaN where it was not usable."""
    window = SignalWindow(MODEL, (), 15.0, smoothing_s=SMOOTHING_S)
    said = {signal: np.full(seconds, math.nan) for signal in Signal}
    waiting = iter(samples)
    upcoming = next(waiting, None)
    for tick in range(1, seconds + 1):
        while upcoming is not None and upcoming.observed_at <= tick:
            window.observe(upcoming)
            upcoming = next(waiting, None)
        snapshot = window.snapshot(float(tick), float(tick))
        for signal in Signal:
            current = snapshot.reading(signal).current
            said[signal][tick - 1] = math.nan if current is None else current
    return said


def _errors(truth: Floats, value: Floats) -> dict[str, float]:
    error = value - truth
    figures = {"truth": truth.mean(), "bias": error.mean(), "mae": np.abs(error).mean(), "worst": np.abs(error).max()}
    return {name: round(float(figure), 4) for name, figure in figures.items()}


def _within(times: Floats, start: float, end: float) -> NDArray[np.bool_]:
    return (times > start) & (times <= end)


def _queue_age(recording: Recording, t: float) -> float:
    waiting = (recording.arrival <= t) & (recording.first_token > t)
    return float(t - recording.arrival[waiting].min()) if waiting.any() else 0.0


def _waiting(recording: Recording, t: float) -> float:
    return float(((recording.arrival <= t) & (recording.first_token > t)).sum())


def _running(recording: Recording, t: float) -> float:
    return float(((recording.first_token <= t) & (recording.end > t)).sum())


def _arrivals(recording: Recording, t: float) -> float:
    return float(_within(recording.arrival, t - SMOOTHING_S, t).sum()) / min(SMOOTHING_S, t)


def _prompt_tokens(recording: Recording, t: float) -> float:
    return float(recording.prompt[_within(recording.arrival, t - SMOOTHING_S, t)].sum()) / min(SMOOTHING_S, t)


def _generated_tokens(recording: Recording, t: float) -> float:
    """Tokens that came within the span, each request's spread evenly from its first token to its end."""
    duration = np.maximum(recording.end - recording.first_token, 1e-6)
    share = np.clip((t - recording.first_token) / duration, 0.0, 1.0)
    before = np.clip((t - SMOOTHING_S - recording.first_token) / duration, 0.0, 1.0)
    return float(((share - before) * recording.output).sum()) / min(SMOOTHING_S, t)


def _time_to_first_token(q: float) -> Callable[[Recording, float], float]:
    def truth_at(recording: Recording, t: float) -> float:
        started = _within(recording.first_token, t - SMOOTHING_S, t)
        if not started.any():
            return math.nan
        waited = recording.first_token[started] - recording.arrival[started]
        return float(np.quantile(waited, q, method="inverted_cdf"))

    return truth_at


_TRUTHS: dict[Signal, Callable[[Recording, float], float]] = {
    Signal.QUEUE_AGE: _queue_age,
    Signal.REQUESTS_WAITING: _waiting,
    Signal.REQUESTS_RUNNING: _running,
    Signal.ARRIVAL_RATE: _arrivals,
    Signal.PROMPT_TOKEN_RATE: _prompt_tokens,
    Signal.GENERATION_TOKEN_RATE: _generated_tokens,
    Signal.TTFT_P50: _time_to_first_token(0.5),
    Signal.TTFT_P95: _time_to_first_token(0.95),
}
