"""A load through one simulated engine: what clients would have measured, and what its gauges would have shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from simulator.engine.profile import EngineProfile
from simulator.engine.requests import Engine, EngineRequest, Finished, FirstToken
from simulator.engine.single import CompiledEngine

Floats: TypeAlias = npt.NDArray[np.float64]
EngineMaker: TypeAlias = Callable[[EngineProfile], Engine]


@dataclass(frozen=True, slots=True)
class Times:
    """One value for each request, in the order in which the requests were given; seconds from the load's beginning,
    and tokens. NaN is a time nobody measured."""

    arrival: Floats
    first_token: Floats
    end: Floats
    output_tokens: Floats

    @property
    def ttft(self) -> Floats:
        """From the client's sending to its first token."""
        return self.first_token - self.arrival

    @property
    def e2e(self) -> Floats:
        return self.end - self.arrival

    @property
    def tpot(self) -> Floats:
        """Mean time between a request's tokens; NaN where there was only one."""
        gaps = self.output_tokens - 1
        return np.where(gaps > 0, (self.end - self.first_token) / np.maximum(gaps, 1), np.nan)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the engine showed at ``at``."""

    at: Floats
    running: Floats
    waiting: Floats
    kv_use: Floats


def replay(
    profile: EngineProfile,
    requests: Sequence[EngineRequest],
    *,
    concurrency: int | None = None,
    sample_at: Sequence[float] = (),
    make: EngineMaker = CompiledEngine,
) -> tuple[Times, Gauges]:
    """Send ``requests`` (in order of arrival) to one engine and let it finish them.

    With ``concurrency`` no more than so many are open at once: a request whose time has come waits at the client for
    another's end, and counts as arriving then, as in ``vllm bench serve --max-concurrency``. The gauges are read at
    ``sample_at`` (ascending), after all that happened by then. Raises ``ValueError`` for a request that the KV cache
    can never hold.
    """
    run = _Replay(make(profile), len(requests))
    looks = list(sample_at)
    gauges = np.zeros((4, len(looks)))
    looked = 0
    for index, request in enumerate(requests):
        due = request.arrival_at
        while looked < len(looks) and looks[looked] < due:
            gauges[:, looked] = run.look(looks[looked])
            looked += 1
        run.advance(due)
        if concurrency is not None:
            due = run.wait_for_room(due, concurrency)
        run.send(index, replace(request, request_id=str(index), arrival_at=due))
    for place in range(looked, len(looks)):
        gauges[:, place] = run.look(looks[place])
    run.advance(math.inf)
    output = np.array([request.output_tokens for request in requests], dtype=np.float64)
    return Times(run.arrival, run.first_token, run.end, output), Gauges(*gauges)


class _Replay:
    """One engine and the times of the requests in it."""

    def __init__(self, engine: Engine, requests: int) -> None:
        self._engine = engine
        self.arrival, self.first_token, self.end = (np.full(requests, np.nan) for _ in range(3))
        self._open = 0
        self._now = -math.inf

    def advance(self, until: float) -> None:
        self._now = max(self._now, until)
        for event in self._engine.advance(self._now):
            if isinstance(event, FirstToken):
                self.first_token[int(event.request_id)] = event.at
            elif isinstance(event, Finished):
                self.end[int(event.request_id)] = event.at
                self._open -= 1

    def wait_for_room(self, due: float, concurrency: int) -> float:
        """When the next may be sent, with the engine advanced to that time."""
        while self._open >= concurrency:
            upcoming = self._engine.next_event_at()
            assert upcoming is not None  # requests are open, so something is going to happen
            self.advance(upcoming)
        return max(due, self._now)

    def send(self, index: int, request: EngineRequest) -> None:
        self.arrival[index] = request.arrival_at
        self._open += 1
        self._engine.add(request)

    def look(self, at: float) -> tuple[float, float, float, float]:
        self.advance(at)
        return at, float(self._engine.running), float(self._engine.waiting), self._engine.kv_use
