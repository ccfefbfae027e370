"""What the replicas' own metrics say of a model at any time.

Each sample becomes one row: its numbers, and its histograms packed as doubles. A view at ``t`` takes each replica's
latest row at or before ``t`` and a base row ``smoothing_s`` earlier; all rates and quantiles are differences of the
two. The few numbers are added up column by column in the language, the many of histograms by numpy: a view between
two other models' views finds nothing in the caches, where each kind of numpy call costs more than 16 replicas do here.
A view also knows until when every later one would take the same rows: between two scrapes the ticks of a slowly
scraped fleet cost nothing.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from operator import add, mul, sub

import numpy as np

from broker.model.signals import Histogram, MetricSample, Signal
from broker.model.snapshot import ReplicaLoad
from signals.window.quantiles import Cumulative, Floats, merged, prometheus_quantile

NaN = math.nan

Row = tuple[float, float, float, float, float, float, float, float, float]
"""Time, gauges, counters, NaN for what is absent. ARRIVED is finished + running + waiting: what has ever come in. It is
no counter in the strict sense, since vLLM forgets a request whose client left (request_success_total{abort} does not
count those)."""

AT, RUNNING, WAITING, KV_CACHE_USE, ARRIVED, PROMPT = range(6)
_COUNTERS = 9 - ARRIVED
_SUMS = 3
"""A histogram's sum for each of them comes first among its packed doubles."""

RATES = (
    Signal.ARRIVAL_RATE,
    Signal.PROMPT_TOKEN_RATE,
    Signal.GENERATION_TOKEN_RATE,
    Signal.PREEMPTION_RATE,
)
"""Of the columns from ARRIVED on."""


SOONEST_RESTART_S = 2.0
"""No engine ends, starts and answers again in less. Counters that fall sooner were read by two scrapers at once, while
one took over from the other, and one's answer overtook the other's: taken for a restart, all that was ever counted
came in anew, a rate a hundred times too high."""

NO_HISTOGRAM = Histogram((), (), 0.0)
"""Of an engine that does not keep it."""

_MARGIN_S = 1e-3
"""A view is taken anew this much before its rows change, so that no rounding of a time can make it outlive them."""


class Layout:
    """How the histograms of one set of bounds are packed: the sums of all three, then their counts; nothing of an
    engine that keeps none. One object for equal bounds."""

    def __init__(self, queue: tuple[float, ...], ttft: tuple[float, ...], inter_token: tuple[float, ...]) -> None:
        self.bounds = (queue, ttft, inter_token)
        ends = np.cumsum([_SUMS, len(queue), len(ttft), len(inter_token)]).tolist()
        self.counts = tuple(slice(start, end) for start, end in pairwise(ends))
        self.columns = ends[-1] if any(self.bounds) else 0
        self._struct = struct.Struct(f"{self.columns}d")

    def pack(self, queue: Histogram, ttft: Histogram, inter_token: Histogram) -> bytes:
        if not self.columns:
            return b""
        # One tuple passed as it is: packing from three unpacked ones takes twice as long.
        sums = (queue.total, ttft.total, inter_token.total)
        return self._struct.pack(*(sums + queue.counts + ttft.counts + inter_token.counts))

    def pack_partial(self, sample: MetricSample) -> bytes:
        """The histograms of a sample that lacks some: NaN stands for what is absent."""
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        return self.pack(
            *(
                histogram or (Histogram(bounds, (NaN,) * len(bounds), NaN) if bounds else NO_HISTOGRAM)
                for histogram, bounds in zip(histograms, self.bounds, strict=True)
            )
        )


def _partial_row(sample: MetricSample, at: float) -> Row:
    """Of a sample that lacks something."""
    running, waiting, kv_cache_use, prompt, generated, preempted, finished = [
        NaN if value is None else value
        for value in (
            sample.requests_running,
            sample.requests_waiting,
            sample.kv_cache_use,
            sample.prompt_tokens_total,
            sample.generation_tokens_total,
            sample.preemptions_total,
            sample.requests_finished_total,
        )
    ]
    arrived = finished + running + waiting
    return at, running, waiting, kv_cache_use, arrived, prompt, generated, preempted, finished


@dataclass(slots=True)
class Replica:
    """One replica's rows and packed histograms by rising time. ``irregular_at`` is the latest row that lacks what its
    neighbour has (or has what that lacks), or shows a counter below the one before: views that reach back over it go
    row by row."""

    replica_id: str
    layout: Layout
    times: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    histograms: list[bytes] = field(default_factory=list)
    irregular_at: float = -math.inf
    last_prompt: float = 0.0
    whole: bool = True

    def insert(self, at: float, row: Row, histograms: bytes) -> bool:
        """Put a row where its time wants it; False if that time is taken."""
        index = bisect_left(self.times, at)
        if index < len(self.times) and self.times[index] == at:
            return False
        self.times.insert(index, at)
        self.rows.insert(index, row)
        self.histograms.insert(index, histograms)
        for later in (index, index + 1):
            if 0 < later < len(self.times):
                before, after = self.matrix(later - 1, later)
                if after[PROMPT] < before[PROMPT] or (np.isnan(before) != np.isnan(after)).any():
                    self.irregular_at = max(self.irregular_at, self.times[later])
        newest = len(self.rows) - 1
        self.last_prompt = self.rows[newest][PROMPT]
        self.whole = not np.isnan(self.matrix(newest, newest)).any()
        return True

    def matrix(self, first: int, last: int) -> Floats:
        """Rows ``first`` to ``last``, both included, the histograms after the numbers."""
        numbers = np.array(self.rows[first : last + 1])
        packed = b"".join(self.histograms[first : last + 1])
        return np.hstack((numbers, np.frombuffer(packed).reshape(len(numbers), -1)))

    def gained(self, base: int, latest: int) -> Floats:
        """The increase of each column from ARRIVED on, row by row: an absent value is passed over, and where any
        counter falls the engine restarted, so that all count from zero again. NaN where there never was a value."""
        rows = self.matrix(base, latest)[:, ARRIVED:]
        previous = rows[0].copy()
        total = np.zeros_like(previous)
        for index, row in enumerate(rows[1:], base + 1):
            known = np.where(np.isnan(row), previous, row)
            fell = bool((known[PROMPT - ARRIVED :] < previous[PROMPT - ARRIVED :]).any())
            step = known if fell and self._may_have_restarted(index) else known - previous
            total += np.where(np.isnan(step), 0.0, step)
            previous = known
        return np.where(np.isnan(previous), NaN, total)

    def _may_have_restarted(self, index: int) -> bool:
        """Between the row before and this one."""
        return self.times[index] - self.times[index - 1] >= SOONEST_RESTART_S

    def known_gauge(self, latest: int, column: int, since: float) -> float:
        """The gauge's last value at or before row ``latest`` but not before ``since``."""
        for index in range(latest, -1, -1):
            if self.times[index] < since:
                break
            value = self.rows[index][column]
            if value == value:
                return value
        return NaN

    def queue_age_s(self, t: float) -> float:
        """The age of the oldest waiting request at the latest row up to ``t``, taking the queue as first come, first
        served.

        All that ever arrived, less what waits, has left the queue; so the oldest that waits is the next to have
        arrived after that number was reached. Going back through the rows finds when; between two rows the arrivals
        are taken as even. Never older than the last moment without a queue, nor than the rows that are kept.
        """
        latest = bisect_right(self.times, t) - 1
        _, _, waiting, _, arrived, prompt = self.rows[latest][: PROMPT + 1]
        if not waiting > 0.0:
            return 0.0
        started = arrived - waiting
        for index in range(latest - 1, -1, -1):
            arrived_later, prompt_later = arrived, prompt
            _, _, waiting, _, arrived, prompt = self.rows[index][: PROMPT + 1]
            if prompt_later < prompt and self._may_have_restarted(index + 1):
                return self.times[latest] - self.times[index + 1]
            if arrived <= started or waiting == 0.0:
                # Between the two rows n came; the next after those that had left is as likely anywhere among them.
                share = (started + 1.0 - arrived) / (arrived_later - arrived + 1.0) if arrived_later > arrived else 0.5
                if not 0.0 <= share <= 1.0:
                    share = 0.5
                return self.times[latest] - self.times[index] - share * (self.times[index + 1] - self.times[index])
        return self.times[latest] - self.times[0]


class Engines:
    """The rows of one model's replicas: at most one for each scrape of the last ``retention_s``."""

    def __init__(self, patience_s: float, smoothing_s: float) -> None:
        self.patience_s = patience_s
        self._smoothing_s = smoothing_s
        self.known: dict[str, Replica] = {}
        self._ordered: list[Replica] = []
        self._layouts: dict[tuple[tuple[float, ...], ...], Layout] = {}
        self._view: EngineView | None = None

    def observe(self, sample: MetricSample, at: float) -> bool:
        """Keep the sample. False for a second one of the same time."""
        replica = self.known.get(sample.replica_id) or self._add(sample)
        if self._view is not None and at <= self._view.until:
            self._view = None
        queue = sample.queue_time or NO_HISTOGRAM
        ttft = sample.time_to_first_token or NO_HISTOGRAM
        inter_token = sample.inter_token_latency or NO_HISTOGRAM
        running, waiting, kv_cache_use = sample.requests_running, sample.requests_waiting, sample.kv_cache_use
        prompt, generated = sample.prompt_tokens_total, sample.generation_tokens_total
        preempted, finished = sample.preemptions_total, sample.requests_finished_total
        layout, times = replica.layout, replica.times
        if (
            running is None
            or waiting is None
            or kv_cache_use is None
            or prompt is None
            or generated is None
            or preempted is None
            or finished is None
            # Pages share one tuple for equal bounds, so that identity mostly settles it.
            or layout.bounds != (queue.bounds, ttft.bounds, inter_token.bounds)
        ):
            return self._observe_unusual(replica, sample, at)
        arrived = finished + running + waiting
        row = (at, running, waiting, kv_cache_use, arrived, prompt, generated, preempted, finished)
        packed = layout.pack(queue, ttft, inter_token) if layout.columns else b""
        if times and (at <= times[-1] or not replica.whole):
            return replica.insert(at, row, packed)
        if prompt < replica.last_prompt:
            replica.irregular_at = at
        replica.last_prompt = prompt
        times.append(at)
        replica.rows.append(row)
        replica.histograms.append(packed)
        return True

    def _observe_unusual(self, replica: Replica, sample: MetricSample, at: float) -> bool:
        """A sample that lacks something, or has other histogram bounds than those before."""
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        known = zip(histograms, replica.layout.bounds, strict=True)
        fits = all(histogram is None or histogram.bounds == bounds for histogram, bounds in known)
        if not fits and not self._relaid(replica, sample, at):
            return False
        return replica.insert(at, _partial_row(sample, at), replica.layout.pack_partial(sample))

    def _relaid(self, replica: Replica, sample: MetricSample, at: float) -> bool:
        """Begin anew with other histogram bounds (another engine version took over); False for a straggler of the
        former ones."""
        if replica.times and at <= replica.times[-1]:
            return False
        self._view = None
        replica.times.clear()
        replica.rows.clear()
        replica.histograms.clear()
        replica.layout = self._layout_of(sample)
        return True

    def _add(self, sample: MetricSample) -> Replica:
        replica = Replica(sample.replica_id, self._layout_of(sample))
        self.known[sample.replica_id] = replica
        self._order()
        return replica

    def _order(self) -> None:
        """By id, so that sums of floats do not depend on who came first."""
        self._view = None
        self._ordered = [self.known[replica_id] for replica_id in sorted(self.known)]

    def _layout_of(self, sample: MetricSample) -> Layout:
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        bounds = tuple(() if histogram is None else histogram.bounds for histogram in histograms)
        layout = self._layouts.get(bounds)
        if layout is None:
            # Only a fleet that changes its engines for years would fill this.
            if len(self._layouts) >= 64:
                self._layouts.clear()
            layout = self._layouts[bounds] = Layout(*bounds)
        return layout

    def forget(self, replica_id: str) -> bool:
        known = self.known.pop(replica_id, None) is not None
        self._order()
        return known

    def evict(self, before: float) -> bool:
        """Drop rows older than ``before`` (but each replica's last row at that time, the base of later views), and
        replicas that have none since; True if there were any of those. Where not, views stay as they were: no look
        back reaches that far."""
        for replica in self._ordered:
            stale = bisect_right(replica.times, before) - 1
            if stale > 0:
                del replica.times[:stale], replica.rows[:stale], replica.histograms[:stale]
        ended = [replica.replica_id for replica in self._ordered if replica.times[-1] < before]
        for replica_id in ended:
            self.forget(replica_id)
        return bool(ended)

    def reconfigure(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._view = None

    def view(self, t: float) -> EngineView:
        """What the replicas said at ``t``; the last view again where it still holds."""
        view = self._view
        if view is None or not view.t <= t <= view.until:
            view = self._view = self._viewed(t)
        return view

    def _viewed(self, t: float) -> EngineView:
        silent: list[str] = []
        parts: dict[Layout, Part] = {}
        layout: Layout | None = None
        since, base_at = t - self.patience_s, t - self._smoothing_s
        changes_at = next_base_at = oldest_at = math.inf
        for replica in self._ordered:
            times = replica.times
            latest = len(times) - 1
            if times[latest] > t:
                latest = bisect_right(times, t) - 1
                changes_at = min(changes_at, times[latest + 1])
                if latest < 0:
                    continue
            latest_at = times[latest]
            if latest_at < since:
                silent.append(replica.replica_id)
                continue
            base = bisect_right(times, base_at) - 1
            if base < 0:
                base = 0
            if base < latest and times[base + 1] < next_base_at:
                next_base_at = times[base + 1]
            if latest_at < oldest_at:
                oldest_at = latest_at
            if replica.layout is not layout:
                layout = replica.layout
                part = parts.setdefault(layout, Part(layout))
                replicas, latest_rows, base_rows = part.replicas, part.latest, part.base
            if replica.irregular_at >= since or replica.irregular_at >= times[base]:
                part.irregular.append((len(replicas), latest, base))
                changes_at = t  # which rows it is made of depends on the time
            replicas.append(replica)
            latest_rows.append(replica.rows[latest])
            base_rows.append(replica.rows[base])
            if layout.columns:
                part.histograms[0].append(replica.histograms[latest])
                part.histograms[1].append(replica.histograms[base])
        for part in parts.values():
            part.measure(since)
        changes_at = min(changes_at, next_base_at + self._smoothing_s, oldest_at + self.patience_s)
        return EngineView(t, max(t, changes_at - _MARGIN_S), oldest_at, silent, list(parts.values()))


class Part:
    """The replicas of one layout in a view, with their latest and their base rows and histograms: their gauges by
    column, then what all of them come to together."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.replicas: list[Replica] = []
        self.latest: list[Row] = []
        self.base: list[Row] = []
        self.histograms: tuple[list[bytes], list[bytes]] = ([], [])
        self.irregular: list[tuple[int, int, int]] = []
        self.gauges: list[list[float]] = []
        self.rates: list[float] = []
        self.has_span = False
        self._gained: list[float] = []

    def measure(self, since: float) -> None:
        """Fill in gauges by replica, rates and increases of all together."""
        latest, base = list(zip(*self.latest, strict=True)), list(zip(*self.base, strict=True))
        self.gauges = [list(column) for column in latest[:ARRIVED]]
        rated = range(ARRIVED, ARRIVED + len(RATES))
        increases = [list(map(sub, latest[column], base[column])) for column in rated]
        histograms = self._histograms_gained() if self.layout.columns else None
        for index, latest_row, base_row in self.irregular:
            replica = self.replicas[index]
            gained = replica.gained(base_row, latest_row)
            for column, increase in zip(increases, gained[: len(RATES)].tolist(), strict=True):
                column[index] = increase
            if histograms is not None:
                histograms[index] = gained[_COUNTERS:]
            for gauge in (RUNNING, WAITING, KV_CACHE_USE):
                self.gauges[gauge][index] = replica.known_gauge(latest_row, gauge, since)
        # A replica seen once has a span of 0 and no rate yet.
        spans_s = list(map(sub, latest[AT], base[AT]))
        per_s = [1.0 / span_s if span_s else 0.0 for span_s in spans_s]
        self.has_span = any(spans_s)
        self.rates = [sum(map(mul, column, per_s)) for column in increases]
        if histograms is not None:
            self._gained = np.add.reduce(histograms).tolist()

    def _histograms_gained(self) -> Floats:
        """By replica, what its histograms rose by."""
        latest, base = self.histograms
        packed = np.ndarray((2, len(latest), self.layout.columns), np.float64, b"".join(latest + base))
        gained: Floats = packed[0] - packed[1]
        return gained

    def histogram(self, which: int) -> Cumulative:
        """What was observed in the span of the view; without bounds where engines keep no such histogram."""
        if not self.layout.columns:
            return (), [], 0.0
        return self.layout.bounds[which], self._gained[self.layout.counts[which]], self._gained[which]


class EngineView:
    """What the replicas said at ``t``, and would say at any time up to ``until``: those that report within patience,
    with a column for each gauge and in the first when it was observed (NaN where a replica does not tell), and the
    names of those that fell silent."""

    def __init__(self, t: float, until: float, oldest_at: float, silent: list[str], parts: list[Part]) -> None:
        self.t = t
        self.until = until
        self.oldest_at = oldest_at
        self.silent = silent
        self._parts = parts
        self.replicas = [replica for part in parts for replica in part.replicas]
        self.ids = [replica.replica_id for replica in self.replicas]
        self.gauges = parts[0].gauges if parts else [[] for _ in range(ARRIVED)]
        for part in parts[1:]:
            self.gauges = list(map(add, self.gauges, part.gauges))
        self._loads: tuple[ReplicaLoad, ...] | None = None

    def rates(self) -> dict[Signal, float]:
        """Per second, of those that every replica tells; empty until one was scraped twice."""
        if not any(part.has_span for part in self._parts):
            return {}
        rates = map(sum, zip(*[part.rates for part in self._parts], strict=True))
        return {signal: max(rate, 0.0) for signal, rate in zip(RATES, rates, strict=True) if rate == rate}

    def quantile(self, which: int, q: float) -> float | None:
        """Of histogram ``which`` (queue time, time to first token, inter-token); NaN if a replica does not tell it,
        None if nothing was observed."""
        if not any(part.layout.bounds[which] for part in self._parts):
            return NaN
        bounds, counts, total = merged([part.histogram(which) for part in self._parts])
        if not bounds or counts[-1] != counts[-1]:
            return NaN
        return prometheus_quantile(q, bounds, counts, total)

    def queue_age_s(self, expected: Collection[str] | None) -> float:
        """The oldest waiting request's age, over the replicas that are expected (None: all)."""
        return max(
            [
                replica.queue_age_s(self.t)
                for replica, waiting in zip(self.replicas, self.gauges[WAITING], strict=True)
                if waiting > 0.0 and (expected is None or replica.replica_id in expected)
            ],
            default=0.0,
        )

    def loads(self) -> tuple[ReplicaLoad, ...]:
        """The gauges of each reporting replica that tells how many requests it has, by id."""
        if self._loads is None:
            loads = [
                ReplicaLoad(replica_id, at, running, waiting, kv if kv == kv else 0.0)
                for replica_id, at, running, waiting, kv in zip(self.ids, *self.gauges, strict=True)
                if running == running and waiting == waiting
            ]
            self._loads = tuple(loads if len(self._parts) < 2 else sorted(loads, key=lambda load: load.replica_id))
        return self._loads
