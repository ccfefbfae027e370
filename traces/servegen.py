"""ServeGen's shapes of production services (arXiv 2505.09999): rates, clients and token histograms, no requests.

A service is described by three files: the rate of all by 10 minutes; for each client and 600 s window its rate and the
family of its gaps; histograms of tokens by 6 hours. Requests are made from the latter two: each client is a renewal
process of its own, its gaps of the window's family and shape, their mean 1 / rate; all are added up; lengths come from
the window's histogram, prompt and answer independently, since the histograms do not tell them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from broker.model.errors import TraceError
from traces.blocks import BLOCK_ROWS, Floats, Ints, Names, RequestBlock, request_block
from traces.formats import BadRow, split, text_of
from traces.lines import first_line
from traces.randomness import stream
from traces.schema import Requests
from traces.tables import between, number, one_of, read_table, whole

WINDOW_S = 600.0

RATES = ("t_s", "rate_rps")
CLIENTS = ("client", "t_s", "rate_rps", "dist", "p1")
HISTOGRAMS = ("window_s", "field", "bin_lo", "bin_hi", "prob")
_FAMILIES = ("Gamma", "Weibull")
FIELDS = ("input_tokens", "output_tokens")


def shape_columns(path: Path) -> tuple[str, ...] | None:
    """Which of the three files this is, by its columns; None if it is none."""
    line = first_line(path)
    try:
        found = {name.strip() for name in split(text_of(line or b""))}
    except BadRow:
        return None
    return next((columns for columns in (CLIENTS, HISTOGRAMS, RATES) if set(columns) <= found), None)


@dataclass(frozen=True, slots=True, eq=False)
class TokenHistogram:
    """Tokens from ``low`` up to ``high``, left out, with the summed probability ``upto``."""

    low: Ints
    high: Ints
    upto: Floats

    def draw(self, random: np.random.Generator, count: int) -> Ints:
        bins = np.searchsorted(self.upto, random.random(count) * self.upto[-1], side="right")
        low, width = self.low[bins], np.maximum(1, self.high[bins] - self.low[bins])
        drawn: Ints = low + (random.random(count) * width).astype(np.int64)
        return np.maximum(1, drawn)


@dataclass(frozen=True, slots=True, eq=False)
class ServeGenShape:
    """Clients' windows in order of time: when each begins, whose it is, requests per second, family and shape of the
    gaps. ``prompt`` and ``output`` are histograms by the second at which they begin to hold."""

    begins_s: Floats
    client: Ints
    rate_per_s: Floats
    weibull: Ints
    shape: Floats
    prompt: dict[float, TokenHistogram]
    output: dict[float, TokenHistogram]

    @property
    def span_s(self) -> float:
        return float(self.begins_s[-1]) + WINDOW_S

    @property
    def mean_per_s(self) -> float:
        return float(self.rate_per_s.sum()) * WINDOW_S / self.span_s


def read_servegen(clients: str | Path, histograms: str | Path) -> ServeGenShape:
    """The shape of one service. Raises ``TraceError`` with file, line and column."""
    shape_cell = between(1e-3, 1e6, "a shape")
    rows = read_table(Path(clients), CLIENTS, (whole, number, number, one_of(_FAMILIES), shape_cell))
    client, begins_s, rate, weibull, shape = (np.array(column) for column in zip(*rows, strict=True))
    order = np.lexsort((client, begins_s))
    bins: dict[str, dict[float, list[Sequence[float]]]] = {field: {} for field in FIELDS}
    for window_s, field, low, high, share in read_table(
        Path(histograms), HISTOGRAMS, (number, field_place, number, number, number)
    ):
        if field >= 0:
            bins[FIELDS[int(field)]].setdefault(window_s, []).append((low, high, share))
    if not all(bins.values()):
        raise TraceError("holds no histogram of input_tokens and output_tokens", path=str(histograms))
    prompt, output = ({at: _histogram(rows) for at, rows in sorted(bins[field].items())} for field in FIELDS)
    return ServeGenShape(
        begins_s[order], client[order].astype(np.int64), rate[order], weibull[order].astype(np.int64), shape[order],
        prompt, output,
    )  # fmt: skip


def field_place(text: str) -> float:
    """The place among ``FIELDS``, -1 of what else a model's histograms tell (such as the share of reasoning)."""
    return float(FIELDS.index(text)) if text in FIELDS else -1.0


def _histogram(bins: Sequence[Sequence[float]]) -> TokenHistogram:
    low, high, share = (np.array(column) for column in zip(*bins, strict=True))
    return TokenHistogram(low.astype(np.int64), high.astype(np.int64), np.cumsum(share))


def servegen_requests(shape: ServeGenShape, seed: int, *, rate_scale: float = 1.0, name: str = "load") -> Requests:
    """Requests of this shape, in order of arrival, at ``rate_scale`` times the rate with each client's burstiness kept.

    Each client is a tenant. Call them "ServeGen m-small-shaped".
    """
    count = int(shape.client.max()) + 1
    tenants = Names("tenants", [f"client-{client}" for client in range(count)])
    return Requests(lambda: _generate(shape, seed, rate_scale, name), tenants=tenants)


class _Client:
    """A renewal process in a time that runs with the client's rate: gaps have mean 1. It stands still while the client
    is away, and goes on where it stood when the window changes."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._wait: float | None = None

    def arrivals(self, expected: float, weibull: bool, shape: float) -> Floats:
        """Positions in [0, expected) of the arrivals of a window in which so many are expected."""
        if self._wait is None:
            self._wait = self._first(weibull, shape)
        found: list[Floats] = []
        at = self._wait
        while at < expected:
            gaps = self._gaps(weibull, shape, int(1.1 * (expected - at)) + 16)
            positions = at + np.concatenate(([0.0], np.cumsum(gaps)))
            found.append(positions[:-1])
            at = float(positions[-1])
        reached = np.concatenate((*found, [at]))
        inside = int(np.searchsorted(reached, expected))
        self._wait = float(reached[inside]) - expected
        return reached[:inside]

    def _gaps(self, weibull: bool, shape: float, count: int) -> Floats:
        if weibull:
            return self._random.weibull(shape, count) / math.gamma(1 + 1 / shape)
        return self._random.gamma(shape, 1 / shape, count)

    def _first(self, weibull: bool, shape: float) -> float:
        """The wait of somebody who looks at any time: a uniform part of a gap that is drawn by its length."""
        if weibull:
            gap = self._random.gamma(1 + 1 / shape) ** (1 / shape) / math.gamma(1 + 1 / shape)
        else:
            gap = self._random.gamma(shape + 1) / shape
        return float(self._random.random() * gap)


def _generate(shape: ServeGenShape, seed: int, rate_scale: float, name: str) -> Iterator[RequestBlock]:
    clients: dict[int, _Client] = {}
    lengths = stream(seed, name, "lengths")
    edges = np.flatnonzero(np.diff(shape.begins_s, prepend=-np.inf))
    for begin, end in zip(edges, np.append(edges[1:], len(shape.begins_s)), strict=True):
        window_s = float(shape.begins_s[begin])
        expected = rate_scale * float(shape.rate_per_s[begin:end].sum()) * WINDOW_S
        parts = max(1, math.ceil(expected / (4 * BLOCK_ROWS)))
        part_s = WINDOW_S / parts
        for part in range(parts):
            arrivals, owners = [], []
            for row in range(begin, end):
                rate = rate_scale * float(shape.rate_per_s[row])
                if rate <= 0:
                    continue
                owner = int(shape.client[row])
                if owner not in clients:
                    clients[owner] = _Client(stream(seed, name, f"client {owner}"))
                found = clients[owner].arrivals(rate * part_s, bool(shape.weibull[row]), float(shape.shape[row]))
                arrivals.append(found / rate)
                owners.append(np.full(len(found), owner))
            if arrivals:
                yield from _block(shape, lengths, window_s, window_s + part * part_s, arrivals, owners)


def _block(
    shape: ServeGenShape, lengths: np.random.Generator, window_s: float, begin_s: float, arrivals: Sequence[Floats],
    owners: Sequence[Ints],
) -> Iterator[RequestBlock]:  # fmt: skip
    at = np.concatenate(arrivals)
    if not len(at):
        return
    order = np.argsort(at, kind="stable")
    yield request_block(
        begin_s + at[order],
        _holding(shape.prompt, window_s).draw(lengths, len(at)),
        _holding(shape.output, window_s).draw(lengths, len(at)),
        tenant=np.concatenate(owners)[order],
    )


def _holding(histograms: dict[float, TokenHistogram], at_s: float) -> TokenHistogram:
    """The histogram that holds at this second: the last that has begun, the first before that."""
    begun = [begins_s for begins_s in histograms if begins_s <= at_s]
    return histograms[max(begun) if begun else min(histograms)]
