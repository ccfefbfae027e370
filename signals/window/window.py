"""``SignalWindow``: samples and summaries in, snapshots out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress

from broker.model.reading import Reading, fresh, true_zero
from broker.model.signals import MetricSample, RequestSummary, Signal
from broker.model.snapshot import ModelSnapshot, WindowNeed
from broker.model.window_state import Expectation, WindowState
from signals.window.engines import RUNNING, Engines, EngineView
from signals.window.gateways import INTER_TOKEN, TTFT, Gateways, GatewayView
from signals.window.timeline import SIGNALS, Timeline

SHORTEST_RETENTION_S = 60.0
SMOOTHING_S = 15.0
SKEW_TOLERANCE_S = 2.0

Expected = dict[str, float]
"""The replicas that should report, with the time since when."""

_MARGIN_S = 1e-3
"""See ``engines``: a look is taken anew this much before what it rests on changes."""

_LATENCIES = (
    # signal, quantile, the engines' histogram, the gateways' sketch, who must be absent for a true zero
    (Signal.TTFT_P50, 0.50, 1, TTFT, "waiting"),
    (Signal.TTFT_P95, 0.95, 1, TTFT, "waiting"),
    (Signal.INTER_TOKEN_P95, 0.95, 2, INTER_TOKEN, "running"),
    (Signal.QUEUE_TIME_P95, 0.95, 0, None, "running"),
)
_BY_ENGINES_ONLY = tuple(latency for latency in _LATENCIES if latency[3] is None)


def retention_s(patience_s: float, smoothing_s: float = SMOOTHING_S) -> float:
    """How far back a window of this patience keeps samples."""
    return max(SHORTEST_RETENTION_S, 2.0 * (patience_s + smoothing_s))


@dataclass(slots=True)
class Look:
    """The signals that were usable at ``t`` and, unless something new comes in, at any time up to ``until``."""

    t: float
    until: float
    engines: EngineView
    usable: dict[Signal, Reading]


@dataclass(slots=True)
class EnginesTold:
    """The signals by the engines in ``view``, of whom those ``expected`` should report, at ``t`` up to ``until``.
    ``alone``: no gateway reports, so that all latencies are asked of them."""

    view: EngineView
    expected: Expected | None
    alone: bool
    t: float
    until: float
    usable: dict[Signal, Reading]

    def holds(self, view: EngineView, expected: Expected | None, alone: bool, t: float) -> bool:
        same = view is self.view and expected is self.expected and alone is self.alone
        return same and self.t <= t <= self.until


class SignalWindow:
    """All measurements of one model. Pure: time comes as an argument, and nothing but the samples counts.

    **Time.** A sample stands at its ``observed_at``, or at its ``received_at`` if that is earlier: nothing was
    observed after it was received, so a source whose clock runs ahead is held back (and named in ``skewed``). The
    past is settled ``patience_s`` behind each snapshot: what comes later than that is counted in ``late`` and
    passed over; before that, the order of arrival makes no difference, and duplicates none either.

    **Readings** are taken at ``now``. Gauges are each replica's latest within ``patience_s``. Rates and quantiles look
    back over ``smoothing_s``. A signal is FRESH when everybody reports who should: each expected replica (once it
    has been expected for ``patience_s`` or has reported), or, before ``expect`` was ever called, each that reported
    and was not forgotten. Otherwise it is STALE with its last good value, or ABSENT if there never was one: a sum
    that lacks a replica would look like a lower load. With no replica expected, what only replicas have (running,
    waiting, KV use, tokens) is a true ZERO. A latency of which nothing was observed is ZERO if nobody waits, STALE if
    somebody does: a hung engine must not look fast.

    **Which source.** Gateways see what users see, so queue age, arrivals, failures, time to first token and
    inter-token time come from them while any reports within patience. Engines know their own load, so running,
    waiting, KV use and token counts come from them, and only where they do not tell from the gateways (``waiting``;
    ``in_flight`` less ``waiting``). Gauges count expected replicas only, since what a draining one still has needs no
    capacity; rates count all that report. KV use is the mean over replicas, as gateways spread the load evenly.

    **Queue age** from gateways is the age of the oldest request without a first token, as of the last report; it
    grows on while the next report is overdue. Without gateways it is found from the engines' arrived, running and
    waiting numbers as the age of the oldest in a first-come queue (``Replica.queue_age_s``; it cannot exceed the
    retention), and arrivals are finished requests plus the change of those inside.

    **Windows** look at the signal at each tick, ``phase_s`` after each whole second; see ``WindowReading``. A signal
    that changes back between two ticks goes unseen. A snapshot at a tick costs one look, one between ticks mostly two.

    **Memory.** Each replica keeps one row of 9 numbers and at most 68 doubles of histograms (0.9 KB) for each scrape of
    the retention (twice the patience and the smoothing, at least 60 s); each gateway 0.3 KB for each report of it; the
    model mostly 3 KB (70 at most) for each second of patience and smoothing in which gateways reported, and at most 120
    bytes for each second of the longest need and of half a minute more. Replicas and gateways that have been silent for
    the retention are dropped.
    """

    def __init__(
        self,
        model_id: str,
        needs: tuple[WindowNeed, ...],
        patience_s: float,
        *,
        smoothing_s: float = SMOOTHING_S,
        phase_s: float = 0.0,
        first_sequence: int = 1,
    ) -> None:
        self.model_id = model_id
        self.sequence = first_sequence
        self.late = 0
        self._needs = needs
        self._patience_s = patience_s
        self._smoothing_s = smoothing_s
        self._engines = Engines(patience_s, smoothing_s)
        self._gateways = Gateways(patience_s, smoothing_s, phase_s)
        self._timeline = Timeline(_seconds(needs), phase_s)
        self._expected: list[tuple[float, Expected]] = []
        self._next_tick: int | None = None
        self._looked_to = math.inf
        self._settled_at = -math.inf
        self._evicted_at = -math.inf
        self._waiting: set[str] = set()
        self._skew_s: dict[str, float] = {}
        self._latest: Look | None = None
        self._told: EnginesTold | None = None

    def observe(self, sample: MetricSample | RequestSummary) -> bool:
        """Take in one sample of this model. True if a snapshot is due at once: a replica or gateway appeared, or
        requests wait where none did."""
        at, delay_s = sample.observed_at, sample.received_at - sample.observed_at
        if delay_s < 0.0:
            at = sample.received_at
        in_time = at > self._settled_at
        if isinstance(sample, MetricSample):
            source, waits = sample.replica_id, bool(sample.requests_waiting)
            appeared = source not in self._engines.known
            kept = in_time and self._engines.observe(sample, at)
        else:
            source, waits = sample.gateway_id, sample.waiting > 0
            appeared = source not in self._gateways.known
            kept = in_time and self._gateways.observe(sample, at)
        if not -SKEW_TOLERANCE_S <= delay_s <= SKEW_TOLERANCE_S:
            self._skew_s[source] = delay_s
        elif self._skew_s:
            self._skew_s.pop(source, None)
        if not kept:
            self.late += not in_time
            return False
        if self._latest is not None and at <= self._latest.until:
            self._latest = None
        if at <= self._looked_to:
            self._look_again(at)
        if waits is (source in self._waiting):
            return appeared
        if not waits:
            self._waiting.discard(source)
            return appeared
        self._waiting.add(source)
        return appeared or len(self._waiting) == 1

    def expect(self, replica_ids: Iterable[str], now: float) -> bool:
        """From ``now`` on exactly these replicas (those published) should report. True if that is a change."""
        before = self._expected[-1][1] if self._expected else None
        wanted = set(replica_ids)
        if before is not None and wanted == before.keys():
            return False
        at = max(now, self._expected[-1][0]) if self._expected else now
        self._latest = None
        self._expected.append((at, {replica_id: (before or {}).get(replica_id, at) for replica_id in sorted(wanted)}))
        if self._next_tick is None or at < self._looked_to:
            self._look_again(at)
        return True

    def forget(self, replica_id: str) -> bool:
        """The replica is gone: drop what it said. True if it was known."""
        self._waiting.discard(replica_id)
        self._skew_s.pop(replica_id, None)
        self._latest = None
        return self._engines.forget(replica_id)

    def reconfigure(self, needs: tuple[WindowNeed, ...], patience_s: float) -> None:
        """Other windows, and another patience, from now on. What is known of the past stays."""
        self._needs = needs
        self._patience_s = patience_s
        self._engines.reconfigure(patience_s)
        self._gateways.reconfigure(patience_s)
        self._latest = self._told = None
        if _seconds(needs) != self._timeline.seconds:
            self._timeline.resize(_seconds(needs))

    @property
    def expected_since(self) -> float:
        """Since when those replicas should report that now should."""
        return self._expected[-1][0] if self._expected else -math.inf

    @property
    def phase_s(self) -> float:
        return self._timeline.phase_s

    @property
    def skewed(self) -> dict[str, float]:
        """Replicas and gateways whose last sample was received more than ``SKEW_TOLERANCE_S`` before (negative) or
        after it was observed, and by how much: a clock that is off, or samples that were held up."""
        return dict(self._skew_s)

    def snapshot(self, now: float, received_at: float) -> ModelSnapshot:
        """All that may be known of the model at ``now``."""
        self._gateways.settle()
        timeline = self._timeline
        last = timeline.tick_before(now)
        if self._next_tick is not None:
            back = max(timeline.seconds, math.ceil(self.retention_s))
            tick = max(self._next_tick, last - back + 1)
            while tick <= last:
                look = self._look(timeline.time_of(tick))
                same_to = max(tick, timeline.tick_before(min(look.until, now)))
                timeline.write(tick, same_to, look.usable)
                tick = same_to + 1
            self._next_tick = max(self._next_tick, last + 1)
            self._looked_to = timeline.time_of(self._next_tick - 1)
        look = self._look(now)
        usable = look.usable
        readings = {signal: usable.get(signal) or timeline.last_good(signal) for signal in SIGNALS}
        windows = tuple([timeline.window(need, now, readings[need.signal]) for need in self._needs])
        snapshot = ModelSnapshot(
            self.model_id, self.sequence, now, received_at, readings, windows, look.engines.loads()
        )
        self._settle(now)
        self.sequence += 1
        return snapshot

    def state(self) -> WindowState | None:
        """What is settled, for a successor; None before the first snapshot."""
        if self._settled_at == -math.inf:
            return None
        timeline = self._timeline
        tick = timeline.tick_before(self._settled_at)
        first, values = timeline.values_to(tick, dict.fromkeys(need.signal for need in self._needs))
        expected = tuple([Expectation(at, tuple(replicas)) for at, replicas in self._expected])
        last_good = timeline.last_good_to(tick)
        return WindowState(self.model_id, self.sequence, self._settled_at, first, values, last_good, expected)

    def resume(self, state: WindowState) -> None:
        """Go on from where another window of the model was. To be called when all samples have been observed that are
        not older than ``retention_s`` before ``state.settled_at``."""
        timeline = self._timeline
        timeline.restore(state.first_tick, state.values, state.last_good)
        if state.expected:
            ours = [(at, expected) for at, expected in self._expected if at > state.expected[-1].at]
            self._expected.clear()
            for expectation in state.expected:
                self.expect(expectation.replica_ids, expectation.at)
            for at, expected in ours:
                self.expect(expected, at)
        self.sequence = state.sequence
        self._settled_at = state.settled_at
        self._next_tick = max(timeline.tick_before(state.settled_at) + 1, state.first_tick)
        self._looked_to = timeline.time_of(self._next_tick - 1)
        self._latest = None

    @property
    def retention_s(self) -> float:
        return retention_s(self._patience_s, self._smoothing_s)

    def _look_again(self, at: float) -> None:
        """The ticks from ``at`` on must be looked at (again)."""
        tick = self._timeline.tick_from(at)
        self._next_tick = tick if self._next_tick is None else min(self._next_tick, tick)
        self._looked_to = self._timeline.time_of(self._next_tick - 1)

    def _settle(self, now: float) -> None:
        self._settled_at = max(self._settled_at, now - self._patience_s)
        self._gateways.drop_seconds(self._settled_at)
        if now < self._evicted_at + self._patience_s:
            return
        self._evicted_at = now
        before = now - self.retention_s
        if self._engines.evict(before):
            self._latest = None
        self._gateways.evict(before)
        known = self._engines.known.keys() | self._gateways.known.keys()
        self._waiting &= known
        self._skew_s = {source: skew_s for source, skew_s in self._skew_s.items() if source in known}
        while len(self._expected) > 1 and self._expected[1][0] <= before:
            del self._expected[0]

    def _expected_at(self, t: float) -> tuple[Expected | None, float]:
        """Who should report at ``t``, and when that changes."""
        changes_at = math.inf
        for at, expected in reversed(self._expected):
            if at <= t:
                return expected, changes_at
            changes_at = at
        return None, changes_at

    def _look(self, t: float) -> Look:
        """What there was to see at ``t``; the last look again where it still holds."""
        look = self._latest
        if look is None or not look.t <= t <= look.until:
            look = self._latest = self._looked(t)
        return look

    def _looked(self, t: float) -> Look:
        expected, changes_at = self._expected_at(t)
        engines = self._engines.view(t)
        gateways = self._gateways.view(t)
        until = math.nextafter(changes_at, 0.0)
        if expected is not None and not expected:
            usable = dict.fromkeys(_REPLICAS_ONLY, true_zero(t))
            until = t  # the zero is of now
        else:
            told, alone = self._told, gateways is None
            if told is None or not told.holds(engines, expected, alone, t):
                told = self._told = self._of_engines(engines, expected, alone, t)
            usable = told.usable if gateways is None else dict(told.usable)
            until = min(until, engines.until, told.until)
        if gateways is None:
            until = min(until, self._gateways.silent_until(t))
        else:
            _add_gateways(usable, gateways, expected)
            until = min(until, gateways.until)
        return Look(t, max(t, until), engines, usable)

    def _of_engines(self, view: EngineView, expected: Expected | None, alone: bool, t: float) -> EnginesTold:
        """The signals by the engines' own metrics; none if one is missing that should report."""
        ids, gauges = view.ids, view.gauges
        missing = bool(view.silent)
        until = math.inf
        if expected is not None:
            if ids != list(expected):
                counts = [replica_id in expected for replica_id in ids]
                ids, gauges = list(compress(ids, counts)), [list(compress(column, counts)) for column in gauges]
            if len(ids) == len(expected):
                missing = False
            else:
                absent = {name: expected[name] for name in expected.keys() - set(ids)}
                missing = any(t - since > self._patience_s or name in view.silent for name, since in absent.items())
                if not missing:
                    until = min(absent.values()) + self._patience_s - _MARGIN_S
        if missing or not ids:
            return EnginesTold(view, expected, alone, t, until, {})
        at = view.oldest_at
        running, waiting, kv = map(sum, gauges[RUNNING:])
        numbers = {
            Signal.REQUESTS_RUNNING: running,
            Signal.REQUESTS_WAITING: waiting,
            Signal.REQUESTS_PER_REPLICA: (running + waiting) / len(ids),
            Signal.KV_CACHE_USE: kv / len(ids),
            Signal.QUEUE_AGE: view.queue_age_s(expected) if waiting else waiting,
            **view.rates(),
        }
        usable = {signal: fresh(value, at) for signal, value in numbers.items() if value == value}
        for signal, q, which, _, undecided in _LATENCIES if alone else _BY_ENGINES_ONLY:
            value = view.quantile(which, q)
            if value is None:
                if (waiting if undecided == "waiting" else running + waiting) == 0.0:
                    usable[signal] = true_zero(at)
            elif value == value:
                usable[signal] = fresh(value, at)
        return EnginesTold(view, expected, alone, t, until, usable)


def _add_gateways(usable: dict[Signal, Reading], view: GatewayView, expected: Expected | None) -> None:
    """Adds to the engines' signals what gateways know better, or alone."""
    at = view.observed_at
    usable[Signal.QUEUE_AGE] = fresh(view.queue_age_s, at)
    for signal, rate in view.request_rates().items():
        usable[signal] = fresh(rate, at)
    if Signal.PROMPT_TOKEN_RATE not in usable or Signal.GENERATION_TOKEN_RATE not in usable:
        for signal, rate in view.token_rates().items():
            usable.setdefault(signal, fresh(rate, at))
    for signal, q, _, which, undecided in _LATENCIES:
        if which is not None:
            value = view.quantile(which, q)
            if value is not None:
                usable[signal] = fresh(value, at)
            elif (view.waiting if undecided == "waiting" else view.in_flight) == 0.0:
                usable[signal] = true_zero(at)
    if expected is not None and not expected:
        # What waits at the gateways waits for a first replica.
        usable[Signal.REQUESTS_WAITING] = usable[Signal.REQUESTS_PER_REPLICA] = fresh(view.waiting, at)
    elif Signal.REQUESTS_WAITING not in usable or Signal.REQUESTS_RUNNING not in usable:
        usable[Signal.REQUESTS_WAITING] = fresh(view.waiting, at)
        usable[Signal.REQUESTS_RUNNING] = fresh(max(view.in_flight - view.waiting, 0.0), at)
        if expected:
            usable[Signal.REQUESTS_PER_REPLICA] = fresh(view.in_flight / len(expected), at)


_REPLICAS_ONLY = (
    Signal.REQUESTS_RUNNING,
    Signal.REQUESTS_WAITING,
    Signal.REQUESTS_PER_REPLICA,
    Signal.KV_CACHE_USE,
    Signal.PROMPT_TOKEN_RATE,
    Signal.GENERATION_TOKEN_RATE,
    Signal.PREEMPTION_RATE,
)


def _seconds(needs: tuple[WindowNeed, ...]) -> int:
    """Ticks to keep: the longest need, both ends included, and one for a ``now`` between ticks."""
    return math.ceil(max((need.over_s for need in needs), default=0.0)) + 2
