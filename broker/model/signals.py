"""What is measured: one scrape of one replica, one second of one model at one gateway."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from enum import StrEnum

from broker.model.making import quickly_made
from broker.model.sketch import EMPTY_SKETCH, Sketch


class Signal(StrEnum):
    """The names that policies use. The unit is in the name; rates are per second."""

    QUEUE_AGE = "queue_age_s"
    REQUESTS_WAITING = "requests_waiting"
    REQUESTS_RUNNING = "requests_running"
    REQUESTS_PER_REPLICA = "requests_per_replica"
    KV_CACHE_USE = "kv_cache_use"
    ARRIVAL_RATE = "arrival_rate_per_s"
    FAILURE_RATE = "failure_rate_per_s"
    PROMPT_TOKEN_RATE = "prompt_token_rate_per_s"
    GENERATION_TOKEN_RATE = "generation_token_rate_per_s"
    PREEMPTION_RATE = "preemption_rate_per_s"
    TTFT_P50 = "ttft_p50_s"
    TTFT_P95 = "ttft_p95_s"
    INTER_TOKEN_P95 = "inter_token_p95_s"
    QUEUE_TIME_P95 = "queue_time_p95_s"


@quickly_made
@dataclass(frozen=True, slots=True)
class Histogram:
    """A Prometheus histogram as scraped: cumulative ``counts`` by upper ``bounds`` (the last is infinite)."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float


@quickly_made
@dataclass(frozen=True, slots=True)
class MetricSample:
    """What one scrape saw of one replica. Counters are the engine's own running totals, None where it has none.

    ``observed_at`` is the scraper's clock when the answer came, ``received_at`` the log's.
    """

    model_id: str
    replica_id: str
    observed_at: float
    received_at: float
    requests_running: float | None = None
    requests_waiting: float | None = None
    kv_cache_use: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    preemptions_total: float | None = None
    requests_finished_total: float | None = None
    queue_time: Histogram | None = None
    time_to_first_token: Histogram | None = None
    inter_token_latency: Histogram | None = None

    def implausible(self) -> str:
        """What in it cannot be and what would be right, empty if all can be."""
        if not 0.0 <= self.observed_at <= LATEST_AT:
            return f"observed_at: {self.observed_at} is not a time in seconds since the Unix epoch"
        for name in _NUMBERS:
            if (value := getattr(self, name)) is not None and not 0.0 <= value <= LARGEST_COUNT:
                return f"{name}: {value:g} is not from 0 to 2**53"
        for name in _HISTOGRAMS:
            if (histogram := getattr(self, name)) is not None and (problem := _malformed(histogram)):
                return f"{name}: {problem}"
        return ""


_NUMBERS = (
    *("requests_running", "requests_waiting", "kv_cache_use", "prompt_tokens_total", "generation_tokens_total"),
    *("preemptions_total", "requests_finished_total"),
)
_HISTOGRAMS = ("queue_time", "time_to_first_token", "inter_token_latency")


def _malformed(histogram: Histogram) -> str:
    if len(histogram.bounds) != len(histogram.counts):
        return f"{len(histogram.counts)} counts for {len(histogram.bounds)} buckets"
    if not _rise(histogram.bounds):
        return "its bounds do not rise"
    return "" if max(histogram.counts) <= LARGEST_COUNT and min(histogram.counts) >= 0.0 else "a count out of range"


@functools.lru_cache(maxsize=256)
def _rise(bounds: tuple[float, ...]) -> bool:
    return all(map(operator.lt, bounds, bounds[1:]))


LARGEST_COUNT = 2**53
"""Beyond it doubles, and JSON readers of other languages, lose digits."""

MOST_OPEN_REQUESTS = 10_000_000
"""At one gateway; a process has no more than some hundred thousand connections."""

MOST_PER_S = 1_000_000
"""Requests at one gateway; one process takes some ten thousand."""

LONGEST_WAIT_S = 86400.0
"""Of a request without a first token; every client has given up before."""

LONGEST_INTERVAL_S = 7 * 86400.0
LATEST_AT = 1e11
"""In the year 5138: whatever is later is no time."""


@quickly_made
@dataclass(frozen=True, slots=True)
class RequestSummary:
    """What one gateway saw of one model in one interval, mergeable with any other.

    Deduplicated by (``gateway_id``, ``boot_id``, ``sequence``). ``oldest_waiting_since`` is the arrival time of the
    oldest request that has no first token yet, None if there is none: the live queue age, which vLLM's own
    histogram cannot give because it is observed only when a request finishes. ``queue_age`` holds the ages, at
    ``observed_at``, of all requests still waiting.
    """

    model_id: str
    gateway_id: str
    boot_id: str
    sequence: int
    observed_at: float
    received_at: float
    interval_s: float
    arrived: int = 0
    finished: int = 0
    failed: int = 0
    rejected: int = 0
    held: int = 0
    in_flight: int = 0
    waiting: int = 0
    oldest_waiting_since: float | None = None
    queue_age: Sketch = EMPTY_SKETCH
    time_to_first_token: Sketch = EMPTY_SKETCH
    inter_token: Sketch = EMPTY_SKETCH
    prompt_tokens: Sketch = EMPTY_SKETCH
    output_tokens: Sketch = EMPTY_SKETCH

    def implausible(self) -> str:
        """What in it cannot be and what would be right, empty if all can be. Sums over such numbers overflow, and one
        of them scales a model to its maximum."""
        for name in ("sequence", "arrived", "finished", "failed", "rejected", "held", "in_flight", "waiting"):
            if not 0 <= getattr(self, name) <= LARGEST_COUNT:
                return f"{name}: it must be from 0 to 2**53"
        if not 0.0 <= self.interval_s <= LONGEST_INTERVAL_S:
            return f"interval_s: {self.interval_s} is not from 0 to {LONGEST_INTERVAL_S:g}"
        for name in ("in_flight", "waiting", "held"):
            if (count := getattr(self, name)) > MOST_OPEN_REQUESTS:
                return (
                    f"{name}: {count} is more than one gateway can hold ({MOST_OPEN_REQUESTS}); count the open requests"
                )
        most = MOST_PER_S * max(self.interval_s, 1.0)
        for name in ("arrived", "finished", "failed", "rejected"):
            if (count := getattr(self, name)) > most:
                return (
                    f"{name}: {count} in {self.interval_s:g} s is more than one gateway can take; count this interval's"
                )
        for name, at in (("observed_at", self.observed_at), ("oldest_waiting_since", self.oldest_waiting_since)):
            if at is not None and not 0.0 <= at <= LATEST_AT:
                return f"{name}: {at} is not a time in seconds since the Unix epoch"
        return self._implausible_age()

    def _implausible_age(self) -> str:
        if self.oldest_waiting_since is None:
            return ""
        age_s = self.observed_at - self.oldest_waiting_since
        if -LONGEST_WAIT_S <= age_s <= LONGEST_WAIT_S:
            return ""
        return (
            f"oldest_waiting_since: {self.oldest_waiting_since:g} is {abs(age_s):.0f} s off observed_at; give the "
            "arrival of the oldest waiting request by the same clock, null if none waits"
        )
