"""What a trace says: one request, what reading it counted, and what the whole looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class RequestKind(StrEnum):
    """Who sent it, where the trace says so. Only conversations follow the day; programs burst at any hour."""

    CONVERSATION = "conversation"
    API = "api"


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace.

    ``arrival_s`` counts from the trace's first request. ``failed`` marks a request that got no answer where it was
    recorded (no output tokens): it is counted and never replayed. ``prompt_tokens`` may be 0 where the trace says so.
    ``session`` groups the requests of one user.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    failed: bool = False
    session: str | None = None
    kind: RequestKind | None = None


class Requests(Iterable[TraceRequest]):
    """Requests in order of arrival, made anew and lazily on every iteration, so that they can be read twice."""

    def __init__(self, make: Callable[[], Iterator[TraceRequest]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[TraceRequest]:
        return self._make()


def replayable(requests: Iterable[TraceRequest]) -> Requests:
    """``requests`` without those that failed where they were recorded."""
    return Requests(lambda: (request for request in requests if not request.failed))


@dataclass(slots=True)
class ReadStatistics:
    """What one pass over a trace has counted so far.

    ``rows`` are the readable ones, failed requests included; ``bad`` were skipped, the first of them described in
    ``first_bad``. ``began_at`` is the first request's own timestamp in seconds: since the Unix epoch if the format
    has dates, else since wherever the trace counts from.
    """

    rows: int = 0
    failed: int = 0
    bad: int = 0
    first_bad: str = ""
    began_at: float | None = None


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Tokens per replayable request; quantiles are exact (nearest rank)."""

    total: int
    mean: float
    p50: int
    p95: int
    p99: int
    largest: int


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What ``trace info`` tells; ``broker.model.wire.encode`` gives its JSON form.

    Rates and burstiness are over all rows, tokens over those that did not fail. ``dispersion_per_min`` is the
    variance of the requests in whole minutes over their mean (1 for Poisson), ``gap_cv`` the coefficient of
    variation of the gaps between arrivals (1 for Poisson), ``daily_correlation`` the autocorrelation of hourly
    counts at 24 h, present for traces of two days and more: near 1, load follows the day.
    """

    path: str
    format: str
    rows: int
    failed: int
    bad: int
    first_bad: str
    began_at: float
    span_s: float
    mean_per_min: float
    peak_per_min: int
    dispersion_per_min: float | None
    gap_cv: float | None
    daily_correlation: float | None
    prompt: TokenStatistics | None
    output: TokenStatistics | None
    kinds: Mapping[str, int] = field(default_factory=dict)
    has_sessions: bool = False
