"""Fits a ``LoadProfile`` to the requests of a trace or of a gateway's own log, to be shared in their place.

A profile holds no row of what it was fitted to: every quantile is the mean of ten neighbouring requests at least,
rates are by hour of the week over the whole, tenants are nameless shares, and those with fewer than ten requests are
left out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from broker.model.errors import TraceError
from traces.blocks import NONE, Floats, Ints, RequestBlock
from traces.describe import daily_correlation
from traces.generate import LoadProfile
from traces.lengths import TokenQuantiles
from traces.options import RequestKind
from traces.randomness import Draws
from traces.rates import HourLevels
from traces.readers import open_trace
from traces.schema import Requests, TraceRequest, as_requests
from traces.sessions import NOMINAL_TOKEN_S, SessionShape
from traces.shape import of_kind
from traces.tables import number, read_table

_RATE_BIN_S = 300.0
_LEAST_PER_BIN = 50
"""Within a bin the rate counts as constant; fewer arrivals would take the burstiness out together with the trend."""

_LEAST_REQUESTS = 100
_NEIGHBOURS = 10
_LEAST_FOLLOW_UPS = 30
_PAIRS = 262_144
_OPEN_SESSIONS = 262_144
_SHORTEST_PAUSE_S = 0.1
_LONGEST_S = 10 * 366 * 86_400.0
_DATED_S = 1e8
"""A first timestamp above this is a date; below, the trace counts from its own beginning."""

_PROBABILITIES = (0.0, 0.01, 0.05, *(i / 20 for i in range(2, 19)), 0.95, 0.975, 0.99, 0.999, 1.0)
_FOLLOWS_DAY = 0.3
"""Autocorrelation at 24 h: BurstGPT's conversations have 0.79, its programs less than 0.1."""

_WEEK_H = 168
_FIRST_MONDAY_H = 96
"""The epoch began on a Thursday; its first Monday came four days later."""


def fit_file(
    path: str | Path, *, name: str, provenance: str, kind: RequestKind | None = None, hourly: str | Path | None = None,
    skip_bad: bool = False,
) -> LoadProfile:  # fmt: skip
    """The profile of a trace file, or of its requests of one ``kind``. ``hourly`` takes the shape of the day from
    counts by hour (a CSV with a column named like the kind, or ``all``) where the trace is too short.

    Raises ``TraceError``.
    """
    reader = open_trace(path, skip_bad=skip_bad)
    next(reader.blocks())
    requests = reader if kind is None else of_kind(reader, kind)
    counts = None
    if hourly is not None:
        column = "all" if kind is None else kind.value
        counts = [count for (count,) in read_table(Path(hourly), (column,), (number,))]
    began_at = reader.statistics.began_at or 0.0
    return fit_profile(requests, name=name, provenance=provenance, began_at=began_at, hourly=counts)


def fit_profile(
    requests: Iterable[TraceRequest], *, name: str, provenance: str, began_at: float = 0.0,
    hourly: Sequence[float] | None = None,
) -> LoadProfile:  # fmt: skip
    """The profile of these requests, failed ones left out; they are read twice. ``began_at`` is the epoch second of
    second 0. Memory grows with the distinct token counts and the hours, not with the requests.

    Raises ``TraceError`` for fewer than 100 requests.
    """
    source = as_requests(requests)
    tally = _Tally()
    for block in source.blocks():
        tally.add(block.take(block.output_tokens > 0))
    if tally.requests < _LEAST_REQUESTS:
        raise TraceError(f"{tally.requests} requests are too few to fit a profile; it takes {_LEAST_REQUESTS}")
    prompt, output = tally.pairs()
    by_hour = tally.by_hour() if hourly is None else list(hourly)
    follows_day = (daily_correlation(by_hour) or 0.0) >= _FOLLOWS_DAY
    return LoadProfile(
        name=name,
        provenance=provenance,
        requests=tally.requests,
        arrival_cv=round(_arrival_cv(source, tally), 4),
        prompt=tally.prompt.quantiles(),
        output=tally.output.quantiles(),
        correlation=round(normal_score_correlation(prompt, output), 4),
        hourly_shape=hourly_shape(by_hour, 0.0 if hourly else began_at) if follows_day else (),
        hour_levels=None if follows_day else hour_levels(by_hour),
        mean_per_s=float(f"{tally.requests / max(tally.last_s, 1.0):.4g}"),
        sessions=tally.sessions(),
        tenants=tally.tenant_shares(),
    )


class _Counts:
    """How often each value came."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, values: Ints) -> None:
        distinct, counts = np.unique(values, return_counts=True)
        for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            self._counts[value] = self._counts.get(value, 0) + count

    def quantiles(self) -> TokenQuantiles:
        means = self.means()
        return TokenQuantiles(_PROBABILITIES, tuple(round(max(1.0, mean), 1) for mean in means.tolist()))

    def means(self) -> Floats:
        """Quantiles, each the mean of the ten values around its rank."""
        values = np.array(sorted(self._counts), dtype=float)
        counts = np.array([self._counts[int(value)] for value in values])
        upto = np.concatenate(([0], np.cumsum(counts)))
        sums = np.concatenate(([0.0], np.cumsum(values * counts)))
        total = int(upto[-1])
        width = min(_NEIGHBOURS, total)
        begin = np.clip(np.array(_PROBABILITIES) * (total - 1) - (width - 1) / 2, 0, total - width)
        means: Floats = (np.interp(begin + width, upto, sums) - np.interp(begin, upto, sums)) / width
        return means


class _Followed:
    """Which requests continue a session, and what they add to it."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self.sessions = 0
        self.longest = 0
        self.pauses = 0
        self.pause_logs = 0.0
        self.pause_squares = 0.0

    def added(self, block: RequestBlock) -> Ints:
        """For each request the tokens that it adds to what was said in its session, ``NONE`` if it continues none."""
        added = np.full(len(block), NONE, dtype=np.int64)
        session = np.where(block.session != NONE, block.session, block.prefix_group)
        self.sessions += int((session == NONE).sum())
        rows = np.flatnonzero(session != NONE)
        columns = (block.arrival_s, block.prompt_tokens, block.output_tokens, block.prefix_tokens)
        for row, owner, at, asked, answered, known in zip(
            rows.tolist(), session[rows].tolist(), *(column[rows].tolist() for column in columns), strict=True
        ):
            before = self._open.pop(owner, None)
            self._open[owner] = (at + answered * NOMINAL_TOKEN_S, asked + answered)
            if len(self._open) > _OPEN_SESSIONS:
                self._open.popitem(last=False)
            shared = known or (before[1] if before is not None and before[1] <= asked else 0)
            if before is None or not shared:
                self.sessions += 1
                continue
            added[row] = max(1, asked - shared)
            self.longest = max(self.longest, asked + answered)
            pause = math.log(max(_SHORTEST_PAUSE_S, at - before[0]))
            self.pauses += 1
            self.pause_logs += pause
            self.pause_squares += pause * pause
        return added

    def shape(self, requests: int, added: TokenQuantiles) -> SessionShape:
        mean = self.pause_logs / self.pauses
        return SessionShape(
            turns=round(requests / self.sessions, 3),
            pause_median_s=round(math.exp(mean), 2),
            pause_sigma=round(math.sqrt(max(0.0, self.pause_squares / self.pauses - mean * mean)), 3),
            added=added,
            longest_tokens=2 ** math.ceil(math.log2(self.longest)),
        )


class _Tally:
    """Running sums over the answered requests, in order of arrival."""

    def __init__(self) -> None:
        self.requests = 0
        self.last_s = 0.0
        self.prompt, self.output, self._added = _Counts(), _Counts(), _Counts()
        self._bins = _Growing(_RATE_BIN_S)
        self._hours = _Growing(3600.0)
        self._tenants: dict[int, int] = {}
        self._pairs: list[tuple[Floats, Ints, Ints]] = []
        self._share = 1.0
        self._draws = Draws(0, "fit", "pairs")
        self._followed = _Followed()
        self.starts = 0

    def add(self, block: RequestBlock) -> None:
        if not len(block):
            return
        prompt, output = np.maximum(1, block.prompt_tokens).astype(np.int64), block.output_tokens.astype(np.int64)
        self._hours.add(block.arrival_s)
        self._sample(prompt, output)
        added = self._followed.added(block)
        first = added == NONE
        self.starts += int(first.sum())
        self._bins.add(block.arrival_s[first])
        self.prompt.add(prompt[first])
        self._added.add(added[added != NONE])
        self.output.add(output)
        tenants, counts = np.unique(block.tenant, return_counts=True)
        for tenant, count in zip(tenants.tolist(), counts.tolist(), strict=True):
            self._tenants[tenant] = self._tenants.get(tenant, 0) + count
        self.requests += len(block)
        self.last_s = float(block.arrival_s[-1])

    def _sample(self, prompt: Ints, output: Ints) -> None:
        """Keeps the pairs of a share of the rows, halved whenever they become too many."""
        chance = self._draws.uniforms(np.arange(self.requests, self.requests + len(prompt)))
        self._pairs.append((chance, prompt, output))
        while sum(len(part[0]) for part in self._pairs) > _PAIRS:
            self._share /= 2
            self._pairs = [(c[kept], p[kept], o[kept]) for c, p, o in self._pairs for kept in (c < self._share,)]
        if self._share < 1:
            kept = self._pairs[-1][0] < self._share
            chance, prompt, output = self._pairs[-1]
            self._pairs[-1] = (chance[kept], prompt[kept], output[kept])

    def pairs(self) -> tuple[Floats, Floats]:
        prompts = np.concatenate([prompt for _, prompt, _ in self._pairs])
        outputs = np.concatenate([output for _, _, output in self._pairs])
        return prompts.astype(float), outputs.astype(float)

    def sessions(self) -> SessionShape | None:
        if self._followed.pauses < _LEAST_FOLLOW_UPS:
            return None
        return self._followed.shape(self.requests, self._added.quantiles())

    def tenant_shares(self) -> tuple[float, ...]:
        counts = sorted((n for code, n in self._tenants.items() if code != NONE and n >= _NEIGHBOURS), reverse=True)
        shares = (round(count / sum(counts), 3) for count in counts)
        return tuple(share for share in shares if share)

    def bins(self) -> NDArray[np.int64]:
        return self._bins.counts(self.last_s)

    def by_hour(self) -> list[float]:
        return [float(count) for count in self._hours.counts(self.last_s)]


class _Growing:
    """Counts in bins of equal width, up to ten years: a mistaken timestamp must not fill the memory."""

    def __init__(self, width_s: float) -> None:
        self._width_s = width_s
        self._counts = np.zeros(1024, dtype=np.int64)

    def add(self, at: Floats) -> None:
        if not len(at):
            return
        index = (np.minimum(at, _LONGEST_S) // self._width_s).astype(np.int64)
        counts = np.bincount(index - index[0])
        needed = int(index[0]) + len(counts)
        if needed > len(self._counts):
            self._counts = np.concatenate((self._counts, np.zeros(needed, dtype=np.int64)))
        self._counts[index[0] : needed] += counts

    def counts(self, last_s: float) -> NDArray[np.int64]:
        return self._counts[: int(min(last_s, _LONGEST_S) // self._width_s) + 1]


def _arrival_cv(source: Requests, tally: _Tally) -> float:
    """Coefficient of variation of the gaps between beginnings of sessions (between requests where there are none), in a
    time that runs with the rate of 300 s bins (or longer ones, of 50 arrivals at least), so that slow changes of the
    rate do not count as burstiness."""
    counts = tally.bins()
    together = max(1, min(len(counts), math.ceil(_LEAST_PER_BIN * len(counts) / tally.starts)))
    edges = np.append(np.arange(0, len(counts), together) * _RATE_BIN_S, tally.last_s + 1e-9)
    upto = np.concatenate(([0.0], np.cumsum(np.add.reduceat(counts, np.arange(0, len(counts), together)))))
    followed = _Followed()
    last: float | None = None
    seen, total, squares = 0, 0.0, 0.0
    for block in source.blocks():
        answered = block.take(block.output_tokens > 0)
        at = np.interp(answered.arrival_s[followed.added(answered) == NONE], edges, upto)
        gaps = np.diff(at if last is None else np.concatenate(([last], at)))
        last = float(at[-1]) if len(at) else last
        seen, total, squares = seen + len(gaps), total + float(gaps.sum()), squares + float(gaps @ gaps)
    mean = total / seen
    return math.sqrt(max(0.0, squares / seen - mean * mean)) / mean


def normal_score_correlation(first: Floats, second: Floats) -> float:
    """The Gaussian copula's correlation that gives the observed rank correlation: 2 sin(pi/6 * Spearman's rho); 0 where
    one of them never changes."""
    first_ranks, second_ranks = _ranks(first), _ranks(second)
    if first_ranks.std() == 0 or second_ranks.std() == 0:
        return 0.0
    return 2 * math.sin(math.pi / 6 * float(np.corrcoef(first_ranks, second_ranks)[0, 1]))


def _ranks(values: Floats) -> Floats:
    """Ranks, ties at their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks


def hourly_shape(hourly: Sequence[float], began_at: float = 0.0) -> tuple[float, ...]:
    """Mean rate of each hour over the mean of all, from the counts of successive hours: of the week from two weeks on,
    of the day from two days on, else (). Dated counts begin with Monday's, or the day's, first hour in UTC."""
    period = _WEEK_H if len(hourly) >= 2 * _WEEK_H else 24
    begin = 0
    if began_at > _DATED_S:
        begin = (int(began_at // 3600) - _FIRST_MONDAY_H) % period
    periods = len(hourly) // period
    if periods < 2:
        return ()
    by_hour = np.asarray(hourly[: periods * period], dtype=float).reshape(periods, period).mean(axis=0)
    if by_hour.mean() == 0:
        return ()
    return tuple(round(float(value), 3) for value in np.roll(by_hour / by_hour.mean(), begin))


def hour_levels(hourly: Sequence[float]) -> HourLevels | None:
    """How the counts of whole hours are distributed, and how one hour's goes with the next's; None below 48 hours."""
    hours = np.asarray(hourly, dtype=float)
    if len(hours) < 48 or hours.mean() == 0:
        return None
    counts = _Counts()
    counts.add(hours.astype(np.int64))
    relative = counts.means() / hours.mean()
    persistence = min(0.999, max(0.0, normal_score_correlation(hours[:-1], hours[1:])))
    return HourLevels(_PROBABILITIES, tuple(round(level, 3) for level in relative.tolist()), round(persistence, 3))
