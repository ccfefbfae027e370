"""What the replicas' own metrics say of a model at any time.

Each sample becomes one packed row of doubles: gauges, counters, histogram sums, histogram counts. A view at ``t``
takes each replica's latest row at or before ``t`` and a base row ``smoothing_s`` earlier; all rates and quantiles are
differences of the two, for all replicas in a few numpy calls.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from broker.model.signals import MetricSample, Signal
from broker.model.snapshot import ReplicaLoad
from signals.window.quantiles import Floats, merged, prometheus_quantile

NaN = math.nan

# The columns of a row. ARRIVED is finished + running + waiting: what has ever come in. It is no counter in the strict
# sense, since vLLM forgets a request whose client left (request_success_total{abort} does not count those).
RUNNING, WAITING, ARRIVED, PROMPT = 0, 1, 3, 4
GAUGES = 3
SUMS = 8
COUNTS = 11
_DOUBLE = struct.Struct("<d")

RATES = (
    Signal.ARRIVAL_RATE,
    Signal.PROMPT_TOKEN_RATE,
    Signal.GENERATION_TOKEN_RATE,
    Signal.PREEMPTION_RATE,
)
"""Of the columns from ARRIVED on."""


class Layout:
    """How the rows of one set of histogram bounds are laid out. One object for equal bounds."""

    def __init__(self, queue: tuple[float, ...], ttft: tuple[float, ...], inter_token: tuple[float, ...]) -> None:
        self.bounds = (queue, ttft, inter_token)
        ends = np.cumsum([COUNTS, len(queue), len(ttft), len(inter_token)]).tolist()
        self.counts = tuple(slice(start, end) for start, end in pairwise(ends))
        self.packer = struct.Struct(f"<{ends[-1]}d")

    def pack_partial(self, sample: MetricSample) -> bytes:
        """The row of a sample that lacks something: NaN stands for what is absent."""
        numbers = [
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
        numbers.insert(ARRIVED, numbers[6] + numbers[RUNNING] + numbers[WAITING])
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        sums = [NaN if histogram is None else histogram.total for histogram in histograms]
        counts: list[float] = []
        for histogram, bounds in zip(histograms, self.bounds, strict=True):
            counts += [NaN] * len(bounds) if histogram is None else histogram.counts
        return self.packer.pack(*numbers, *sums, *counts)


@dataclass(slots=True)
class Replica:
    """One replica's rows by rising time. ``irregular_at`` is the latest row that lacks something or shows a counter
    below the one before: views that reach back over it go row by row."""

    replica_id: str
    layout: Layout
    times: list[float] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    irregular_at: float = -math.inf
    last_prompt: float = 0.0

    def insert(self, at: float, row: bytes) -> bool:
        """Put a row where its time wants it; False if that time is taken."""
        index = bisect_left(self.times, at)
        if index < len(self.times) and self.times[index] == at:
            return False
        self.times.insert(index, at)
        self.rows.insert(index, row)
        for later in (index, index + 1):
            if 0 < later < len(self.times) and self.value(later, PROMPT) < self.value(later - 1, PROMPT):
                self.irregular_at = max(self.irregular_at, self.times[later])
        self.last_prompt = self.value(-1, PROMPT)
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

    def queue_age_s(self, latest: int, t: float) -> float:
        """The age at ``t`` of the oldest waiting request, taking the queue as first come, first served.

        All that ever arrived, less what waits, has left the queue; so the oldest that waits is the next to have
        arrived after that number was reached. Going back through the rows finds when; between two rows the arrivals
        are taken as even. Never older than the last moment without a queue, nor than the rows that are kept.
        """
        waiting = self.value(latest, WAITING)
        if not waiting > 0.0:
            return 0.0
        started = self.value(latest, ARRIVED) - waiting
        index = latest - 1
        while index >= 0 and self.times[index] >= self.irregular_at:
            if self.value(index, ARRIVED) <= started or self.value(index, WAITING) == 0.0:
                break
            index -= 1
        later = self.times[index + 1]
        if index < 0 or self.times[index] < self.irregular_at:
            return t - later
        arrived, arrived_later = self.value(index, ARRIVED), self.value(index + 1, ARRIVED)
        share = (started + 1.0 - arrived) / (arrived_later - arrived + 1.0) if arrived_later > arrived else 0.5
        if not 0.0 <= share <= 1.0:
            share = 0.5
        return t - (self.times[index] + share * (later - self.times[index]))


class Engines:
    """The rows of one model's replicas: at most one for each scrape of the last ``retention_s``, of 75 doubles."""

    def __init__(self, patience_s: float, smoothing_s: float) -> None:
        self._patience_s = patience_s
        self._smoothing_s = smoothing_s
        self._replicas: dict[str, Replica] = {}
        self._ordered: list[Replica] = []
        self._layouts: dict[tuple[tuple[float, ...], ...], Layout] = {}

    def __contains__(self, replica_id: str) -> bool:
        return replica_id in self._replicas

    def observe(self, sample: MetricSample, at: float) -> bool:
        """Keep the sample. False for a second one of the same time."""
        replica = self._replicas.get(sample.replica_id) or self._add(sample)
        queue, ttft, inter_token = sample.queue_time, sample.time_to_first_token, sample.inter_token_latency
        running, waiting = sample.requests_running, sample.requests_waiting
        prompt, finished = sample.prompt_tokens_total, sample.requests_finished_total
        if (
            queue is None
            or ttft is None
            or inter_token is None
            or running is None
            or waiting is None
            or prompt is None
            or finished is None
            or sample.kv_cache_use is None
            or sample.generation_tokens_total is None
            or sample.preemptions_total is None
        ):
            return self._observe_partial(replica, sample, at)
        if (queue.bounds, ttft.bounds, inter_token.bounds) != replica.layout.bounds and not self._relaid(
            replica, sample, at
        ):
            return False
        row = replica.layout.packer.pack(
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
            *queue.counts,
            *ttft.counts,
            *inter_token.counts,
        )
        times = replica.times
        if times and at <= times[-1]:
            return replica.insert(at, row)
        if prompt < replica.last_prompt:
            replica.irregular_at = at
        replica.last_prompt = prompt
        times.append(at)
        replica.rows.append(row)
        return True

    def _observe_partial(self, replica: Replica, sample: MetricSample, at: float) -> bool:
        histograms = (sample.queue_time, sample.time_to_first_token, sample.inter_token_latency)
        bounds = zip(histograms, replica.layout.bounds, strict=True)
        known = all(histogram is None or histogram.bounds == known for histogram, known in bounds)
        if not known and not self._relaid(replica, sample, at):
            return False
        kept = replica.insert(at, replica.layout.pack_partial(sample))
        replica.irregular_at = max(replica.irregular_at, at)
        return kept

    def _relaid(self, replica: Replica, sample: MetricSample, at: float) -> bool:
        """Begin anew with other histogram bounds (another engine version took over); False for a straggler of the
        former ones."""
        if replica.times and at <= replica.times[-1]:
            return False
        replica.times.clear()
        replica.rows.clear()
        replica.layout = self._layout_of(sample)
        return True

    def _add(self, sample: MetricSample) -> Replica:
        replica = Replica(sample.replica_id, self._layout_of(sample))
        self._replicas[sample.replica_id] = replica
        self._order()
        return replica

    def _order(self) -> None:
        """By id, so that sums of floats do not depend on who came first."""
        self._ordered = [self._replicas[replica_id] for replica_id in sorted(self._replicas)]

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
        known = self._replicas.pop(replica_id, None) is not None
        self._order()
        return known

    def evict(self, before: float) -> None:
        """Drop rows older than ``before`` (but each replica's last row at that time, the base of later views), and
        replicas that have none since."""
        for replica in self._ordered:
            stale = bisect_right(replica.times, before) - 1
            if stale > 0:
                del replica.times[:stale], replica.rows[:stale]
        ended = [replica.replica_id for replica in self._ordered if replica.times[-1] < before]
        for replica_id in ended:
            self.forget(replica_id)

    def view(self, t: float) -> EngineView:
        """What the replicas said at ``t``."""
        reporting: list[Seen] = []
        silent: list[str] = []
        since, base_at = t - self._patience_s, t - self._smoothing_s
        for replica in self._ordered:
            times = replica.times
            latest = len(times) - 1
            if times[latest] > t:
                latest = bisect_right(times, t) - 1
                if latest < 0:
                    continue
            if times[latest] < since:
                silent.append(replica.replica_id)
            else:
                reporting.append((replica, latest, max(bisect_right(times, base_at) - 1, 0)))
        view = EngineView(t, [replica.replica_id for replica, _, _ in reporting], reporting, silent)
        layouts = {replica.layout for replica, _, _ in reporting}
        for layout in sorted(layouts, key=lambda layout: layout.bounds) if len(layouts) > 1 else layouts:
            view.add(layout, [seen for seen in reporting if seen[0].layout is layout], since)
        return view


Seen = tuple[Replica, int, int]
"""A replica in a view, and the numbers of its latest and base rows."""


@dataclass(slots=True)
class EngineView:
    """What the replicas said at ``t``: those that report within patience, and those that fell silent."""

    t: float
    replica_ids: list[str]
    reporting: list[Seen]
    silent: list[str]
    gauges: dict[str, list[float]] = field(default_factory=dict)
    _rates: list[Floats] = field(default_factory=list)
    _histograms: list[list[tuple[tuple[float, ...], Floats, float]]] = field(default_factory=list)

    def add(self, layout: Layout, seen: list[Seen], since: float) -> None:
        """Measure the replicas of one layout."""
        latest = np.frombuffer(b"".join([replica.rows[latest] for replica, latest, _ in seen])).reshape(len(seen), -1)
        base = np.frombuffer(b"".join([replica.rows[base] for replica, _, base in seen])).reshape(len(seen), -1)
        gained = latest[:, ARRIVED:] - base[:, ARRIVED:]
        spans = [replica.times[latest] - replica.times[base] for replica, latest, base in seen]
        gauges = latest[:, :GAUGES].tolist()
        for index, (replica, last, first) in enumerate(seen):
            self.gauges[replica.replica_id] = gauges[index]
            if replica.times[first] <= replica.irregular_at:
                gained[index] = replica.gained(first, last)
                gauges[index][:] = [replica.known_gauge(last, column, since) for column in range(GAUGES)]
        if any(spans):
            per_s = gained[:, : len(RATES)] / np.array([[span or math.inf] for span in spans])
            self._rates.append(np.add.reduce(per_s))
        total = np.add.reduce(gained[:, SUMS - ARRIVED :])
        self._histograms.append(
            [
                (bounds, total[counts.start - SUMS : counts.stop - SUMS], float(total[which]))
                for which, (bounds, counts) in enumerate(zip(layout.bounds, layout.counts, strict=True))
            ]
        )

    @property
    def oldest_at(self) -> float:
        """The time of the oldest row that counts."""
        return min([replica.times[latest] for replica, latest, _ in self.reporting])

    def rates(self) -> dict[Signal, float]:
        """Per second, of those that every replica tells; empty until one was scraped twice."""
        if not self._rates:
            return {}
        rates = zip(RATES, np.add.reduce(self._rates).tolist(), strict=True)
        return {signal: max(rate, 0.0) for signal, rate in rates if rate == rate}

    def quantile(self, which: int, q: float) -> float | None:
        """Of histogram ``which`` (queue time, time to first token, inter-token); NaN if a replica does not tell it,
        None if nothing was observed."""
        parts = [part[which] for part in self._histograms]
        if not parts or any(not bounds for bounds, _, _ in parts):
            return NaN
        bounds, counts = merged([(bounds, counts) for bounds, counts, _ in parts])
        if counts[-1] != counts[-1]:
            return NaN
        return prometheus_quantile(q, bounds, counts.tolist(), sum(total for _, _, total in parts))

    def queue_age_s(self, replica_ids: Collection[str]) -> float:
        """The oldest waiting request's age, over the replicas given."""
        ages = [
            replica.queue_age_s(latest, self.t)
            for replica, latest, _ in self.reporting
            if self.gauges[replica.replica_id][WAITING] > 0.0 and replica.replica_id in replica_ids
        ]
        return max(ages, default=0.0)

    def loads(self) -> tuple[ReplicaLoad, ...]:
        """The gauges of each reporting replica that tells how many requests it has."""
        loads = []
        for replica, latest, _ in self.reporting:
            running, waiting, kv = self.gauges[replica.replica_id]
            if running == running and waiting == waiting:
                kv = kv if kv == kv else 0.0
                loads.append(ReplicaLoad(replica.replica_id, replica.times[latest], running, waiting, kv))
        return tuple(loads)
