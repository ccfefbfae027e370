"""Cutting and scaling a trace, lazily. Everything here is a function of its arguments and the seed; time is never
compressed, since the gaps between requests are what an autoscaler is judged on."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b

from broker.model.errors import ConfigError
from broker.model.units import parse_duration_s
from traces.schema import Requests, TraceRequest

REPEAT_JITTER_S = 0.1
"""Repeated arrivals spread over this: far below any scaling decision, far above what would be one packet."""

_DAY_S = 86_400.0
_COPY_OFFSET_WITHIN_DAY_S = 600.0


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds from the trace's start; ``end_s`` is not in it and may be infinite."""

    start_s: float
    end_s: float


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

    def make() -> Iterator[TraceRequest]:
        for request in requests:
            if request.arrival_s >= end_s:
                return
            if request.arrival_s >= start_s:
                yield replace(request, arrival_s=request.arrival_s - start_s)

    return Requests(make)


class ScaleMethod(StrEnum):
    """How a rate is raised.

    CORRELATED: each user becomes ``factor`` users who do the same at the same time; rate peaks and bursts grow with
    the factor. SUPERPOSE: independent copies of the whole trace, shifted in time, added up; bursts even out. What a
    larger user base would really do lies between the two, so results are stated for both.
    """

    CORRELATED = "correlated"
    SUPERPOSE = "superpose"


def scale_rate(
    requests: Iterable[TraceRequest], factor: float, seed: int, method: ScaleMethod = ScaleMethod.CORRELATED
) -> Requests:
    """``requests`` at ``factor`` times their rate, in order of arrival.

    Below 1 both methods thin: each session, or each request without one, is kept with probability ``factor``. The
    shape of the rate stays; the chance within small counts grows, as it does for a smaller user base. Sessions are
    kept, repeated and left out whole; copies get session names of their own. SUPERPOSE iterates over ``requests``
    several times. Raises ``ConfigError``.
    """
    if not 0 < factor < math.inf:
        raise ConfigError(f"{factor!r} is not a factor; write for example 0.5 or 3", field="rate_scale")
    if factor < 1 or method is ScaleMethod.CORRELATED:
        return Requests(lambda: _repeat(requests, factor, seed))
    if iter(requests) is requests:
        raise ConfigError("superposing reads the requests several times, and these can be read once; use a list")
    return Requests(lambda: _superpose(requests, factor, seed))


def _repeat(requests: Iterable[TraceRequest], factor: float, seed: int) -> Iterator[TraceRequest]:
    """Each request floor(factor) times, and once more with the rest as probability; one draw for a whole session."""
    rng = random.Random(seed)
    whole, part = divmod(factor, 1.0)
    late: list[tuple[float, int, TraceRequest]] = []  # repeats that jitter has put behind later arrivals
    serial = itertools.count()
    for request in requests:
        while late and late[0][0] <= request.arrival_s:
            yield heapq.heappop(late)[2]
        draw = rng.random() if request.session is None else _session_draw(seed, request.session)
        times = int(whole) + (draw < part)
        if times:
            yield request
        for copy in range(1, times):
            delay_s = rng.random() * REPEAT_JITTER_S
            repeated = _as_copy(request, request.arrival_s + delay_s, copy)
            heapq.heappush(late, (repeated.arrival_s, next(serial), repeated))
    while late:
        yield heapq.heappop(late)[2]


def _superpose(requests: Iterable[TraceRequest], factor: float, seed: int) -> Iterator[TraceRequest]:
    """The trace and further copies of it, each turned around within the trace's length by an offset of its own."""
    length_s = _length_s(requests)
    rng = random.Random(seed)
    whole, part = divmod(factor, 1.0)
    copies = [iter(requests)]
    for copy in range(1, int(whole) + (part > 0)):
        offset_s = _offset_s(length_s, rng)
        rotated = _rotated(requests, offset_s, length_s, copy)
        copies.append(rotated if copy < whole else _repeat(rotated, part, seed))
    return heapq.merge(*copies, key=lambda request: request.arrival_s)


def _length_s(requests: Iterable[TraceRequest]) -> float:
    """The period of the rotation: whole days for long traces, so that the hour of the day survives it."""
    count, last_s = 0, 0.0
    for request in requests:
        count, last_s = count + 1, request.arrival_s
    if last_s >= 2 * _DAY_S:
        return math.ceil(last_s / _DAY_S + 1e-9) * _DAY_S
    return last_s + last_s / max(1, count - 1)


def _offset_s(length_s: float, rng: random.Random) -> float:
    if length_s < 2 * _DAY_S:
        return rng.random() * length_s
    return rng.randrange(round(length_s / _DAY_S)) * _DAY_S + rng.random() * _COPY_OFFSET_WITHIN_DAY_S


def _rotated(requests: Iterable[TraceRequest], offset_s: float, length_s: float, copy: int) -> Iterator[TraceRequest]:
    for request in window(requests, offset_s):
        yield _as_copy(request, request.arrival_s, copy)
    for request in window(requests, 0.0, offset_s):
        yield _as_copy(request, request.arrival_s + length_s - offset_s, copy)


def _as_copy(request: TraceRequest, arrival_s: float, copy: int) -> TraceRequest:
    session = None if request.session is None else f"{request.session}#{copy}"
    return replace(request, arrival_s=arrival_s, session=session)


def _session_draw(seed: int, session: str) -> float:
    """Uniform in [0, 1) and the same for all requests of a session, without remembering any."""
    digest = blake2b(f"{seed}/{session}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
