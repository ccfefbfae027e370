"""What the gateways' summaries say of a model at any time.

Of each gateway the newest state counts (what waits, since when). Counts and sketches of all gateways add up in one
sum for each second: whole numbers, so that the order of adding leaves no trace.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from broker.model.signals import RequestSummary, Signal
from broker.model.sketch import BUCKETS
from signals.window.quantiles import SKETCH_ENTRY, SKETCH_VALUES, Floats, sketch_quantile

# The sketches that are added up, each in its own stretch of a second's counts.
TTFT, INTER_TOKEN, PROMPT, OUTPUT = range(4)
COLUMNS = 4 * BUCKETS
_STARTS = np.arange(4) * BUCKETS
_MILLI_VALUES: Floats = np.rint(SKETCH_VALUES * 1000.0)

_ROW = struct.Struct("<5d")
_NOBODY = -math.inf
_LAST_BOOT = "\U0010ffff"

Key = tuple[float, str, int]
"""(time, boot id, sequence) of a report: two of one time are told apart and have a fixed order."""


@dataclass(slots=True)
class Gateway:
    """One gateway's reports by rising key; each row is (when observed, when the next is due, age of the oldest waiting
    at observed_at or -infinity, waiting, in_flight). ``at`` and ``boot_id`` are those of the newest report,
    ``sequence`` is the highest of that boot. A restarted gateway's new boot follows the old one, which thereby ends."""

    gateway_id: str
    boot_id: str
    at: float = -math.inf
    sequence: int = -1
    keys: list[Key] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    seen: Seen | None = None

    def append(self, key: Key, row: bytes) -> None:
        """Put a report that is newer than all of the same boot."""
        self.at, _, self.sequence = key
        self.keys.append(key)
        self.rows.append(row)
        if self.seen is not None:
            self.seen.add(key)

    def insert(self, key: Key, row: bytes) -> bool:
        """Put a report where its key wants it; False if it was seen before."""
        if self.seen is None:
            self.seen = Seen(self.keys)
        if not self.seen.add(key):
            return False
        index = bisect_left(self.keys, key)
        self.keys.insert(index, key)
        self.rows.insert(index, row)
        self.at, self.boot_id, _ = self.keys[-1]
        self.sequence = self.seen.highest[self.boot_id]
        return True

    def row_at(self, t: float, since: float) -> bytes | None:
        """The newest row from ``since`` up to ``t``."""
        index = bisect_right(self.keys, (t, _LAST_BOOT, 0)) - 1
        return self.rows[index] if index >= 0 and self.keys[index][0] >= since else None

    def evict(self, before: float) -> None:
        """Drop reports older than ``before``."""
        stale = bisect_left(self.keys, (before,))
        if stale > 0:
            del self.keys[:stale], self.rows[:stale]
            self.seen = None


class Seen:
    """The reports that are kept of a gateway, and the highest sequence of each boot. Kept only of a gateway whose
    reports come twice, out of order or from several boots, as the others' last sequence says it all. It spares a search
    for each report: 10,000 out of order in one body held the broker up for a minute."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.highest: dict[str, int] = {}
        self._reports: set[tuple[str, int]] = set()
        for key in keys:
            self.add(key)

    def add(self, key: Key) -> bool:
        """False if it was seen before."""
        _, boot_id, sequence = key
        report = (boot_id, sequence)
        if report in self._reports:
            return False
        self._reports.add(report)
        self.highest[boot_id] = max(sequence, self.highest.get(boot_id, sequence))
        return True


@dataclass(slots=True)
class Second:
    """What all gateways' reports of one second come to, and which gateways those were."""

    gateways: set[str] = field(default_factory=set)
    arrived: int = 0
    failed: int = 0
    microseconds: int = 0
    counts: Floats = field(default_factory=lambda: np.zeros(COLUMNS))


class Gateways:
    """The reports of one model's gateways. Each keeps 40 bytes and a key for each report of the retention; each
    second's sums are 10 KB whatever the number of gateways. Seconds end at the window's ticks."""

    def __init__(self, patience_s: float, smoothing_s: float, phase_s: float) -> None:
        self.patience_s = patience_s
        self._phase_s = phase_s
        self._seconds_back = max(1, round(smoothing_s))
        self.known: dict[str, Gateway] = {}
        self._ordered: list[Gateway] = []
        self._seconds: dict[int, Second] = {}
        self._counts: Floats = np.zeros(COLUMNS)
        self._counted_to: int | None = None
        self._pending: list[RequestSummary] = []
        self._pending_at: list[float] = []

    def observe(self, summary: RequestSummary, at: float) -> bool:
        """Keep the summary. False for one that was seen before."""
        boot_id, sequence, oldest = summary.boot_id, summary.sequence, summary.oldest_waiting_since
        gateway = self.known.get(summary.gateway_id) or self._add(summary.gateway_id, boot_id)
        age = _NOBODY if oldest is None else summary.observed_at - oldest
        row = _ROW.pack(at, summary.received_at + summary.interval_s, age, summary.waiting, summary.in_flight)
        if sequence > gateway.sequence and at > gateway.at and boot_id == gateway.boot_id:
            gateway.append((at, boot_id, sequence), row)
        elif not gateway.insert((at, boot_id, sequence), row):
            return False
        self._pending.append(summary)
        self._pending_at.append(at)
        return True

    def _add(self, gateway_id: str, boot_id: str) -> Gateway:
        gateway = self.known[gateway_id] = Gateway(gateway_id, boot_id)
        self._ordered = [self.known[known_id] for known_id in sorted(self.known)]
        return gateway

    def settle(self) -> None:
        """Add what came since the last time to the sums of its seconds."""
        if not self._pending:
            return
        first, last = self._second_of(min(self._pending_at)), self._second_of(max(self._pending_at))
        if first == last:
            self._add_up(first, self._pending)
        else:
            by_second: dict[int, list[RequestSummary]] = {}
            for at, summary in zip(self._pending_at, self._pending, strict=True):
                by_second.setdefault(self._second_of(at), []).append(summary)
            for tick, summaries in by_second.items():
                self._add_up(tick, summaries)
        self._pending, self._pending_at = [], []

    def _second_of(self, t: float) -> int:
        """The tick that ends the second of ``t``."""
        return math.ceil(t - self._phase_s)

    def _add_up(self, tick: int, summaries: list[RequestSummary]) -> None:
        second = self._seconds.get(tick)
        if second is None:
            second = self._seconds[tick] = Second()
        second.gateways.update([summary.gateway_id for summary in summaries])
        second.arrived += sum([summary.arrived for summary in summaries])
        second.failed += sum([summary.failed for summary in summaries])
        second.microseconds += round(sum([summary.interval_s for summary in summaries]) * 1e6)
        second.counts += _counts(
            [summary.time_to_first_token.packed for summary in summaries],
            [summary.inter_token.packed for summary in summaries],
            [summary.prompt_tokens.packed for summary in summaries],
            [summary.output_tokens.packed for summary in summaries],
        )
        if self._counted_to is not None and tick <= self._counted_to:
            self._counted_to = None

    def evict(self, before: float) -> None:
        """Drop reports older than ``before``, and gateways that have none since."""
        for gateway in self._ordered:
            gateway.evict(before)
        for gateway_id in [gateway.gateway_id for gateway in self._ordered if not gateway.keys]:
            del self.known[gateway_id]
        self._ordered = [gateway for gateway in self._ordered if gateway.keys]

    def drop_seconds(self, settled_at: float) -> None:
        """Drop the sums of seconds that no view after ``settled_at`` can reach. Called at each snapshot, as they are
        most of what is kept."""
        first = self._second_of(settled_at) - self._seconds_back
        while self._seconds and (oldest := next(iter(self._seconds))) < first:
            del self._seconds[oldest]

    def view(self, t: float) -> GatewayView | None:
        """What the gateways said at ``t``; None if none reported within patience. Needs ``settle`` before."""
        since = t - self.patience_s
        rows = [gateway.rows[-1] for gateway in self._ordered if since <= gateway.at <= t]
        if len(rows) < len(self._ordered):
            rows += [row for gateway in self._ordered if gateway.at > t and (row := gateway.row_at(t, since))]
        if not rows:
            return None
        observed_at, due_at, ages, waiting, in_flight = zip(*_ROW.iter_unpack(b"".join(rows)), strict=True)
        # Ages are as of the report, by its own clock: between reports the oldest request changes as often as not, and
        # letting it age on doubled the error on a recording. A report that is overdue does age on, by the log's clock.
        age = (
            max(ages)
            if t <= min(due_at)
            else max([age + max(t - due, 0.0) for age, due in zip(ages, due_at, strict=True)])
        )
        last = self._second_of(t)
        ticks = range(last - self._seconds_back + 1, last + 1)
        seconds = [self._seconds[tick] for tick in ticks if tick in self._seconds]
        counts = self._counts_to(last, seconds)
        return GatewayView(max(observed_at), max(age, 0.0), sum(waiting), sum(in_flight), seconds, counts)

    def _counts_to(self, last: int, seconds: list[Second]) -> Floats:
        """The counts of ``seconds``, those that end with tick ``last``. From one second to the next only the first
        and the last of them change; whole numbers, so that this is exact."""
        if self._counted_to is not None and last == self._counted_to + 1:
            come, gone = self._seconds.get(last), self._seconds.get(last - self._seconds_back)
            if come is not None:
                self._counts += come.counts
            if gone is not None:
                self._counts -= gone.counts
        elif last != self._counted_to:
            self._counts = np.zeros(COLUMNS)
            for second in seconds:
                self._counts += second.counts
        self._counted_to = last
        return self._counts


class GatewayView:
    """What the gateways said at one time, with ``seconds`` before it and their ``counts`` together. To be asked before
    the next view is made."""

    def __init__(
        self,
        observed_at: float,
        queue_age_s: float,
        waiting: float,
        in_flight: float,
        seconds: list[Second],
        counts: Floats,
    ) -> None:
        self.observed_at = observed_at
        self.queue_age_s = queue_age_s
        self.waiting = waiting
        self.in_flight = in_flight
        self._seconds = seconds
        self._counts = counts.reshape(4, BUCKETS)
        self._cumulative = self._counts[: INTER_TOKEN + 1].cumsum(axis=1)
        # Seconds covered, by gateway: a lost report or one just joined does not count as a second of silence.
        self._span_s = sum([second.microseconds / len(second.gateways) for second in seconds]) / 1e6

    def request_rates(self) -> dict[Signal, float]:
        if self._span_s <= 0.0:
            return {}
        return {
            Signal.ARRIVAL_RATE: sum([second.arrived for second in self._seconds]) / self._span_s,
            Signal.FAILURE_RATE: sum([second.failed for second in self._seconds]) / self._span_s,
        }

    def token_rates(self) -> dict[Signal, float]:
        if self._span_s <= 0.0:
            return {}
        prompt, output = np.add.reduce(self._counts[PROMPT:] * _MILLI_VALUES, axis=1).tolist()
        return {
            Signal.PROMPT_TOKEN_RATE: prompt / 1000.0 / self._span_s,
            Signal.GENERATION_TOKEN_RATE: output / 1000.0 / self._span_s,
        }

    def quantile(self, which: int, q: float) -> float | None:
        return sketch_quantile(q, self._cumulative[which])


def _counts(*packed: list[bytes]) -> Floats:
    """The counts by bucket of the sketches of each kind, kind after kind."""
    joined = [b"".join(sketches) for sketches in packed]
    entries = np.frombuffer(b"".join(joined), SKETCH_ENTRY)
    starts = np.repeat(_STARTS, [len(sketches) // SKETCH_ENTRY.itemsize for sketches in joined])
    counts = np.bincount(entries["bucket"] + starts, entries["count"], COLUMNS)
    return np.asarray(counts, np.float64)
