"""What the gateways' summaries say of a model at any time.

Of each gateway the newest state counts (what waits, since when). Counts and sketches of all gateways add up in one
sum for each second: whole numbers, so that the order of adding leaves no trace.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from broker.model.signals import RequestSummary, Signal
from broker.model.sketch import BUCKETS
from signals.window.quantiles import SKETCH_ENTRY, SKETCH_VALUES, Floats, sketch_quantile

TTFT, INTER_TOKEN = range(2)
"""The sketches whose quantiles are asked for."""

_MILLI_VALUES: Floats = np.rint(SKETCH_VALUES * 1000.0)
_UNPACK = struct.Struct("<HI").iter_unpack
_MANY = 512
"""Entries of sketches, of all kinds, beyond which numpy counts them faster than the language does."""
_MOST_UNREAD = 8 * BUCKETS
_MOST_PENDING = 4096

_NOBODY = -math.inf
_LAST_BOOT = "\U0010ffff"
_MARGIN_S = 1e-3
"""See ``engines``: a view is taken anew this much before it changes."""

Entry = tuple[int, int]
"""(bucket, count) of a sketch."""
Report = tuple[float, str, int, float, float, float, float]
"""Of one report: when observed, boot id, sequence; when the next is due, age of the oldest waiting when observed
(-infinity for none), waiting, in flight. The first three tell reports of one time apart and give them a fixed order.
"""


@dataclass(slots=True)
class Gateway:
    """One gateway's reports in their order. ``at`` and ``boot_id`` are those of the newest report, ``sequence`` is the
    highest of that boot. A restarted gateway's new boot follows the old one, which thereby ends."""

    gateway_id: str
    boot_id: str
    at: float = -math.inf
    sequence: int = -1
    reports: list[Report] = field(default_factory=list)
    seen: Seen | None = None

    def insert(self, report: Report) -> bool:
        """Put a report where it belongs; False if it was seen before."""
        if self.seen is None:
            self.seen = Seen(self.reports)
        if not self.seen.add(report):
            return False
        insort(self.reports, report)
        self.at, self.boot_id = self.reports[-1][:2]
        self.sequence = self.seen.highest[self.boot_id]
        return True

    def report_at(self, t: float, since: float) -> Report | None:
        """The newest report from ``since`` up to ``t``."""
        index = bisect_right(self.reports, (t, _LAST_BOOT)) - 1
        return self.reports[index] if index >= 0 and self.reports[index][0] >= since else None

    def next_after(self, t: float) -> float:
        """Just before the next report after ``t``, of which there must be one."""
        return self.reports[bisect_right(self.reports, (t, _LAST_BOOT))][0] - _MARGIN_S

    def evict(self, before: float) -> None:
        """Drop reports older than ``before``."""
        stale = bisect_left(self.reports, (before,))
        if stale > 0:
            del self.reports[:stale]
            self.seen = None


class Seen:
    """The reports that are kept of a gateway, and the highest sequence of each boot. Kept only of a gateway whose
    reports come twice, out of order or from several boots, as the others' last sequence says it all. It spares a search
    for each report: 10,000 out of order in one body held the broker up for a minute."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self.highest: dict[str, int] = {}
        self._reports: set[tuple[str, int]] = set()
        for report in reports:
            self.add(report)

    def add(self, report: Report) -> bool:
        """False if it was seen before."""
        _, boot_id, sequence, *_ = report
        name = (boot_id, sequence)
        if name in self._reports:
            return False
        self._reports.add(name)
        self.highest[boot_id] = max(sequence, self.highest.get(boot_id, sequence))
        return True


@dataclass(slots=True)
class Second:
    """What all gateways' reports of one second come to, and which gateways those were. ``latencies`` are entries
    (bucket, count) of TTFT and INTER_TOKEN sketches, by rising bucket. Of prompt and output tokens, asked for only
    where engines do not tell, ``unread`` holds the sketches that ``tokens`` (thousandths) does not contain yet."""

    gateways: set[str] = field(default_factory=set)
    arrived: int = 0
    failed: int = 0
    microseconds: int = 0
    latencies: tuple[list[Entry], list[Entry]] = field(default_factory=lambda: ([], []))
    unread: list[bytes] = field(default_factory=lambda: [b"", b""])
    tokens: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, summaries: list[RequestSummary]) -> None:
        self.gateways.update([summary.gateway_id for summary in summaries])
        self.arrived += sum([summary.arrived for summary in summaries])
        self.failed += sum([summary.failed for summary in summaries])
        self.microseconds += round(sum([summary.interval_s for summary in summaries]) * 1e6)
        sketches = [
            b"".join([summary.time_to_first_token.packed for summary in summaries]),
            b"".join([summary.inter_token.packed for summary in summaries]),
            b"".join([summary.prompt_tokens.packed for summary in summaries]),
            b"".join([summary.output_tokens.packed for summary in summaries]),
        ]
        if sum(map(len, sketches)) > _MANY * SKETCH_ENTRY.itemsize:
            self._add_many(sketches)
            return
        for known, packed in zip(self.latencies, sketches[:2], strict=True):
            new = list(_UNPACK(packed))
            known[:] = _merged(known + new) if known or len(summaries) > 1 else new
        self.unread[0] += sketches[2]
        self.unread[1] += sketches[3]
        if len(self.unread[0]) + len(self.unread[1]) > _MOST_UNREAD:
            self.read()

    def _add_many(self, sketches: list[bytes]) -> None:
        """All four kinds counted at once, each in buckets of its own behind those of the kind before."""
        entries = np.frombuffer(b"".join(sketches), SKETCH_ENTRY)
        buckets = entries["bucket"].astype(np.int64)
        for end in accumulate([len(packed) // SKETCH_ENTRY.itemsize for packed in sketches[:-1]]):
            buckets[end:] += BUCKETS
        summed = np.bincount(buckets, entries["count"], 4 * BUCKETS).reshape(4, BUCKETS)
        for known, counts in zip(self.latencies, summed[:2].astype(np.int64), strict=True):
            filled = counts.nonzero()[0]
            new = list(zip(filled.tolist(), counts[filled].tolist(), strict=True))
            known[:] = _merged(known + new) if known else new
        prompt, output = (summed[2:] @ _MILLI_VALUES).tolist()
        self.tokens[0] += int(prompt)
        self.tokens[1] += int(output)

    def read(self) -> list[int]:
        """``tokens``, of all."""
        for which, packed in enumerate(self.unread):
            if packed:
                entries = np.frombuffer(packed, SKETCH_ENTRY)
                self.tokens[which] += int((_MILLI_VALUES[entries["bucket"]] * entries["count"]).sum())
                self.unread[which] = b""
        return self.tokens


class Counts:
    """How many values each bucket of a sketch has, and their quantiles. Whole numbers: what was added can be taken away
    again, exactly. A list by bucket, since adding to one takes half as long as adding to a dictionary."""

    def __init__(self) -> None:
        self._by_bucket = [0] * BUCKETS
        self._low, self._high = BUCKETS, 0
        self._cumulative: list[int] | None = None

    def add(self, entries: list[Entry]) -> None:
        """Entries by rising bucket."""
        if entries:
            by_bucket = self._by_bucket
            for bucket, count in entries:
                by_bucket[bucket] += count
            self._low, self._high = min(self._low, entries[0][0]), max(self._high, entries[-1][0])
            self._cumulative = None

    def take_away(self, entries: list[Entry]) -> None:
        """What was added before."""
        by_bucket = self._by_bucket
        for bucket, count in entries:
            by_bucket[bucket] -= count
        self._cumulative = None

    def quantile(self, q: float) -> float | None:
        """None if there is no value."""
        if self._cumulative is None:
            self._cumulative = list(accumulate(self._by_bucket[self._low : self._high + 1]))
        return sketch_quantile(q, self._low, self._cumulative)


class Gateways:
    """The reports of one model's gateways, of the retention; each second's sums are at most 70 KB, mostly 3 KB,
    whatever the number of gateways. Seconds end at the window's ticks."""

    def __init__(self, patience_s: float, smoothing_s: float, phase_s: float) -> None:
        self.patience_s = patience_s
        self._phase_s = phase_s
        self._seconds_back = max(1, round(smoothing_s))
        self.known: dict[str, Gateway] = {}
        self._ordered: list[Gateway] = []
        self._seconds: dict[int, Second] = {}
        self._counts = Counts(), Counts()
        self._counted_to: int | None = None
        self._pending: list[RequestSummary] = []
        self._pending_at: list[float] = []
        self._view: GatewayView | None = None

    def observe(self, summary: RequestSummary, at: float) -> bool:
        """Keep the summary. False for one that was seen before."""
        boot_id, sequence, oldest = summary.boot_id, summary.sequence, summary.oldest_waiting_since
        gateway = self.known.get(summary.gateway_id) or self._add(summary.gateway_id, boot_id)
        age = _NOBODY if oldest is None else summary.observed_at - oldest
        due_at = summary.received_at + summary.interval_s
        report = (at, boot_id, sequence, due_at, age, 0.0 + summary.waiting, 0.0 + summary.in_flight)
        if sequence > gateway.sequence and at > gateway.at and boot_id == gateway.boot_id:
            gateway.at, gateway.sequence = at, sequence
            gateway.reports.append(report)
            if gateway.seen is not None:
                gateway.seen.add(report)
        elif not gateway.insert(report):
            return False
        self._pending.append(summary)
        self._pending_at.append(at)
        if len(self._pending) >= _MOST_PENDING:
            self.settle()
        return True

    def _add(self, gateway_id: str, boot_id: str) -> Gateway:
        gateway = self.known[gateway_id] = Gateway(gateway_id, boot_id)
        self._ordered = [self.known[known_id] for known_id in sorted(self.known)]
        return gateway

    def settle(self) -> None:
        """Add what came since the last time to the sums of its seconds."""
        if not self._pending:
            return
        earliest = min(self._pending_at)
        if self._view is not None and earliest <= self._view.until:
            self._view = None
        first, last = self._second_of(earliest), self._second_of(max(self._pending_at))
        if first == last:
            self._add_up(first, self._pending)
        else:
            by_second: dict[int, list[RequestSummary]] = {}
            for at, summary in zip(self._pending_at, self._pending, strict=True):
                by_second.setdefault(self._second_of(at), []).append(summary)
            for tick, summaries in by_second.items():
                self._add_up(tick, summaries)
        self._pending, self._pending_at = [], []

    def reconfigure(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._view = None

    def _second_of(self, t: float) -> int:
        """The tick that ends the second of ``t``."""
        return math.ceil(t - self._phase_s)

    def _add_up(self, tick: int, summaries: list[RequestSummary]) -> None:
        second = self._seconds.get(tick)
        if second is None:
            second = self._seconds[tick] = Second()
        second.add(summaries)
        if self._counted_to is not None and tick <= self._counted_to:
            self._counted_to = None

    def evict(self, before: float) -> None:
        """Drop reports older than ``before``, and gateways that have none since: no view looks back that far."""
        for gateway in self._ordered:
            gateway.evict(before)
        for gateway_id in [gateway.gateway_id for gateway in self._ordered if not gateway.reports]:
            del self.known[gateway_id]
        self._ordered = [gateway for gateway in self._ordered if gateway.reports]

    def drop_seconds(self, settled_at: float) -> None:
        """Drop the sums of seconds that no view after ``settled_at`` can reach. Called at each snapshot, as they are
        most of what is kept."""
        first = self._second_of(settled_at) - self._seconds_back
        while self._seconds and (oldest := next(iter(self._seconds))) < first:
            del self._seconds[oldest]

    def view(self, t: float) -> GatewayView | None:
        """What the gateways said at ``t``; None if none reported within patience. Needs ``settle`` before. The last
        view again where it still holds."""
        view = self._view
        if view is None or not view.t <= t <= view.until:
            view = self._view = self._viewed(t)
        return view

    def _viewed(self, t: float) -> GatewayView | None:
        since = t - self.patience_s
        told = [gateway.reports[-1] for gateway in self._ordered if since <= gateway.at <= t]
        later = [gateway for gateway in self._ordered if gateway.at > t] if len(told) < len(self._ordered) else []
        told += [report for gateway in later if (report := gateway.report_at(t, since))]
        if not told:
            return None
        observed_at, _, _, due_at, ages, waiting, in_flight = zip(*told, strict=True)
        # Ages are as of the report, by its own clock: between reports the oldest request changes as often as not, and
        # letting it age on doubled the error on a recording. A report that is overdue does age on, by the log's clock.
        oldest, next_due = max(ages), min(due_at)
        age = oldest if t <= next_due else max([age + max(t - due, 0.0) for age, due in zip(ages, due_at, strict=True)])
        last = self._second_of(t)
        ticks = sorted([tick for tick in self._seconds if last - self._seconds_back < tick <= last])
        until = self._same_second_until(last, ticks[0] if ticks else None)
        until = min([until, min(observed_at) + self.patience_s - _MARGIN_S, *[g.next_after(t) for g in later]])
        if oldest > _NOBODY:
            until = min(until, next_due)
        used = [self._seconds[tick] for tick in ticks]
        return GatewayView(
            t=t,
            until=max(t, until),
            observed_at=max(observed_at),
            queue_age_s=max(age, 0.0),
            waiting=sum(waiting),
            in_flight=sum(in_flight),
            seconds=used,
            counts=self._counts_to(last, used),
            span_s=sum([second.microseconds / len(second.gateways) for second in used]) / 1e6,
        )

    def silent_until(self, t: float) -> float:
        """Where the view at ``t`` is None: up to when it is."""
        return min([gateway.next_after(t) for gateway in self._ordered if gateway.at > t], default=math.inf)

    def _same_second_until(self, last: int, first: int | None) -> float:
        """The last time at which the seconds of a view that begin with ``first`` (None: there are none) and end with
        ``last`` are still those."""
        leaves = [] if first is None else [first + self._seconds_back - 1]
        comes = [tick - 1 for tick in self._seconds if tick > last]
        return min([*leaves, *comes]) + self._phase_s if leaves or comes else math.inf

    def _counts_to(self, last: int, seconds: list[Second]) -> tuple[Counts, Counts]:
        """The counts of ``seconds``, those that end with tick ``last``. From one second to the next only the first
        and the last of them change."""
        if self._counted_to is not None and last == self._counted_to + 1:
            comes, leaves = self._seconds.get(last), self._seconds.get(last - self._seconds_back)
            for which, counts in enumerate(self._counts):
                if comes is not None:
                    counts.add(comes.latencies[which])
                if leaves is not None:
                    counts.take_away(leaves.latencies[which])
        elif last != self._counted_to:
            self._counts = Counts(), Counts()
            for which, counts in enumerate(self._counts):
                for second in seconds:
                    counts.add(second.latencies[which])
        self._counted_to = last
        return self._counts


@dataclass(slots=True)
class GatewayView:
    """What the gateways said at ``t``, and would say at any time up to ``until``, with ``seconds`` before it and the
    ``counts`` of their latencies together. ``span_s``: seconds covered, by gateway, since a lost report or one just
    joined does not count as a second of silence. To be asked before the next view is made."""

    t: float
    until: float
    observed_at: float
    queue_age_s: float
    waiting: float
    in_flight: float
    seconds: list[Second]
    counts: tuple[Counts, Counts]
    span_s: float

    def request_rates(self) -> dict[Signal, float]:
        span_s = self.span_s
        if span_s <= 0.0:
            return {}
        return {
            Signal.ARRIVAL_RATE: sum([second.arrived for second in self.seconds]) / span_s,
            Signal.FAILURE_RATE: sum([second.failed for second in self.seconds]) / span_s,
        }

    def token_rates(self) -> dict[Signal, float]:
        span_s = self.span_s
        if span_s <= 0.0:
            return {}
        prompt, output = map(sum, zip(*[second.read() for second in self.seconds], strict=True))
        return {
            Signal.PROMPT_TOKEN_RATE: prompt / 1000.0 / span_s,
            Signal.GENERATION_TOKEN_RATE: output / 1000.0 / span_s,
        }

    def quantile(self, which: int, q: float) -> float | None:
        """Of TTFT or INTER_TOKEN; None if nothing was observed."""
        return self.counts[which].quantile(q)


def _merged(entries: list[Entry]) -> list[Entry]:
    counts: dict[int, int] = {}
    for bucket, count in entries:
        counts[bucket] = counts.get(bucket, 0) + count
    return sorted(counts.items())
