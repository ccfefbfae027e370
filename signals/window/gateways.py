"""What the gateways' summaries say of a model at any time.

Of each gateway the newest state counts (what waits, since when). Counts and sketches of all gateways add up in one
sum for each second: whole numbers, so that the order of adding leaves no trace.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

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

_ROW = struct.Struct("<4d")
_LAST_BOOT = "\U0010ffff"

Key = tuple[float, str, int]
"""(time, boot id, sequence) of a report: two of one time are told apart and have a fixed order."""


@dataclass(slots=True)
class Gateway:
    """One gateway's reports by rising key; each row is (received_at, age of the oldest waiting at observed_at or
    -infinity, waiting, in_flight). A restarted gateway's new boot follows the old one, which thereby ends."""

    gateway_id: str
    keys: list[Key] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    boot_id: str = ""
    sequence: int = -1


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
        self._gateways: dict[str, Gateway] = {}
        self._ordered: list[Gateway] = []
        self._seconds: dict[int, Second] = {}
        self._pending: dict[int, list[RequestSummary]] = {}

    def __contains__(self, gateway_id: str) -> bool:
        return gateway_id in self._gateways

    def observe(self, summary: RequestSummary, at: float) -> bool:
        """Keep the summary. False for one that was seen before."""
        gateway = self._gateways.get(summary.gateway_id)
        if gateway is None:
            gateway = self._gateways[summary.gateway_id] = Gateway(summary.gateway_id)
            self._ordered = [self._gateways[gateway_id] for gateway_id in sorted(self._gateways)]
        oldest = summary.oldest_waiting_since
        age = -math.inf if oldest is None else summary.observed_at - oldest
        row = _ROW.pack(summary.received_at, age, summary.waiting, summary.in_flight)
        keys = gateway.keys
        key = (at, summary.boot_id, summary.sequence)
        if not keys or (summary.sequence > gateway.sequence and summary.boot_id == gateway.boot_id and key > keys[-1]):
            keys.append(key)
            gateway.rows.append(row)
        elif any(key[1:] == known[1:] for known in keys):
            return False
        else:
            index = bisect_left(keys, key)
            keys.insert(index, key)
            gateway.rows.insert(index, row)
        if summary.boot_id != gateway.boot_id:
            gateway.boot_id, gateway.sequence = summary.boot_id, summary.sequence
        elif summary.sequence > gateway.sequence:
            gateway.sequence = summary.sequence
        second = math.ceil(at)
        if second in self._pending:
            self._pending[second].append(summary)
        else:
            self._pending[second] = [summary]
        return True

    def settle(self) -> None:
        """Add what came since the last time to the sums of its seconds."""
        for tick, summaries in self._pending.items():
            second = self._seconds.get(tick)
            if second is None:
                second = self._seconds[tick] = Second()
            second.gateways.update([summary.gateway_id for summary in summaries])
            sums = second.sums
            sums[TTFT] += _counts([summary.time_to_first_token.packed for summary in summaries])
            sums[INTER_TOKEN] += _counts([summary.inter_token.packed for summary in summaries])
            sums[ARRIVED] += sum([summary.arrived for summary in summaries])
            sums[FAILED] += sum([summary.failed for summary in summaries])
            sums[MICROSECONDS] += sum([round(summary.interval_s * 1e6) for summary in summaries])
            sums[PROMPT_MILLI] += _counts([summary.prompt_tokens.packed for summary in summaries]) @ _MILLI_VALUES
            sums[OUTPUT_MILLI] += _counts([summary.output_tokens.packed for summary in summaries]) @ _MILLI_VALUES
        self._pending.clear()

    def evict(self, before: float) -> None:
        """Drop reports and sums older than ``before``, and gateways that have none since."""
        for gateway in self._ordered:
            stale = bisect_left(gateway.keys, (before,))
            if stale > 0:
                del gateway.keys[:stale], gateway.rows[:stale]
        for gateway_id in [gateway.gateway_id for gateway in self._ordered if not gateway.keys]:
            del self._gateways[gateway_id]
        self._ordered = [gateway for gateway in self._ordered if gateway.keys]
        for tick in [tick for tick in self._seconds if tick <= before]:
            del self._seconds[tick]

    def view(self, t: float) -> GatewayView | None:
        """What the gateways said at ``t``; None if none reported within patience. Needs ``settle`` before."""
        since = t - self._patience_s
        rows: list[bytes] = []
        newest = -math.inf
        for gateway in self._ordered:
            keys = gateway.keys
            latest = len(keys) - 1
            if keys[latest][0] > t:
                latest = bisect_right(keys, (t, _LAST_BOOT, 0)) - 1
                if latest < 0:
                    continue
            at = keys[latest][0]
            if at >= since:
                rows.append(gateway.rows[latest])
                if at > newest:
                    newest = at
        if not rows:
            return None
        states = np.frombuffer(b"".join(rows)).reshape(-1, 4)
        # Ages by two differences, each within one clock: the gateway's up to its report, the log's since.
        age = float((states[:, 1] - states[:, 0]).max()) + t
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
        self._sums = np.zeros(COLUMNS)
        span_us = 0.0
        for second in seconds:
            self._sums += second.sums
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
        return sketch_quantile(q, self._sums[which])


def _counts(packed: list[bytes]) -> Floats:
    """The counts by bucket of joined sketches."""
    entries = np.frombuffer(b"".join(packed), SKETCH_ENTRY)
    return np.asarray(np.bincount(entries["bucket"], entries["count"], BUCKETS), np.float64)
