"""What a trace says: one request, what reading it counted, and what the whole looks like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from traces.blocks import BLOCK_ROWS, NONE, BlockMaker, Names, RequestBlock, request_block
from traces.options import RequestKind

KINDS = tuple(RequestKind)
"""A block's ``kind`` is an index of these."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace: one row of a ``RequestBlock``.

    ``arrival_s`` counts from the trace's first request. ``failed`` marks a request that got no answer where it was
    recorded (no output tokens): it is counted and never replayed. ``prompt_tokens`` may be 0 where the trace says so.
    ``session`` groups the requests of one conversation, ``prefix_group`` those whose prompts begin alike; both are
    numbers that mean nothing else.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    failed: bool = False
    session: int | None = None
    kind: RequestKind | None = None
    model: str | None = None
    tenant: str | None = None
    prefix_group: int | None = None
    prefix_tokens: int = 0


class Requests(Iterable[TraceRequest]):
    """Requests in order of arrival, made anew and lazily on every reading, so that they can be read twice.

    ``blocks()`` gives them as columns, for numpy and the engine kernel; iterating gives them one by one. ``models`` and
    ``tenants`` tell what the codes of those columns stand for; they fill as the requests are read.
    """

    def __init__(self, make: BlockMaker, models: Names | None = None, tenants: Names | None = None) -> None:
        self._make = make
        self.models = models or Names("models")
        self.tenants = tenants or Names("tenants")

    def blocks(self) -> Iterator[RequestBlock]:
        return self._make()

    def derived(self, make: BlockMaker) -> Requests:
        """Other requests with the same models and tenants."""
        return Requests(make, self.models, self.tenants)

    def __iter__(self) -> Iterator[TraceRequest]:
        for block in self.blocks():
            yield from self._rows(block)

    def _rows(self, block: RequestBlock) -> Iterator[TraceRequest]:
        columns = (
            block.arrival_s, block.prompt_tokens, block.output_tokens, block.session, block.kind, block.model,
            block.tenant, block.prefix_group, block.prefix_tokens,
        )  # fmt: skip
        for at, prompt, output, session, kind, model, tenant, group, shared in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield TraceRequest(
                at,
                prompt,
                output,
                output == 0,
                None if session == NONE else session,
                None if kind == NONE else KINDS[kind],
                self.models.name(model),
                self.tenants.name(tenant),
                None if group == NONE else group,
                shared,
            )


def as_requests(rows: Iterable[TraceRequest]) -> Requests:
    """``rows`` with their columns; they must be in order of arrival, and are read again on every reading."""
    if isinstance(rows, Requests):
        return rows
    models, tenants = Names("models"), Names("tenants")

    def number(value: int | None) -> int:
        return NONE if value is None else value

    def make() -> Iterator[RequestBlock]:
        stream = iter(rows)
        while part := list(islice(stream, BLOCK_ROWS)):
            yield request_block(
                [row.arrival_s for row in part],
                [row.prompt_tokens for row in part],
                [0 if row.failed else row.output_tokens for row in part],
                session=[number(row.session) for row in part],
                kind=[NONE if row.kind is None else KINDS.index(row.kind) for row in part],
                model=[models.code(row.model or "") for row in part],
                tenant=[tenants.code(row.tenant or "") for row in part],
                prefix_group=[number(row.prefix_group) for row in part],
                prefix_tokens=[row.prefix_tokens for row in part],
            )

    return Requests(make, models, tenants)


def replayable(requests: Iterable[TraceRequest]) -> Requests:
    """``requests`` without those that failed where they were recorded."""
    source = as_requests(requests)

    def make() -> Iterator[RequestBlock]:
        for block in source.blocks():
            answered = block.output_tokens > 0
            if answered.any():  # a block is never empty: its last arrival is asked for
                yield block if answered.all() else block.take(answered)

    return source.derived(make)


@dataclass(slots=True)
class ReadStatistics:
    """What one pass over a trace has counted so far: whole blocks, so a reading that ends early has counted some rows
    beyond its end.

    ``rows`` are the readable ones, failed requests included; ``bad`` were skipped, the first of them described in
    ``first_bad``. ``began_at`` is the first request's own timestamp in seconds: since the Unix epoch if the format
    has dates, else since wherever the trace counts from.
    """

    rows: int = 0
    failed: int = 0
    bad: int = 0
    first_bad: str = ""
    began_at: float | None = None


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Tokens per replayable request; quantiles are exact (nearest rank)."""

    total: int
    mean: float
    p50: int
    p95: int
    p99: int
    largest: int


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What ``trace info`` tells; ``broker.model.wire.encode`` gives its JSON form.

    Rates and burstiness are over all rows, tokens over those that did not fail. ``dispersion_per_min`` is the
    variance of the requests in whole minutes over their mean (1 for Poisson), ``gap_cv`` the coefficient of
    variation of the gaps between arrivals (1 for Poisson), ``daily_correlation`` the autocorrelation of hourly
    counts at 24 h, present for traces of two days and more: near 1, load follows the day. The longest gap begins at
    second ``longest_gap_at_s``. ``prefix_share`` is the share of all prompt tokens that an earlier request of the same
    prefix group had, None where the trace does not tell.
    """

    path: str
    format: str
    rows: int
    failed: int
    bad: int
    first_bad: str
    began_at: float
    span_s: float
    mean_per_min: float
    peak_per_min: int
    dispersion_per_min: float | None
    gap_cv: float | None
    daily_correlation: float | None
    prompt: TokenStatistics | None
    output: TokenStatistics | None
    kinds: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, int] = field(default_factory=dict)
    tenants: Mapping[str, int] = field(default_factory=dict)
    has_sessions: bool = False
    prefix_share: float | None = None
    longest_gap_s: float = 0.0
    longest_gap_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ShapeInfo:
    """What ``trace info`` tells of a file that holds rates or histograms and no requests."""

    path: str
    format: str
    figures: Mapping[str, float]
