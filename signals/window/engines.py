"""What the replicas' own metrics say of a model at any time.

Each sample becomes one packed row of doubles: time, gauges, counters, histogram sums, histogram counts. A view at ``t``
takes each replica's latest row at or before ``t`` and a base row ``smoothing_s`` earlier; all rates and quantiles are
differences of the two, for all replicas in a few numpy calls. A view also knows until when every later one would
take the same rows: between two scrapes the ticks of a slowly scraped fleet cost nothing.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import mul

import numpy as np

from broker.model.signals import Histogram, MetricSample, Signal
from broker.model.snapshot import ReplicaLoad
from signals.window.quantiles import Floats, merged, prometheus_quantile

NaN = math.nan

# The columns of a row. ARRIVED is finished + running + waiting: what has ever come in. It is no counter in the strict
# sense, since vLLM forgets a request whose client left (request_success_total{abort} does not count those).
AT, RUNNING, WAITING, KV_CACHE_USE, ARRIVED, PROMPT = range(6)
SUMS = 9
COUNTS = 12
_DOUBLE = struct.Struct("<d")
_HEAD = struct.Struct("<6d")

RATES = (
    Signal.ARRIVAL_RATE,
    Signal.PROMPT_TOKEN_RATE,
    Signal.GENERATION_TOKEN_RATE,
    Signal.PREEMPTION_RATE,
)
"""Of the columns from ARRIVED on."""


Gauges = list[float]
"""When a replica's latest row was observed, its running and waiting requests and KV use; NaN where it does not tell."""

NO_HISTOGRAM = Histogram((), (), 0.0)
"""Of an engine that does not keep it."""

_MARGIN_S = 1e-3
"""A view is taken anew this much before its rows change, so that no rounding of a time can make it outlive them."""


class Layout:
    """How the rows of one set of histogram bounds are laid out. One object for equal bounds."""

    def __init__(self, queue: tuple[float, ...], ttft: tuple[float, ...], inter_token: tuple[float, ...]) -> None:
        self.bounds = (queue, ttft, inter_token)
        ends = np.cumsum([COUNTS, len(queue), len(ttft), len(inter_token)]).tolist()
        self.counts = tuple(slice(start, end) for start, end in pairwise(ends))
        self.pack = struct.Struct(f"<{ends[-1]}d").pack

    def pack_partial(self, sample: MetricSample, at: float) -> bytes:
        """The row of a sample that lacks something: NaN stands for what is absent."""
        numbers = [
            NaN if value is None else value
            for value in (
                at,
                sample.requests_running,
                sample.requests_waiting,
                sample.kv_cache_use,
                sample.prompt_tokens_total,
                sample.generation_tokens_total,
                sample.preemptions_total,
                sample.requests_finished_total,
            )
        ]
        numbers.insert(ARRIVED, numbers[-1] + numbers[RUNNING] + numbers[WAITING])
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        sums: list[float] = []
        counts: list[float] = []
        for histogram, bounds in zip(histograms, self.bounds, strict=True):
            known = histogram or (Histogram(bounds, (NaN,) * len(bounds), NaN) if bounds else NO_HISTOGRAM)
            sums.append(known.total)
            counts += known.counts
        return self.pack(*numbers, *sums, *counts)


@dataclass(slots=True)
class Replica:
    """One replica's rows by rising time. ``irregular_at`` is the latest row that lacks what its neighbour has (or has
    what that lacks), or shows a counter below the one before: views that reach back over it go row by row."""

    replica_id: str
    layout: Layout
    times: list[float] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    irregular_at: float = -math.inf
    last_prompt: float = 0.0
    whole: bool = True

    def insert(self, at: float, row: bytes) -> bool:
        """Put a row where its time wants it; False if that time is taken."""
        index = bisect_left(self.times, at)
        if index < len(self.times) and self.times[index] == at:
            return False
        self.times.insert(index, at)
        self.rows.insert(index, row)
        for later in (index, index + 1):
            if 0 < later < len(self.times):
                before, after = self.matrix(later - 1, later)
                if after[PROMPT] < before[PROMPT] or (np.isnan(before) != np.isnan(after)).any():
                    self.irregular_at = max(self.irregular_at, self.times[later])
        newest = self.matrix(len(self.rows) - 1, len(self.rows) - 1)
        self.last_prompt, self.whole = newest.item(PROMPT), not np.isnan(newest).any()
        return True

    def value(self, index: int, column: int) -> float:
        return float(_DOUBLE.unpack_from(self.rows[index], 8 * column)[0])

    def matrix(self, first: int, last: int) -> Floats:
        """Rows ``first`` to ``last``, both included."""
        return np.frombuffer(b"".join(self.rows[first : last + 1])).reshape(last + 1 - first, -1)

    def gained(self, base: int, latest: int) -> Floats:
        """The increase of each column from ARRIVED on, row by row: an absent value is passed over, and where any
        counter falls the engine restarted, so that all count from zero again. NaN where there never was a value."""
        rows = self.matrix(base, latest)[:, ARRIVED:]
        previous = rows[0].copy()
        total = np.zeros_like(previous)
        for row in rows[1:]:
            known = np.where(np.isnan(row), previous, row)
            restarted = bool((known[PROMPT - ARRIVED :] < previous[PROMPT - ARRIVED :]).any())
            step = known if restarted else known - previous
            total += np.where(np.isnan(step), 0.0, step)
            previous = known
        return np.where(np.isnan(previous), NaN, total)

    def known_gauge(self, latest: int, column: int, since: float) -> float:
        """The gauge's last value at or before row ``latest`` but not before ``since``."""
        for index in range(latest, -1, -1):
            if self.times[index] < since:
                break
            value = self.value(index, column)
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
        _, _, waiting, _, arrived, prompt = _HEAD.unpack_from(self.rows[latest])
        if not waiting > 0.0:
            return 0.0
        started = arrived - waiting
        for index in range(latest - 1, -1, -1):
            arrived_later, prompt_later = arrived, prompt
            _, _, waiting, _, arrived, prompt = _HEAD.unpack_from(self.rows[index])
            if prompt_later < prompt:  # the engine restarted in between
                return self.times[latest] - self.times[index + 1]
            if arrived <= started or waiting == 0.0:
                # Between the two rows n came; the next after those that had left is as likely anywhere among them.
                share = (started + 1.0 - arrived) / (arrived_later - arrived + 1.0) if arrived_later > arrived else 0.5
                if not 0.0 <= share <= 1.0:
                    share = 0.5
                return self.times[latest] - self.times[index] - share * (self.times[index + 1] - self.times[index])
        return self.times[latest] - self.times[0]


class Engines:
    """The rows of one model's replicas: at most one for each scrape of the last ``retention_s``, of 76 doubles."""

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
        running, waiting = sample.requests_running, sample.requests_waiting
        prompt, finished = sample.prompt_tokens_total, sample.requests_finished_total
        if (
            running is None
            or waiting is None
            or prompt is None
            or finished is None
            or sample.kv_cache_use is None
            or sample.generation_tokens_total is None
            or sample.preemptions_total is None
            # Pages share one tuple for equal bounds, so that identity mostly settles it.
            or replica.layout.bounds != (queue.bounds, ttft.bounds, inter_token.bounds)
        ):
            return self._observe_unusual(replica, sample, at)
        numbers = (
            at,
            running,
            waiting,
            sample.kv_cache_use,
            finished + running + waiting,
            prompt,
            sample.generation_tokens_total,
            sample.preemptions_total,
            finished,
            queue.total,
            ttft.total,
            inter_token.total,
        )
        # One tuple passed as it is: packing from three unpacked ones takes twice as long.
        row = replica.layout.pack(*(numbers + queue.counts + ttft.counts + inter_token.counts))
        times = replica.times
        if times and (at <= times[-1] or not replica.whole):
            return replica.insert(at, row)
        if prompt < replica.last_prompt:
            replica.irregular_at = at
        replica.last_prompt = prompt
        times.append(at)
        replica.rows.append(row)
        return True

    def _observe_unusual(self, replica: Replica, sample: MetricSample, at: float) -> bool:
        """A sample that lacks something, or has other histogram bounds than those before."""
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        known = zip(histograms, replica.layout.bounds, strict=True)
        fits = all(histogram is None or histogram.bounds == bounds for histogram, bounds in known)
        if not fits and not self._relaid(replica, sample, at):
            return False
        return replica.insert(at, replica.layout.pack_partial(sample, at))

    def _relaid(self, replica: Replica, sample: MetricSample, at: float) -> bool:
        """Begin anew with other histogram bounds (another engine version took over); False for a straggler of the
        former ones."""
        if replica.times and at <= replica.times[-1]:
            return False
        self._view = None
        replica.times.clear()
        replica.rows.clear()
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
                del replica.times[:stale], replica.rows[:stale]
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
        view = EngineView(t)
        parts: dict[Layout, Part] = {}
        layout: Layout | None = None
        since, base_at = t - self.patience_s, t - self._smoothing_s
        changes_at = next_base_at = oldest_at = math.inf
        for replica in self._ordered:
            times, rows = replica.times, replica.rows
            latest = len(times) - 1
            if times[latest] > t:
                latest = bisect_right(times, t) - 1
                changes_at = min(changes_at, times[latest + 1])
                if latest < 0:
                    continue
            latest_at = times[latest]
            if latest_at < since:
                view.silent.append(replica.replica_id)
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
            latest_rows.append(rows[latest])
            base_rows.append(rows[base])
        for part in parts.values():
            part.measure(since)
        view.parts.extend(parts.values())
        changes_at = min(changes_at, next_base_at + self._smoothing_s, oldest_at + self.patience_s)
        view.until = max(t, changes_at - _MARGIN_S)
        return view


class Part:
    """The replicas of one layout in a view: lists by replica, then what they come to together."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.replicas: list[Replica] = []
        self.latest: list[bytes] = []
        self.base: list[bytes] = []
        self.irregular: list[tuple[int, int, int]] = []
        self.gauges: list[Gauges] = []
        self.rates: list[float] = []
        self.totals: list[float] = []

    def measure(self, since: float) -> None:
        """Fill in gauges by replica, rates and increases of all together."""
        columns = len(self.latest[0]) // _DOUBLE.size
        rows = np.ndarray((2, len(self.latest), columns), np.float64, b"".join(self.latest + self.base))
        latest_rows, base_rows = rows
        gained = latest_rows - base_rows
        self.gauges = latest_rows[:, :ARRIVED].tolist()
        for index, latest, base in self.irregular:
            replica = self.replicas[index]
            gained[index, ARRIVED:] = replica.gained(base, latest)
            gauges = (RUNNING, WAITING, KV_CACHE_USE)
            self.gauges[index][RUNNING:] = [replica.known_gauge(latest, gauge, since) for gauge in gauges]
        self.totals = np.add.reduce(gained).tolist()
        # A replica seen once has a span of 0 and no rate yet.
        per_s = [1.0 / span_s if span_s else 0.0 for span_s in gained[:, AT].tolist()]
        rated = gained[:, ARRIVED : ARRIVED + len(RATES)].T.tolist()
        self.rates = [sum(map(mul, increases, per_s)) for increases in rated]

    def histogram(self, which: int) -> tuple[Sequence[float], list[float], float]:
        """Bounds, cumulative counts and sum of what was observed in the span of the view."""
        return self.layout.bounds[which], self.totals[self.layout.counts[which]], self.totals[SUMS + which]


@dataclass(slots=True)
class EngineView:
    """What the replicas said at ``t``, and would say at any time up to ``until``: those that report within patience,
    and those that fell silent."""

    t: float
    until: float = math.inf
    silent: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    _loads: tuple[ReplicaLoad, ...] | None = None

    def gauges(self) -> dict[str, Gauges]:
        """Of each reporting replica."""
        return {
            replica.replica_id: gauges
            for part in self.parts
            for replica, gauges in zip(part.replicas, part.gauges, strict=True)
        }

    @property
    def oldest_at(self) -> float:
        """The time of the oldest row that counts."""
        return min([gauges[AT] for part in self.parts for gauges in part.gauges])

    def rates(self) -> dict[Signal, float]:
        """Per second, of those that every replica tells; empty until one was scraped twice."""
        if not any(part.totals[AT] for part in self.parts):
            return {}
        rates = map(sum, zip(*[part.rates for part in self.parts], strict=True))
        return {signal: max(rate, 0.0) for signal, rate in zip(RATES, rates, strict=True) if rate == rate}

    def quantile(self, which: int, q: float) -> float | None:
        """Of histogram ``which`` (queue time, time to first token, inter-token); NaN if a replica does not tell it,
        None if nothing was observed."""
        if not any(part.layout.bounds[which] for part in self.parts):
            return NaN
        bounds, counts, total = merged([part.histogram(which) for part in self.parts])
        if not bounds or counts[-1] != counts[-1]:
            return NaN
        return prometheus_quantile(q, bounds, counts, total)

    def queue_age_s(self, replica_ids: Collection[str]) -> float:
        """The oldest waiting request's age, over the replicas given."""
        return max(
            [
                replica.queue_age_s(self.t)
                for part in self.parts
                for replica, gauges in zip(part.replicas, part.gauges, strict=True)
                if gauges[WAITING] > 0.0 and replica.replica_id in replica_ids
            ],
            default=0.0,
        )

    def loads(self) -> tuple[ReplicaLoad, ...]:
        """The gauges of each reporting replica that tells how many requests it has, by id."""
        if self._loads is None:
            self._loads = self._made_loads()
        return self._loads

    def _made_loads(self) -> tuple[ReplicaLoad, ...]:
        loads = [
            ReplicaLoad(replica.replica_id, at, running, waiting, kv if kv == kv else 0.0)
            for part in self.parts
            for replica, (at, running, waiting, kv) in zip(part.replicas, part.gauges, strict=True)
            if running == running and waiting == waiting
        ]
        return tuple(loads if len(self.parts) < 2 else sorted(loads, key=lambda load: load.replica_id))
