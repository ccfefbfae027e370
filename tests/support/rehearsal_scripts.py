"""Generated scripts for rehearsals: seeded, each with launch, drain, stale signal, failed listing, override, restart.

Times are such that no moment ever falls on a tick or on a deadline of another: see ``_Times``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from broker.model.errors import ActionRejected, ActuatorError, CapacityUnavailable, TransientError
from broker.model.observation import PauseScope, ProbeVerdict
from tests.support import rehearsal
from tests.support.rehearsal import CHAT, CODE, Happening, Moment, Script

LENGTH_S = 14.0
START = 1_700_000_000.0


class _Times:
    """Every interval, phase and deadline of a rehearsal is a whole number of 10 ms, or of 1/64 s (snapshots). Each
    moment has its own remainder in microseconds, none of them one of a 64th: so what follows from one moment cannot
    tie with what follows from another, nor with a tick."""

    def __init__(self, rng: random.Random) -> None:
        self._remainders = iter(rng.sample([rest for rest in range(10_000) if rest % 5], 2_000))

    def near(self, second: float) -> float:
        return START + round(second * 100) / 100 + next(self._remainders) * 1e-6


def generated_script(seed: int) -> Script:
    """The script of this seed, always the same."""
    rng = random.Random(seed)
    times = _Times(rng)
    models = rng.choice(((CHAT,), (CHAT, CODE)))
    silent_from = rng.uniform(5.0, 6.0)
    silence = (silent_from, silent_from + rng.uniform(2.6, 3.0))
    names = tuple(model.model_id for model in models)
    moments = [
        Moment(times.near(second), what, happen)
        for second, what, happen in (*_parts(rng, silence), *_hum(rng, names, silence), *_surprises(rng))
        if 0.0 < second < LENGTH_S
    ]
    return Script(START, START + LENGTH_S, tuple(sorted(moments, key=lambda moment: moment.at)), models)


Draft = tuple[float, str, Happening | None]
Span = tuple[float, float]


def _parts(rng: random.Random, silence: Span) -> Iterator[Draft]:
    """What every script must have; the load of ``_hum`` does the rest. A restart forgets the windows, and what was
    never known is absent, not stale: so none falls into the silence, nor just before it."""
    yield rng.uniform(2.5, 4.5), "override", rehearsal.override("chat", rng.choice((3, 4)), rng.uniform(2.0, 2.5))
    yield rng.uniform(9.0, 11.0), "override", rehearsal.override("chat", 1, rng.uniform(2.0, 9.0))
    yield rng.uniform(1.0, 12.0), "failed listing", rehearsal.listing_fails(rng.choice(("near", "far")), 3)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice((rng.uniform(1.0, silence[0] - 1.5), rng.uniform(silence[1] + 0.1, LENGTH_S - 1.0)))
        yield at, "restart", None


def _hum(rng: random.Random, model_ids: tuple[str, ...], silence: Span) -> Iterator[Draft]:
    """Scrapes, summaries, heartbeats and probes, about one a second; silence for a while in between."""
    busy_to, busy_again = rng.uniform(3.0, 6.0), rng.uniform(8.0, 12.0)
    for second in range(int(LENGTH_S)):
        busy = second < busy_to or busy_again < second < busy_again + 2.0
        for model_id in model_ids:
            waiting = rng.randrange(1, 9) if busy and model_id == "chat" else rng.choice((0, 0, 0, 2))
            running = rng.randrange(3, 20) if waiting else rng.randrange(0, 3)
            kv = rng.choice((0.2, 0.5, 0.95)) if waiting else 0.1
            at = second + rng.uniform(0.0, 0.9)
            if not silence[0] < at < silence[1]:
                yield at, "scrape", rehearsal.scrape(model_id, float(running), float(waiting), kv)
                told = rehearsal.summarise(model_id, rng.randrange(2), rng.uniform(0.5, 4.0), waiting, running)
                yield at + rng.uniform(0.0, 0.1), "summary", told
            if rng.random() < 0.7:
                verdict = rng.choices((ProbeVerdict.READY, ProbeVerdict.LOADING), (9, 1))[0]
                yield second + rng.uniform(0.0, 0.9), "probe", rehearsal.probe(model_id, verdict)
        gateway = second % 2
        in_flight = rng.choice((0, 0, 0, 3))
        yield second + rng.uniform(0.0, 0.9), "report", rehearsal.report(gateway, in_flight, lags=rng.random() < 0.2)


def _surprises(rng: random.Random) -> Iterator[Draft]:
    for _ in range(rng.randrange(2, 6)):
        what, make = rng.choice(_CATALOGUE)
        yield rng.uniform(0.5, LENGTH_S), what, make(rng)
    if rng.random() < 0.4:
        at = rng.uniform(0.5, LENGTH_S)
        scope, name = rng.choice(((PauseScope.ALL, ""), (PauseScope.MODEL, _model(rng)), (PauseScope.POOL, _pool(rng))))
        yield at, "pause", rehearsal.pause(scope, name, True)
        yield at + rng.uniform(0.5, 1.5), "thaw", rehearsal.pause(scope, name, False)


def _pool(rng: random.Random) -> str:
    return rng.choice(("near", "far"))


def _model(rng: random.Random) -> str:
    return rng.choice(("chat", "code"))


def _error(rng: random.Random) -> type[ActuatorError]:
    return rng.choice((TransientError, CapacityUnavailable, ActionRejected, ActuatorError))


_CATALOGUE: tuple[tuple[str, Callable[[random.Random], Happening]], ...] = (
    ("crash", lambda rng: rehearsal.crash(_model(rng), rng.randrange(5))),
    ("failed listing", lambda rng: rehearsal.listing_fails(_pool(rng), rng.randrange(1, 9))),
    ("start fails", lambda rng: rehearsal.start_fails(_pool(rng), _error(rng))),
    ("stop fails", lambda rng: rehearsal.stop_fails(_pool(rng), _error(rng))),
    ("override", lambda rng: rehearsal.override(_model(rng), rng.choice((None, 0, 1, 2, 5)), rng.uniform(0.5, 5.0))),
    ("override cleared", lambda rng: rehearsal.clear_override(_model(rng))),
    ("declared", lambda rng: rehearsal.declare(*rng.choice(((CHAT,), (CHAT, CODE))))),
    ("gateway gone", lambda rng: rehearsal.report(rng.randrange(2), 0, closed=True)),
    ("wrong answer", lambda rng: rehearsal.probe(_model(rng), ProbeVerdict.WRONG, rng.randrange(5))),
    ("unreachable", lambda rng: rehearsal.probe(_model(rng), ProbeVerdict.UNREACHABLE, rng.randrange(5))),
)
