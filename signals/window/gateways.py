"""What the gateways' summaries say of a model at any time.

Of each gateway the newest state counts (what waits, since when). Counts and sketches of all gateways add up in one
sum for each second: whole numbers, so that the order of adding leaves no trace.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from broker.model.signals import RequestSummary, Signal
from broker.model.sketch import BUCKETS
from signals.window.quantiles import SKETCH_ENTRY, SKETCH_VALUES, Floats, sketch_quantile

# The columns of a second's sums, behind the counts of the two sketches whose quantiles are asked for.
TTFT, INTER_TOKEN = slice(0, BUCKETS), slice(BUCKETS, 2 * BUCKETS)
ARRIVED, FAILED, MICROSECONDS, PROMPT_MILLI, OUTPUT_MILLI = range(2 * BUCKETS, 2 * BUCKETS + 5)
COLUMNS = 2 * BUCKETS + 5
_MILLI_VALUES: Floats = np.rint(SKETCH_VALUES * 1000.0)

_COLUMNS = attrgetter(
    "gateway_id",
    "arrived",
    "failed",
    "interval_s",
    "time_to_first_token.packed",
    "inter_token.packed",
    "prompt_tokens.packed",
    "output_tokens.packed",
)
_ROW = struct.Struct("<4d")
_NOBODY = -math.inf
_LAST_BOOT = "\U0010ffff"

Key = tuple[float, str, int]
"""(time, boot id, sequence) of a report: two of one time are told apart and have a fixed order."""


@dataclass(slots=True)
class Gateway:
    """One gateway's reports by rising key; each row is (when the next is due, age of the oldest waiting at
    observed_at or -infinity, waiting, in_flight). A restarted gateway's new boot follows the old one, which
    thereby ends. ``seen`` and ``highest`` (sequence of each boot) spare a search through all of them for each report
    out of order: 10,000 of those in one body held the broker up for a minute."""

    gateway_id: str
    keys: list[Key] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)
    highest: dict[str, int] = field(default_factory=dict)
    at: float = -math.inf
    boot_id: str = ""
    sequence: int = -1

    def insert(self, key: Key, row: bytes) -> bool:
        """Put a report where its key wants it; False if it was seen before. ``at`` and
        ``boot_id`` are then those of the newest report, ``sequence`` the highest of that boot."""
        _, boot_id, sequence = key
        if (boot_id, sequence) in self.seen:
            return False
        self.seen.add((boot_id, sequence))
        self.highest[boot_id] = max(sequence, self.highest.get(boot_id, sequence))
        index = bisect_left(self.keys, key)
        self.keys.insert(index, key)
        self.rows.insert(index, row)
        self.at, self.boot_id, _ = self.keys[-1]
        self.sequence = self.highest[self.boot_id]
        return True

    def append(self, key: Key, row: bytes) -> None:
        """``insert`` for a report that is newer than all of the same boot."""
        self.at, _, self.sequence = key
        self.keys.append(key)
        self.rows.append(row)
        self.seen.add(key[1:])
        self.highest[self.boot_id] = self.sequence

    def evict(self, before: float) -> None:
        """Drop reports older than ``before``."""
        stale = bisect_left(self.keys, (before,))
        if stale > 0:
            self.seen.difference_update(key[1:] for key in self.keys[:stale])
            del self.keys[:stale], self.rows[:stale]
            boots = {boot_id for boot_id, _ in self.seen}
            self.highest = {boot_id: highest for boot_id, highest in self.highest.items() if boot_id in boots}


@dataclass(slots=True)
class Second:
    """The sums over all gateways' reports of one second, and which gateways those were."""

    gateways: set[str] = field(default_factory=set)
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(COLUMNS))


class Gateways:
    """The reports of one model's gateways. Each keeps 32 bytes and a key for each report of the retention; each
    second's sums are 5 KB whatever the number of gateways."""

    def __init__(self, patience_s: float, smoothing_s: float) -> None:
        self._patience_s = patience_s
        self._smoothing_s = smoothing_s
        self.known: dict[str, Gateway] = {}
        self._ordered: list[Gateway] = []
        self._seconds: dict[int, Second] = {}
        self._pending: list[RequestSummary] = []
        self._pending_at: list[float] = []

    def observe(self, summary: RequestSummary, at: float) -> bool:
        """Keep the summary. False for one that was seen before."""
        gateway = self.known.get(summary.gateway_id) or self._add(summary.gateway_id)
        boot_id, sequence, oldest = summary.boot_id, summary.sequence, summary.oldest_waiting_since
        age = _NOBODY if oldest is None else summary.observed_at - oldest
        row = _ROW.pack(summary.received_at + summary.interval_s, age, summary.waiting, summary.in_flight)
        if sequence > gateway.sequence and at > gateway.at and boot_id == gateway.boot_id:
            gateway.append((at, boot_id, sequence), row)
        elif not gateway.insert((at, boot_id, sequence), row):
            return False
        self._pending.append(summary)
        self._pending_at.append(at)
        return True

    def _add(self, gateway_id: str) -> Gateway:
        gateway = self.known[gateway_id] = Gateway(gateway_id)
        self._ordered = [self.known[known_id] for known_id in sorted(self.known)]
        return gateway

    def settle(self) -> None:
        """Add what came since the last time to the sums of its seconds."""
        if not self._pending:
            return
        first, last = math.ceil(min(self._pending_at)), math.ceil(max(self._pending_at))
        if first == last:
            self._add_up(first, self._pending)
        else:
            by_second: dict[int, list[RequestSummary]] = {}
            for at, summary in zip(self._pending_at, self._pending, strict=True):
                by_second.setdefault(math.ceil(at), []).append(summary)
            for tick, summaries in by_second.items():
                self._add_up(tick, summaries)
        self._pending, self._pending_at = [], []

    def _add_up(self, tick: int, summaries: list[RequestSummary]) -> None:
        second = self._seconds.get(tick)
        if second is None:
            second = self._seconds[tick] = Second()
        gateway_ids, arrived, failed, intervals_s, *sketches = zip(*map(_COLUMNS, summaries), strict=True)
        ttft, inter_token, prompt, output = _counts(*sketches)
        second.gateways.update(gateway_ids)
        second.sums[TTFT] += ttft
        second.sums[INTER_TOKEN] += inter_token
        second.sums[ARRIVED:] += (
            sum(arrived),
            sum(failed),
            sum([round(interval_s * 1e6) for interval_s in intervals_s]),
            prompt @ _MILLI_VALUES,
            output @ _MILLI_VALUES,
        )

    def evict(self, before: float) -> None:
        """Drop reports and sums older than ``before``, and gateways that have none since."""
        for gateway in self._ordered:
            gateway.evict(before)
        for gateway_id in [gateway.gateway_id for gateway in self._ordered if not gateway.keys]:
            del self.known[gateway_id]
        self._ordered = [gateway for gateway in self._ordered if gateway.keys]
        for tick in [tick for tick in self._seconds if tick <= before]:
            del self._seconds[tick]

    def view(self, t: float) -> GatewayView | None:
        """What the gateways said at ``t``; None if none reported within patience. Needs ``settle`` before."""
        since = t - self._patience_s
        rows: list[bytes] = []
        newest = -math.inf
        for gateway in self._ordered:
            at, latest = gateway.at, -1
            if at > t:
                latest = bisect_right(gateway.keys, (t, _LAST_BOOT, 0)) - 1
                if latest < 0:
                    continue
                at = gateway.keys[latest][0]
            if at >= since:
                rows.append(gateway.rows[latest])
                if at > newest:
                    newest = at
        if not rows:
            return None
        states = np.frombuffer(b"".join(rows)).reshape(-1, 4)
        # Ages are as of the report, by its own clock: between reports the oldest request changes as often as not, and
        # letting it age on doubled the error on a recording. A report that is overdue does age on, by the log's clock.
        age = float((states[:, 1] + np.maximum(t - states[:, 0], 0.0)).max())
        waiting, in_flight = np.add.reduce(states[:, 2:]).tolist()
        last = math.ceil(t)
        ticks = range(last - max(1, round(self._smoothing_s)) + 1, last + 1)
        seconds = [self._seconds[tick] for tick in ticks if tick in self._seconds]
        return GatewayView(newest, max(age, 0.0), waiting, in_flight, seconds)


class GatewayView:
    """What the gateways said at one time, with the sums of the seconds before it."""

    def __init__(
        self, observed_at: float, queue_age_s: float, waiting: float, in_flight: float, seconds: list[Second]
    ) -> None:
        self.observed_at = observed_at
        self.queue_age_s = queue_age_s
        self.waiting = waiting
        self.in_flight = in_flight
        self._sums = np.add.reduce([second.sums for second in seconds]) if seconds else np.zeros(COLUMNS)
        self._cumulative = {which.start: self._sums[which].cumsum() for which in (TTFT, INTER_TOKEN)}
        span_us = 0.0
        for second in seconds:
            # Seconds covered, by gateway: a lost report or one just joined does not count as a second of silence.
            span_us += second.sums.item(MICROSECONDS) / len(second.gateways)
        self._span_s = span_us / 1e6

    def rates(self) -> dict[Signal, float]:
        if self._span_s <= 0.0:
            return {}
        arrived, failed, _, prompt, output = (self._sums[ARRIVED:] / self._span_s).tolist()
        return {
            Signal.ARRIVAL_RATE: arrived,
            Signal.FAILURE_RATE: failed,
            Signal.PROMPT_TOKEN_RATE: prompt / 1000.0,
            Signal.GENERATION_TOKEN_RATE: output / 1000.0,
        }

    def quantile(self, which: slice, q: float) -> float | None:
        return sketch_quantile(q, self._cumulative[which.start])


def _counts(*packed: Sequence[bytes]) -> Floats:
    """The counts by bucket of the joined sketches of each kind, one row for a kind."""
    joined = [b"".join(sketches) for sketches in packed]
    entries = np.frombuffer(b"".join(joined), SKETCH_ENTRY)
    buckets = entries["bucket"].astype(np.intp)
    start = 0
    for kind, sketches in enumerate(joined):
        stop = start + len(sketches) // SKETCH_ENTRY.itemsize
        buckets[start:stop] += kind * BUCKETS
        start = stop
    counts = np.bincount(buckets, entries["count"], BUCKETS * len(packed))
    return np.asarray(counts, np.float64).reshape(len(packed), BUCKETS)
