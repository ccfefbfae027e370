"""Cutting and scaling a trace, lazily. Everything here is a function of its arguments and the seed; time is never
compressed, since the gaps between requests are what an autoscaler is judged on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from broker.model.errors import ConfigError
from broker.model.units import format_duration, parse_duration_s
from traces.blocks import BLOCK_ROWS, EMPTY, NONE, Bools, Floats, Ints, Names, RequestBlock, joined, merged
from traces.options import RequestKind, ScaleMethod
from traces.randomness import Draws
from traces.schema import KINDS, Requests, TraceRequest, as_requests

REPEAT_JITTER_S = 0.1
"""Repeated arrivals spread over this: far below any scaling decision, far above what would be one packet."""

_DAY_S = 86_400.0
_COPY_OFFSET_WITHIN_DAY_S = 600.0


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds from the trace's start; ``end_s`` is not in it and may be infinite."""

    start_s: float
    end_s: float

    def __str__(self) -> str:
        """As ``parse_window`` reads it."""
        start = format_duration(self.start_s) if self.start_s else ""
        return f"{start}..{format_duration(self.end_s) if math.isfinite(self.end_s) else ''}"


WHOLE = Window(0.0, math.inf)


def parse_window(text: str) -> Window:
    """``10m..20m``, ``..1h`` or ``30m..``. Raises ``ConfigError``."""
    start, dots, end = text.partition("..")
    try:
        if not dots or ".." in end:
            raise ValueError(f"{text!r} is not a window; write for example 10m..20m, ..1h or 30m..")
        window = Window(parse_duration_s(start) if start else 0.0, parse_duration_s(end) if end else math.inf)
        if window.end_s <= window.start_s:
            raise ValueError(f"{text!r} ends before it begins; write for example 10m..20m")
    except ValueError as error:
        raise ConfigError(str(error), field="window") from None
    return window


def window(requests: Iterable[TraceRequest], start_s: float, end_s: float = math.inf) -> Requests:
    """The requests that arrive in [``start_s``, ``end_s``), their arrivals counted from ``start_s``."""

    source = as_requests(requests)

    def make() -> Iterator[RequestBlock]:
        for block in source.blocks():
            first, last = np.searchsorted(block.arrival_s, (start_s, end_s))
            if last > first:
                part = block.take(slice(first, last))
                yield part.at(part.arrival_s - start_s)
            if last < len(block):
                return

    return source.derived(make)


def of_kind(requests: Iterable[TraceRequest], kind: RequestKind) -> Requests:
    """The requests of one kind. BurstGPT's two streams are scaled apart: only conversations follow the day."""
    return _chosen(as_requests(requests), lambda block: block.kind == KINDS.index(kind))


def of_model(requests: Requests, model: str) -> Requests:
    """The requests that were recorded for this model."""
    return _chosen(requests, lambda block: block.model == requests.models.code(model))


def asking(model: str, requests: Iterable[TraceRequest]) -> Requests:
    """The same requests to ``model``, whatever they were recorded for."""
    source = as_requests(requests)

    def make() -> Iterator[RequestBlock]:
        for block in source.blocks():
            yield replace(block, model=np.zeros(len(block), dtype=np.int32))

    return Requests(make, Names("models", (model,)), source.tenants)


def together(loads: Sequence[tuple[str, Requests]]) -> Requests:
    """Streams of requests, each with the model that it asks, as one in order of arrival."""
    models, tenants = Names("models", tuple(dict.fromkeys(model for model, _ in loads))), Names("tenants")

    def coded(number: int, model: str, requests: Requests) -> Iterator[RequestBlock]:
        for block in requests.blocks():
            yield one_of_several(block, requests.tenants, number, models.code(model), tenants)

    makers = [functools.partial(coded, number, *load) for number, load in enumerate(loads)]
    return Requests(lambda: merged(makers), models, tenants)


def one_of_several(block: RequestBlock, known: Names, number: int, model: int, tenants: Names) -> RequestBlock:
    """A block of stream ``number`` under the codes of the whole: all to one model, its tenants (``known``) by name,
    its sessions and prefix groups apart from those of other streams."""
    codes = np.array([tenants.code(name) for name in known.names] + [NONE], dtype=np.int32)
    return replace(
        block,
        model=np.full(len(block), model, dtype=np.int32),
        tenant=codes[block.tenant],
        session=renumbered(block.session, number, "load"),
        prefix_group=renumbered(block.prefix_group, number, "load"),
    )


def _chosen(source: Requests, choose: Callable[[RequestBlock], Bools]) -> Requests:
    def make() -> Iterator[RequestBlock]:
        for block in source.blocks():
            part = block.take(choose(block))
            if len(part):
                yield part

    return source.derived(make)


def scale_rate(
    requests: Iterable[TraceRequest], factor: float, seed: int, method: ScaleMethod = ScaleMethod.CORRELATED
) -> Requests:
    """``requests`` at ``factor`` times their rate, in order of arrival.

    Below 1 both methods thin: each session, or each request without one, is kept with probability ``factor``. The
    shape of the rate stays; the chance within small counts grows, as it does for a smaller user base. Sessions are
    kept, repeated and left out whole; copies get sessions and prefix groups of their own. SUPERPOSE reads ``requests``
    several times. Raises ``ConfigError``.
    """
    if not 0 < factor < math.inf:
        raise ConfigError(f"{factor!r} is not a factor; write for example 0.5 or 3", field="rate_scale")
    correlated = factor < 1 or method is ScaleMethod.CORRELATED
    if not correlated and iter(requests) is requests:
        raise ConfigError("superposing reads the requests several times, and these can be read once; use a list")
    source = as_requests(requests)
    scaled = _repeat if correlated else _superpose
    return source.derived(functools.partial(scaled, source, factor, seed))


def _repeat(source: Requests, factor: float, seed: int) -> Iterator[RequestBlock]:
    """Each request floor(factor) times, and once more with the rest as probability; one draw for a whole session."""
    keeping, jitter = Draws(seed, "scale", "keep"), Draws(seed, "scale", "jitter")
    whole, part = divmod(factor, 1.0)
    late = EMPTY  # repeats that jitter has put behind later arrivals
    for first, block in _slices(source, max(1, int(BLOCK_ROWS / (factor + 1)))):
        rows = np.arange(first, first + len(block))
        has_session = block.session != NONE
        chance = keeping.uniforms(has_session, np.where(has_session, block.session, rows))
        times = int(whole) + (chance < part)
        copies = [late]
        for copy in range(int(times.max())):
            chosen = np.flatnonzero(times > copy)
            delay_s = jitter.uniforms(copy, rows[chosen]) * REPEAT_JITTER_S if copy else 0.0
            copies.append(_as_copy(block.take(chosen), block.arrival_s[chosen] + delay_s, copy))
        together = joined(copies).by_arrival()
        ready = int(np.searchsorted(together.arrival_s, block.arrival_s[-1], side="right"))
        if ready:
            yield together.take(slice(ready))
        late = together.take(slice(ready, None))
    if len(late):
        yield late


def _slices(source: Requests, rows: int) -> Iterator[tuple[int, RequestBlock]]:
    """Blocks of at most so many rows, each with the number of its first."""
    number = 0
    for block in source.blocks():
        for begin in range(0, len(block), rows):
            part = block.take(slice(begin, begin + rows))
            yield number, part
            number += len(part)


def _superpose(source: Requests, factor: float, seed: int) -> Iterator[RequestBlock]:
    """The trace and further copies of it, each turned around within the trace's length by an offset of its own."""
    length_s = _length_s(source)
    turning = Draws(seed, "scale", "turn")
    whole, part = divmod(factor, 1.0)
    copies = [source.blocks]
    for copy in range(1, int(whole) + (part > 0)):
        offset_s = _offset_s(length_s, turning, copy)
        rotated = source.derived(functools.partial(_rotated, source, offset_s, length_s, copy))
        copies.append(rotated.blocks if copy < whole else functools.partial(_repeat, rotated, part, seed))
    return merged(copies)


def _length_s(source: Requests) -> float:
    """The period of the rotation: whole days for long traces, so that the hour of the day survives it."""
    count, last_s = 0, 0.0
    for block in source.blocks():
        count, last_s = count + len(block), float(block.arrival_s[-1])
    if last_s >= 2 * _DAY_S:
        return math.ceil(last_s / _DAY_S + 1e-9) * _DAY_S
    return last_s + last_s / max(1, count - 1)


def _offset_s(length_s: float, turning: Draws, copy: int) -> float:
    if length_s < 2 * _DAY_S:
        return turning.uniform(copy) * length_s
    days = int(turning.uniform(copy) * round(length_s / _DAY_S))
    return days * _DAY_S + turning.uniform(copy, 1) * _COPY_OFFSET_WITHIN_DAY_S


def _rotated(source: Requests, offset_s: float, length_s: float, copy: int) -> Iterator[RequestBlock]:
    for block in window(source, offset_s).blocks():
        yield _as_copy(block, block.arrival_s, copy)
    for block in window(source, 0.0, offset_s).blocks():
        yield _as_copy(block, block.arrival_s + (length_s - offset_s), copy)


def _as_copy(block: RequestBlock, arrival_s: Floats, copy: int) -> RequestBlock:
    """Another user's requests: the same lengths, a session and a prefix of their own."""
    if copy == 0:
        return block.at(arrival_s)
    return replace(
        block, arrival_s=arrival_s, session=renumbered(block.session, copy, "copy"),
        prefix_group=renumbered(block.prefix_group, copy, "copy"),
    )  # fmt: skip


def renumbered(numbers: Ints, copy: int, what: str) -> Ints:
    """Numbers that no other copy has; ``NONE`` stays."""
    words = Draws(0, "renumbered", what).words(copy, numbers) >> np.uint64(1)
    return np.where(numbers == NONE, NONE, words.astype(np.int64))
